"""A candidate through the whole compiler: built, rewritten, sliced where the budget asks for it, simulated, planned.

    FullCosts(space, "a18pro", "3GB").cost(candidate)

This is what :mod:`vgcomp.compiled_cost.costs` has to agree with, and what it does for the candidates that it has no
short way for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from vgcomp.compiled_cost.cost import Cost
from vgcomp.cost_models import AnalyticModel
from vgcomp.cost_models.base import CostModel
from vgcomp.device_memory import device_memory
from vgcomp.errors import Infeasible
from vgcomp.models.spaces import build_candidate
from vgcomp.optimize import DEFAULT_PIPELINE
from vgcomp.passes.base import Pass, PassContext
from vgcomp.passes.pipeline import run_pipeline
from vgcomp.passes.registry import build_pipeline
from vgcomp.passes.slice_and_group import SliceAndGroup
from vgcomp.program import Program
from vgcomp.simulate import operation_flops, simulate
from vgcomp.space import Candidate, Space
from vgcomp.targets import Target, load_target
from vgcomp.units import parse_bytes


@dataclass(frozen=True)
class Figures:
    """Of one program: seconds, and bytes as :func:`vgcomp.device_memory.device_memory` counts them."""

    latency_s: float
    peak_bytes: int
    weight_bytes: int
    flops: float


@dataclass(frozen=True)
class Compiler:
    """A target, a budget in bytes (None: no end of memory), a pipeline. Programs of one space go through it."""

    space: Space
    target: Target
    model: CostModel
    memory: int | None
    passes: tuple[Pass, ...]

    @staticmethod
    def of(
        space: Space,
        target: str | Target,
        memory: str | int | None,
        cost_model: CostModel | None = None,
        passes: tuple[str | Pass, ...] = DEFAULT_PIPELINE,
    ) -> Compiler:
        """A compiler of names and defaults. Raises UsageError for an unknown target, pass or size."""
        device = load_target(target)
        budget = None if memory is None else parse_bytes(memory)
        return Compiler(space, device, cost_model or AnalyticModel(device), budget, tuple(build_pipeline(passes)))

    @cached_property
    def before(self) -> tuple[Pass, ...]:
        """The passes before slices are thought of."""
        return self.passes[: self._slicing]

    @cached_property
    def after(self) -> tuple[Pass, ...]:
        """The passes after."""
        return self.passes[self._slicing + 1 :]

    @cached_property
    def _slicing(self) -> int:
        places = [i for i, item in enumerate(self.passes) if isinstance(item, SliceAndGroup)]
        return places[0] if places else len(self.passes)

    @property
    def context(self) -> PassContext:
        """The passes' context, budget included."""
        return PassContext(self.target, self.model, self.memory)

    def built(self, candidate: Candidate) -> Program:
        """The candidate as the zoo builds it, without weights."""
        return build_candidate(self.space, candidate)

    def compiled(self, program: Program) -> tuple[Program, bool]:
        """The program within the budget; without slices, and False, where the compiler finds none."""
        try:
            return run_pipeline(program, self.passes, self.context).program, True
        except Infeasible:
            return self.unsliced(program), False

    def unsliced(self, program: Program) -> Program:
        """The program through all passes but slicing."""
        return run_pipeline(program, [*self.before, *self.after], self.context).program

    def figures(self, program: Program) -> Figures:
        """The program simulated and its memory planned."""
        timeline = simulate(program, self.target, self.model)
        peak = device_memory(program, self.target).total_bytes
        return Figures(timeline.latency_s, peak, timeline.weight_bytes, operation_flops(program))


class FullCosts:
    """Costs by the whole compiler: seconds a candidate, each remembered."""

    def __init__(
        self,
        space: Space,
        target: str | Target,
        memory: str | int | None = None,
        cost_model: CostModel | None = None,
        passes: tuple[str | Pass, ...] = DEFAULT_PIPELINE,
    ) -> None:
        self.compiler = Compiler.of(space, target, memory, cost_model, passes)
        self._known: dict[Candidate, Cost] = {}

    def cost(self, candidate: Candidate) -> Cost:
        """What a candidate costs. Raises UsageError for one that is not of the space."""
        if candidate not in self._known:
            self._known[candidate] = full_cost(self.compiler, self.compiler.built(candidate))
        return self._known[candidate]


def full_cost(compiler: Compiler, program: Program) -> Cost:
    """What a candidate's program costs, nothing remembered."""
    before = compiler.figures(program)
    done, found = compiler.compiled(program)
    return cost_of(before, compiler.figures(done), compiler.memory, found)


def cost_of(before: Figures, after: Figures, memory: int | None, found: bool = True) -> Cost:
    """The cost of a candidate from the figures of its program as built and as compiled."""
    return Cost(
        latency_s=after.latency_s,
        peak_bytes=after.peak_bytes,
        weight_bytes=after.weight_bytes,
        flops=before.flops,
        feasible=found and (memory is None or after.peak_bytes <= memory),
        uncompiled_latency_s=before.latency_s,
        uncompiled_peak_bytes=before.peak_bytes,
    )
