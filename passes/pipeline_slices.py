"""``pipeline-slices``: consecutive slices of a loop overlap, on streams of their own.

Given (a convolution fills the device's arithmetic units; the norm before it keeps few of them busy)::

    %z = sliced(loop_0, %x, %w)
      loop 'loop_0': 14 steps, 1 bodies

Results the same loop, its body cut in two stages::

    %z = sliced(loop_0, %x, %w)
      loop 'loop_0': 14 steps, 1 bodies
      pipeline: 2 slices in flight, stage 0 on engine 1, stage 1 on engine 0
      body 0: operands [0, 1], results [0], stage 1 from %convolution

While a slice is in the convolution, the next one is in the norm. No value changes: exact. What slices hand to each
other (line buffers, accumulators, storage written in place) says where a body may be cut, :mod:`vgcomp.stages`; what
runs side by side takes as long as :mod:`vgcomp.overlap` says; slices in flight have temporaries each, which the budget
must hold.

The pass is not in the default pipeline: kernels of the networks that we know mostly fill a device by themselves, and
the gain, a percent or a few, is simulated and rests on what kernels leave to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import fx

from vgcomp import ir
from vgcomp.device_memory import device_memory
from vgcomp.memory import analyse
from vgcomp.passes.base import PassContext, PassResult
from vgcomp.pipelining import Overlap, best_overlap, pipelined
from vgcomp.program import Program
from vgcomp.result import Equivalence, Explanation
from vgcomp.simulate import Setup
from vgcomp.stages import has_pipeline
from vgcomp.units import format_bytes

#: Searches for how many of the loops fit the budget, each going on behind the loop that did not.
_TRIES = 3


@dataclass(frozen=True)
class _Candidate:
    """A loop that gains: its place among the graph's nodes, and activation bytes that its slices in flight add."""

    index: int
    overlap: Overlap
    more_bytes: int


@dataclass(frozen=True)
class PipelineSlices:
    """Overlaps the slices of loops on a GPU where that is simulated to gain, within the budget.

    ``in_flight``: slices at once, at most. ``engines``: streams that they run on. ``least_gain``: of a loop's time,
    below which it is left alone. Loops inside loops run one slice after the other.
    """

    name: ClassVar[str] = "pipeline-slices"
    equivalence: ClassVar[Equivalence] = "exact"
    in_flight: int = 2
    engines: int = 2
    least_gain: float = 0.01

    def __post_init__(self) -> None:
        if self.in_flight < 2 or self.engines < 2:
            raise ValueError(f"in-flight={self.in_flight} and engines={self.engines} must be 2 or more")

    def run(self, program: Program, context: PassContext) -> PassResult:
        loops = [node for node in program.graph.nodes if ir.is_loop(node)]
        why = self._why_not(program, context, loops)
        if why:
            return PassResult(program, False, {}, (Explanation(program.name, self.name, why),))
        candidates, left = self._candidates(program, Setup(context.target, context.cost_model), loops)
        chosen = _within(program, context, candidates)
        kept = {candidate.index for candidate in chosen}
        names = [node.name for node in program.graph.nodes]
        over = [c for c in candidates if c.index not in kept]
        said = (
            *(self._say(names[c.index], _how(c.overlap)) for c in chosen),
            *(
                self._say(names[c.index], f"its slices in flight would pass the budget, {_how(c.overlap)}")
                for c in over
            ),
            *(self._say(name, reason) for name, reason in left),
        )
        if not chosen:
            return PassResult(program, False, {}, said)
        result = with_pipelines(program, chosen)
        stats = {
            "pipelined": len(chosen),
            "loops": len(loops),
            "over_budget": len(over),
            "gain_s": sum(c.overlap.gain_s for c in chosen),
        }
        return PassResult(result, True, stats, said)

    def _why_not(self, program: Program, context: PassContext, loops: Sequence[fx.Node]) -> str:
        if not loops:
            return "nothing in it is sliced"
        if any(has_pipeline(node) for node in loops):
            return "it is pipelined already"
        if context.target.kind != "cuda":
            return f"{context.target.title} runs one op at a time"
        if context.memory is not None and device_memory(program, context.target).total_bytes > context.memory:
            return f"it is over the budget of {format_bytes(context.memory)} as it is"
        return ""

    def _candidates(
        self, program: Program, setup: Setup, loops: Sequence[fx.Node]
    ) -> tuple[list[_Candidate], list[tuple[str, str]]]:
        """Loops that gain, most gain a byte first; and the others with the reasons."""
        liveness = analyse(program.graph, workspace=setup.workspace)
        place = {node: i for i, node in enumerate(program.graph.nodes)}
        found: list[_Candidate] = []
        left: list[tuple[str, str]] = []
        for node in loops:
            overlap = best_overlap(node, setup, self.in_flight, self.engines)
            if isinstance(overlap, str):
                left.append((node.name, overlap))
            elif overlap.gain_s < self.least_gain * overlap.alone_s:
                left.append((node.name, f"its gain is below {self.least_gain:.1%}, {_how(overlap)}"))
            else:
                found.append(_Candidate(place[node], overlap, 0))
        more = analyse(with_pipelines(program, found).graph, workspace=setup.workspace).at
        found = [replace(c, more_bytes=max(0, more[c.index] - liveness.peak)) for c in found]
        return sorted(found, key=lambda c: (-c.overlap.gain_s / max(c.more_bytes, 1), c.index)), left

    def _say(self, node: str, reason: str) -> Explanation:
        return Explanation(node, self.name, reason)


def with_pipelines(program: Program, chosen: Sequence[_Candidate]) -> Program:
    """The program with these loops pipelined."""
    result = program.copy()
    nodes = list(result.graph.nodes)
    for candidate in chosen:
        node = nodes[candidate.index]
        node.args = (pipelined(ir.loop_of(node), candidate.overlap.pipeline), *node.args[1:])
    return result


def _within(program: Program, context: PassContext, candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """The first of them that fit the budget together, and some of what fits beside these."""
    if context.memory is None:
        return list(candidates)
    budget = context.memory

    def fits(chosen: Sequence[_Candidate]) -> bool:
        return device_memory(with_pipelines(program, chosen), context.target).total_bytes <= budget

    chosen: list[_Candidate] = []
    left = list(candidates)
    for _ in range(_TRIES):
        n = _most(len(left), lambda n: fits([*chosen, *left[:n]]))  # noqa: B023 (called at once)
        chosen += left[:n]
        # The next one does not fit; what comes after it may.
        left = left[n + 1 :]
        if not left:
            break
    return chosen


def _most(high: int, holds: Callable[[int], bool]) -> int:
    """The most, up to ``high``, that holds, if all fewer do; 0 always does."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _how(overlap: Overlap) -> str:
    before, after = overlap.alone_s * 1e3, overlap.seconds * 1e3
    return f"{before:.3g} ms one slice after the other, {after:.3g} ms with {overlap.pipeline.in_flight} in flight"
