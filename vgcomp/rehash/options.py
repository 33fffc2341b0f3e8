"""The ways in which a denoiser could be cut, from its graph and a run, before anything is calibrated in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vgcomp.cost_models.base import CostModel
from vgcomp.device_memory import device_memory
from vgcomp.memory import peak_activation_bytes
from vgcomp.program import Program
from vgcomp.rehash.calibrate import similarities
from vgcomp.rehash.runner import Denoising, Job
from vgcomp.simulate import simulate
from vgcomp.step_cuts.cut import Cut, Kept
from vgcomp.step_cuts.emit import full_program, reuse_program
from vgcomp.step_cuts.find import Candidate, Finder
from vgcomp.step_cuts.halves import guided_halves
from vgcomp.targets import Target

#: FLOPs saved, in shares: of the cuts that save about as much, one is calibrated.
BINS = (0.15, 0.35, 0.5, 0.65, 0.8, 0.9, 1.01)


@dataclass(frozen=True)
class Option:
    """A cut of one form of the program: as it came, or with its guided batch taken apart.

    ``similarity``: cosine of the values kept at neighbouring steps, averaged. ``score``: FLOPs saved times similarity,
    less where the cache is large beside what a step needs anyway.
    """

    program: Program
    candidate: Candidate
    similarity: float
    score: float

    @cached_property
    def full(self) -> Program:
        """The full program."""
        return full_program(self.program, self.candidate.cut)

    @cached_property
    def reuse(self) -> Program:
        """The reuse program."""
        return reuse_program(self.program, self.candidate.cut)


@dataclass(frozen=True)
class Seconds:
    """Predicted time of a full and of a reuse step."""

    full: float
    reuse: float


def options(program: Program, denoising: Denoising, jobs: Sequence[Job], *, repeats: bool = False) -> list[Option]:
    """All cuts that a graph offers, best score first; those that only repeat the last answer on demand."""
    found: list[Option] = []
    for form, extra in _forms(program):
        finder = Finder(form, denoising.latent, denoising.timestep)
        wanted = [c for c in finder.candidates(extra) if repeats or not c.repeats]
        found += _scored(form, wanted, denoising, jobs)
    return sorted(found, key=lambda option: -option.score)


def _forms(program: Program) -> list[tuple[Program, list[Cut]]]:
    forms: list[tuple[Program, list[Cut]]] = [(program, [])]
    halves = guided_halves(program)
    if halves is not None:
        taken, (given, free) = halves
        forms.append((taken, [Cut((Kept(free, given),))]))
    return forms


def _scored(program: Program, found: Sequence[Candidate], denoising: Denoising, jobs: Sequence[Job]) -> list[Option]:
    values = list(dict.fromkeys(kept for candidate in found for kept in candidate.cut.kept))
    if not values:
        return []
    matrices = dict(zip(values, similarities(program, values, denoising, jobs), strict=True))
    near = {kept: float(np.mean(np.diag(matrix, 1))) for kept, matrix in matrices.items()}
    room = peak_activation_bytes(program)
    scored = []
    for candidate in found:
        similarity = min(near[kept] for kept in candidate.cut.kept)
        score = candidate.saved * similarity / (1 + candidate.nbytes / room)
        scored.append(Option(program, candidate, similarity, score))
    return scored


def finalists(found: Sequence[Option], target: Target, memory: int | None) -> list[Option]:
    """The best by score of each bin of FLOPs saved among those whose programs both fit ``memory`` bytes."""
    chosen: dict[int, Option] = {}
    for option in found:
        place = int(np.digitize(option.candidate.saved, BINS))
        if place and place not in chosen and (memory is None or needed_bytes(option, target) <= memory):
            chosen[place] = option
    return [chosen[place] for place in sorted(chosen)]


def needed_bytes(option: Option, target: Target) -> int:
    """What the device must have for either program, whichever needs more."""
    return max(device_memory(program, target).total_bytes for program in (option.full, option.reuse))


def seconds(option: Option, target: Target, cost_model: CostModel) -> Seconds:
    """Predicted time of the option's steps."""
    full, reuse = (simulate(program, target, cost_model).latency_s for program in (option.full, option.reuse))
    return Seconds(full, reuse)
