"""Calibration on real runs: how like the kept values are between steps, and what reusing them does to the clip.

Similarities come from one instrumented program, whatever its network: every value of a graph can be a further output.
What reuse costs is measured in the clip, stretch by stretch (:class:`vgcomp.rehash.schedule.Stretches`):

* from each full step j of the unmodified run, reuse steps are rolled out one by one; after those to step k - 1 the
  latent is off by ``d[j, k]``;
* what becomes of errors is found by running the unmodified steps on from a few latents that are off by one of them
  (:data:`EVERY` steps apart). Such a run shows how far it is off at every later step, and in the clip. An error is seen
  as a sum of those that runs show at its step, and carried over like them; what is left of it by its length alone;
* the changes that stretches make in the clip add up as vectors. Reuse lags behind always to the same side, so that
  they mostly reinforce each other: lengths alone would promise ten decibels too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vgcomp.backends.torch_module import TorchModule
from vgcomp.program import Program
from vgcomp.rehash.runner import Denoising, Job, Runs, Steps, step_inputs
from vgcomp.rehash.schedule import LEAST_ERROR, NONE, UNKNOWN, Matrix, Schedule, Stretches
from vgcomp.step_cuts.cut import Cut, Kept
from vgcomp.step_cuts.emit import full_program, reuse_program, watched

#: Steps between the runs that show what becomes of errors.
EVERY = 3
#: Of least squares: runs show much the same, which must not be told apart by their noise.
RIDGE = 1e-4
#: Added to what may be zero and is divided by.
TINY = 1e-30


@dataclass(frozen=True)
class Trajectory:
    """An unmodified run: latents before each step and after the last, and what a full program left at each step."""

    latents: tuple[Tensor, ...]
    kept: tuple[tuple[Tensor, ...], ...]


@dataclass(frozen=True)
class Calibration:
    """One cut on some jobs, averaged over them. ``similarity[i, j]``: cosine of the values kept at steps i and j.

    ``stretches``: predicted errors of clips, in the latent's units. ``spread``: clips' largest value less their least.
    """

    cut: Cut
    similarity: Matrix
    stretches: Stretches
    spread: float

    def psnr(self, schedule: Schedule) -> float:
        """Predicted decibels of a schedule's clips to the unmodified ones, of the latent's whole range: their mean."""
        squared = self.stretches.squared_errors(schedule)
        if not squared.any():
            return float("inf")
        return float(np.mean(10 * np.log10(self.spread**2 / np.maximum(squared, LEAST_ERROR))))


def run_full(full: Runs, names: tuple[str, ...], denoising: Denoising, job: Job) -> Trajectory:
    """The unmodified run of a job, with everything that the program gives beside its answer."""
    latents, kept = [job.noise], []
    for i in range(denoising.sampler.steps):
        answer, *rest = full(*step_inputs(names, denoising, job, i, latents[-1]))
        latents.append(denoising.sampler.step(i, latents[-1], answer))
        kept.append(tuple(rest))
    return Trajectory(tuple(latents), tuple(kept))


def similarities(program: Program, values: Sequence[Kept], denoising: Denoising, jobs: Sequence[Job]) -> list[Matrix]:
    """For each value of the graph the cosine of what it is at steps i and j, (steps, steps), averaged over jobs."""
    module = TorchModule(watched(program, values))
    sums = [np.zeros((denoising.sampler.steps,) * 2) for _ in values]
    for job in jobs:
        seen = run_full(module, program.input_names, denoising, job).kept
        for k, total in enumerate(sums):
            total += cosine([step[k] for step in seen])
    return [total / len(jobs) for total in sums]


def cosine(values: Sequence[Tensor]) -> Matrix:
    """Cosines of all pairs; the Gram matrix is accumulated over pieces, so that no second copy of all is held."""
    gram = np.zeros((len(values),) * 2)
    flat = [value.flatten() for value in values]
    for start in range(0, len(flat[0]), 1 << 20):
        piece = torch.stack([value[start : start + (1 << 20)].double() for value in flat])
        gram += (piece @ piece.T).numpy()
    norms = np.sqrt(np.maximum(np.diag(gram), TINY))
    return gram / np.outer(norms, norms)


def calibrate(
    program: Program, cut: Cut, denoising: Denoising, jobs: Sequence[Job], *, longest: int = 8
) -> Calibration:
    """Runs the jobs unmodified and rolls reuse out from each of their steps, up to ``longest`` - 1 in a row.

    A job takes (``longest`` - 1)·n reuse steps, n being the sampler's, and n + n² / (2·``EVERY``) full ones.
    """
    steps = Steps(
        TorchModule(full_program(program, cut)), TorchModule(reuse_program(program, cut)), program.input_names
    )
    n = denoising.sampler.steps
    index = _numbered(n, longest)
    similarity, spread = np.zeros((n, n)), 0.0
    products: list[Matrix] = []
    with torch.no_grad():
        for job in jobs:
            run = run_full(steps.full, steps.inputs, denoising, job)
            similarity += np.mean([cosine(values) for values in zip(*run.kept, strict=True)], axis=0)
            changes = _Clip(steps, denoising, job, run).changes(longest)
            flat = torch.stack([changes[stretch] for stretch in sorted(changes, key=lambda stretch: index[stretch])])
            products.append((flat @ flat.T).double().numpy() / flat.shape[1])
            spread += float(run.latents[-1].max() - run.latents[-1].min())
    stretches = Stretches(index, np.stack(products))
    return Calibration(cut, similarity / len(jobs), stretches, spread / len(jobs))


def _numbered(n: int, longest: int) -> NDArray[np.int64]:
    """Numbers of the stretches that are rolled out: see :class:`Stretches`."""
    index = np.full((n, n + 1), UNKNOWN, dtype=np.int64)
    count = 0
    for j in range(n):
        index[j, j + 1] = NONE
        for k in range(j + 2, min(j + longest, n) + 1):
            index[j, k] = count
            count += 1
    return index


@dataclass(frozen=True)
class _Clip:
    """One job's unmodified run, and the ways off it. Stretches (j, k) are as :class:`Stretches` has them."""

    steps: Steps
    denoising: Denoising
    job: Job
    run: Trajectory

    def changes(self, longest: int) -> dict[tuple[int, int], Tensor]:
        """(j, k) -> what the error of that stretch changes in the clip, flat."""
        n, found = self.denoising.sampler.steps, {}
        off = self.rolled_out(longest)
        shown: list[dict[int, Tensor]] = []
        for k in range(2, n + 1):
            starts = [j for j in range(k) if (j, k) in off]
            if (k - 2) % EVERY == 0:
                shown.append(self.disturbed(k, off[starts[len(starts) // 2], k]))
            now, last = (torch.stack([errors[i].flatten() for errors in shown]) for i in (k, n))
            for j in starts:
                found[j, k] = _carried(off[j, k].flatten(), now, last)
        return found

    def rolled_out(self, longest: int) -> dict[tuple[int, int], Tensor]:
        """(j, k) -> how far the latent before step k is off, where steps j + 1 to k - 1 reused what step j left."""
        n, found = self.denoising.sampler.steps, {}
        for j in range(n):
            latent = self.run.latents[j + 1]
            for i in range(j + 1, min(j + longest, n)):
                latent = self.stepped(self.steps.reuse, i, latent, self.run.kept[j])
                found[j, i + 1] = (latent - self.run.latents[i + 1]).float()
        return found

    def disturbed(self, k: int, error: Tensor) -> dict[int, Tensor]:
        """How far a run is off before each step from k on, and after the last, whose latent before step k is."""
        latent, found = self.run.latents[k] + error.to(self.run.latents[k].dtype), {k: error}
        for i in range(k, self.denoising.sampler.steps):
            latent = self.stepped(self.steps.full, i, latent)
            found[i + 1] = (latent - self.run.latents[i + 1]).float()
        return found

    def stepped(self, program: Runs, i: int, latent: Tensor, kept: tuple[Tensor, ...] = ()) -> Tensor:
        """The latent after step i."""
        answer, *_ = program(*step_inputs(self.steps.inputs, self.denoising, self.job, i, latent), *kept)
        return self.denoising.sampler.step(i, latent, answer)


def _carried(error: Tensor, now: Tensor, last: Tensor) -> Tensor:
    """What ``error`` becomes, as errors ``now`` (R, D) become ``last`` (R, D): in parts like them, the rest by length.

    The rest grows as the newest of them does.
    """
    products = (now @ now.T).double()
    products += (RIDGE * products.diagonal().mean() + TINY) * torch.eye(len(now), dtype=torch.float64)
    parts = torch.linalg.solve(products, (now @ error).double()).to(error.dtype)
    gain = last[-1].norm() / now[-1].norm().clamp_min(TINY)
    return parts @ last + gain * (error - parts @ now)
