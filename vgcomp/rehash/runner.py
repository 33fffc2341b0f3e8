"""Runs a schedule: the sampler's loop over two static programs, with all that passes from step to step in its hands.

A :class:`State` is the whole of a generation between two steps: it can be kept, saved and resumed, and two of them do
not know of each other. Which program runs at a step is read from the schedule, never from a value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vgcomp.errors import ModelError, UsageError
from vgcomp.rehash.sampler import Sampler
from vgcomp.rehash.schedule import Schedule

#: A program on any backend: inputs in order, outputs in order.
Runs = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Denoising:
    """How a denoiser stands in a sampler's loop. ``latent``, ``timestep``: names of inputs; output 0 is its answer."""

    sampler: Sampler
    latent: str = "sample"
    timestep: str = "timestep"
    timestep_shape: tuple[int, ...] = ()
    timestep_dtype: torch.dtype = torch.float32

    def timestep_value(self, step: int) -> Tensor:
        """The timestep's input at a step."""
        return torch.full(self.timestep_shape, self.sampler.timestep(step), dtype=self.timestep_dtype)


@dataclass(frozen=True)
class Job:
    """One clip to be made: the noise it starts from, and the values of all other inputs by name."""

    noise: Tensor
    given: Mapping[str, Tensor]


@dataclass(frozen=True)
class Steps:
    """The two programs as callables. ``inputs``: names of the original program's inputs, in order.

    The reuse program takes these and then the cache; the full one gives the cache after the answer.
    """

    full: Runs
    reuse: Runs
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class State:
    """A generation before step ``step``. ``cache``: what the last full step left; empty before the first."""

    step: int
    latent: Tensor
    cache: tuple[Tensor, ...] = ()

    def save(self, path: Path) -> None:
        """Writes the state as a safetensors file."""
        from safetensors.torch import save_file

        tensors = {"latent": self.latent.contiguous()}
        tensors |= {f"cache_{i}": value.contiguous() for i, value in enumerate(self.cache)}
        save_file(tensors, path, metadata={"step": json.dumps(self.step), "cache": json.dumps(len(self.cache))})

    @staticmethod
    def load(path: Path) -> State:
        """Reads what :meth:`save` wrote. Raises ModelError for anything else."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
                meta = file.metadata() or {}
                count = json.loads(meta["cache"])
                cache = tuple(file.get_tensor(f"cache_{i}") for i in range(count))
                return State(json.loads(meta["step"]), file.get_tensor("latent"), cache)
        except (SafetensorError, KeyError, ValueError) as error:
            raise ModelError(f"{path} is no saved generation: {error}") from error


def run_schedule(
    steps: Steps,
    schedule: Schedule,
    denoising: Denoising,
    job: Job,
    *,
    state: State | None = None,
    until: int | None = None,
) -> State:
    """Runs a generation from ``state`` (or its start) to before step ``until`` (or its end).

    Raises UsageError where the schedule is not the sampler's, or a step would reuse what was never kept.
    """
    count = denoising.sampler.steps
    if len(schedule) != count or not schedule[0]:
        raise UsageError(f"a schedule of {count} steps is wanted, the first full; this one has {len(schedule)}")
    now = state or State(0, job.noise)
    with torch.no_grad():
        while now.step < (count if until is None else until):
            if schedule[now.step]:
                now = State(now.step, now.latent)  # a full step leaves a new cache: the old one goes before it runs
            now = advance(steps, schedule[now.step], denoising, job, now)
    return now


def advance(steps: Steps, is_full: bool, denoising: Denoising, job: Job, state: State) -> State:
    """One step: a function of its arguments and of nothing else."""
    values = step_inputs(steps.inputs, denoising, job, state.step, state.latent)
    if not is_full and not state.cache:
        raise UsageError(f"step {state.step} reuses, but no full step before it kept anything")
    if is_full:
        answer, *cache = steps.full(*values)
    else:
        (answer,), cache = steps.reuse(*values, *state.cache), list(state.cache)
    return State(state.step + 1, denoising.sampler.step(state.step, state.latent, answer), tuple(cache))


def step_inputs(names: tuple[str, ...], denoising: Denoising, job: Job, step: int, latent: Tensor) -> list[Tensor]:
    """The program's inputs at a step, in order. Raises UsageError for one that the job does not give."""
    own = {denoising.latent: latent, denoising.timestep: denoising.timestep_value(step)}
    missing = [name for name in names if name not in own and name not in job.given]
    if missing:
        raise UsageError(f"no value is given for the input {missing[0]!r}")
    return [own[name] if name in own else job.given[name] for name in names]
