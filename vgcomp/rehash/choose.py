"""``rehash``: where to cut a denoiser and when to reuse, for a number of full steps or a bound on the clip's PSNR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vgcomp.backends.torch_module import TorchModule
from vgcomp.cost_models.base import CostModel
from vgcomp.errors import Infeasible, UsageError
from vgcomp.passes.base import Progress, no_progress
from vgcomp.passes.rehash_steps import LEAST_PSNR
from vgcomp.program import PassRecord, Program
from vgcomp.rehash.calibrate import Calibration, calibrate
from vgcomp.rehash.options import Option, Seconds, finalists, needed_bytes, options, seconds
from vgcomp.rehash.runner import Denoising, Job, Steps
from vgcomp.rehash.schedule import Schedule, algorithm1, by_effect, least_error, uniform
from vgcomp.step_cuts.cut import Cut
from vgcomp.targets import Target
from vgcomp.units import format_bytes, format_seconds

#: Cuts of fewest bytes of which the one that needs least is named where nothing fits.
_LEAST_OF = 6

Rule = Callable[[Calibration, int], Schedule]

#: Ways to decide when: from a calibration and a number of full steps.
SCHEDULES: dict[str, Rule] = {
    "least-error": lambda found, full: least_error(found.stretches, full),
    "algorithm-1": lambda found, full: algorithm1(found.stretches.known(found.similarity), full),
    "algorithm-1-effect": lambda found, full: algorithm1(by_effect(found.stretches), full),
    "uniform": lambda found, full: uniform(len(found.similarity), full),
}


@dataclass(frozen=True)
class Choice:
    """A cut with its schedule and what is predicted of them. Seconds and FLOPs are of all steps together."""

    option: Option
    schedule: Schedule
    psnr: float
    step_seconds: Seconds

    @property
    def full_steps(self) -> int:
        """How many steps are full."""
        return sum(self.schedule)

    @property
    def latency_s(self) -> float:
        """Predicted, of all steps."""
        reused = len(self.schedule) - self.full_steps
        return self.full_steps * self.step_seconds.full + reused * self.step_seconds.reuse

    @property
    def flops_ratio(self) -> float:
        """Times fewer FLOPs than with every step full."""
        reused = len(self.schedule) - self.full_steps
        return len(self.schedule) / (self.full_steps + reused * (1 - self.option.candidate.saved))


@dataclass(frozen=True)
class Rehash:
    """What :func:`rehash` found. ``choices``: the other cuts, with their best schedules, for comparison."""

    chosen: Choice
    choices: tuple[Choice, ...]
    calibrations: dict[Cut, Calibration]
    full: Program
    reuse: Program
    denoising: Denoising
    least_psnr: float

    @property
    def holds(self) -> bool:
        """Whether the PSNR predicted is at least the bound."""
        return self.chosen.psnr >= self.least_psnr

    def modules(self) -> Steps:
        """Both programs as torch modules. Raises ModelError where weights are absent."""
        return Steps(TorchModule(self.full), TorchModule(self.reuse), self.reuse.input_names[: -len(self.cache)])

    @property
    def cache(self) -> tuple[str, ...]:
        """Names of the values kept."""
        return self.full.output_names[1:]


def rehash(
    program: Program,
    denoising: Denoising,
    jobs: Sequence[Job],
    *,
    target: Target,
    cost_model: CostModel,
    full: int | None = None,
    latency: float | None = None,
    memory: int | None = None,
    least_psnr: float = LEAST_PSNR,
    rule: str = "least-error",
    progress: Progress = no_progress,
) -> Rehash:
    """Calibrates on ``jobs`` and chooses: of what is predicted to hold ``least_psnr`` decibels, the least latency.

    ``full``: how many steps are full; None tries all numbers. ``latency``: seconds that all steps may take, simulated;
    of the schedules within it the best PSNR is chosen. ``memory``: bytes that the device has for either program.
    Where nothing holds the bound the best PSNR is chosen (see ``Rehash.holds``).

    Raises UsageError for a program that is no denoiser with this latent or a ``latency`` that nothing meets, and
    Infeasible where no cut fits ``memory``.
    """
    _check(program, denoising, jobs)
    progress("looking for cuts", 0.0)
    offered = options(program, denoising, jobs[:1])
    fitting = finalists(offered, target, memory)
    if not fitting:
        raise _nothing_fits(program, offered, target, memory)
    choices: list[Choice] = []
    calibrations: dict[Cut, Calibration] = {}
    for i, option in enumerate(fitting):
        progress(f"calibrating {option.candidate.cut}", (i + 1) / (len(fitting) + 1))
        found = calibrate(option.program, option.candidate.cut, denoising, jobs)
        calibrations[option.candidate.cut] = found
        choices += _scheduled(option, found, full, rule, seconds(option, target, cost_model))
    chosen = best(choices, least_psnr) if latency is None else best_within(choices, latency)
    programs = [_recorded(p, chosen) for p in (chosen.option.full, chosen.option.reuse)]
    return Rehash(chosen, tuple(choices), calibrations, programs[0], programs[1], denoising, least_psnr)


def best(choices: Sequence[Choice], least_psnr: float) -> Choice:
    """The least latency of those that hold the bound; where none does the best PSNR."""
    holding = [choice for choice in choices if choice.psnr >= least_psnr]
    if not holding:
        return max(choices, key=lambda choice: choice.psnr)
    return min(holding, key=lambda choice: choice.latency_s)


def best_within(choices: Sequence[Choice], latency: float) -> Choice:
    """The best PSNR of those that take at most ``latency`` seconds. Raises UsageError where none does."""
    within = [choice for choice in choices if choice.latency_s <= latency]
    if not within:
        least = min(choice.latency_s for choice in choices)
        raise UsageError(
            f"no schedule takes at most {format_seconds(latency)}: the fastest takes {format_seconds(least)}"
        )
    return max(within, key=lambda choice: choice.psnr)


def _scheduled(option: Option, found: Calibration, full: int | None, rule: str, took: Seconds) -> list[Choice]:
    steps = len(found.similarity)
    counts = range(max(2, steps // 4), steps) if full is None else [full]
    made = []
    for count in counts:
        schedule = SCHEDULES[rule](found, count)
        made.append(Choice(option, schedule, found.psnr(schedule), took))
    return made


def _recorded(program: Program, chosen: Choice) -> Program:
    stats: dict[str, int | float | str] = {"cut": str(chosen.option.candidate.cut), "psnr": round(chosen.psnr, 1)}
    return program.recorded(PassRecord("rehash-steps", "approximate", True, 0.0, stats))


def _check(program: Program, denoising: Denoising, jobs: Sequence[Job]) -> None:
    for name in (denoising.latent, denoising.timestep):
        if name not in program.input_names:
            raise UsageError(f"{program.name} has no input {name!r}; it has {', '.join(program.input_names)}")
    if not jobs:
        raise UsageError("calibration needs at least one clip to make")
    shapes = {tuple(job.noise.shape) for job in jobs}
    answer = tuple(program.outputs[0].meta["val"].shape)
    if len(program.outputs) != 1 or shapes != {answer}:
        raise UsageError(
            f"{program.name} does not answer with a latent's shape: its output is {answer}, the latent {shapes}"
        )


def _nothing_fits(program: Program, offered: Sequence[Option], target: Target, memory: int | None) -> Exception:
    if not offered or memory is None:
        return UsageError(f"{program.name} has no place to cut: no value saves enough of what is before it")
    smallest = sorted(offered, key=lambda option: option.candidate.nbytes)[:_LEAST_OF]
    size, least = min(((needed_bytes(option, target), option) for option in smallest), key=lambda pair: pair[0])
    return Infeasible(
        f"no cut of {program.name} fits {format_bytes(memory)}: the smallest takes {format_bytes(size)}",
        smallest_bytes=size,
        culprit=str(least.candidate.cut),
    )
