"""``slice-and-group``: regions run slice by slice, so that what they hold at once fits the budget.

Given (a normalisation over frames, height and width stands between two convolutions over time)::

    %h = convolution(%x, %w)                    # 2 GiB
    %y = group_norm(%h, 32, ...)                # 2 GiB more
    %z = silu(%y)                               # and more

Results, sliced along W where neither convolution has a window::

    %stats = sliced(loop_0, %x, %w)             # moments of each slice of %h, merged: exact
    %z = sliced(loop_1, %x, %w, %stats)         # convolution, apply, silu of a slice; over %x in place

Regions, their axes and where results may lie are found from the axis rules (:mod:`vgcomp.axes`); nothing is
listed by network. The plan is the least-latency one that fits (:mod:`vgcomp.slicing.plan`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from vgcomp import ir
from vgcomp.device_memory import DeviceMemory, device_memory, loaded_bytes
from vgcomp.errors import Infeasible
from vgcomp.memory import analyse, peak_activation_bytes
from vgcomp.passes.base import PassContext, PassResult
from vgcomp.program import Program
from vgcomp.result import Equivalence, Explanation
from vgcomp.simulate import workspace_of
from vgcomp.slicing.engine import BAND, ROUGH, Slicer, Solution, band_of
from vgcomp.slicing.explain import explain_regions
from vgcomp.units import format_bytes

#: Plans that are tried for one budget, each with another room for activations.
TRIES = 6
#: The first guess of what an allocator loses between activations, of what is left for both.
FRAGMENTS = 1 / 6
#: Where the search for that room ends, relative to the same.
MARGIN = 0.03

#: A way of planning: bytes for activations, and the band of budgets that they are thought of in.
Solve = Callable[[int, tuple[int, int]], Solution | None]


@dataclass(frozen=True)
class SliceAndGroup:
    """Fits the program and its run into the budget: weights, activations, workspaces, fragmentation, context.

    Without a budget nothing is sliced: there is nothing to choose between plans by. Raises
    Infeasible with the smallest budget that can be met and the op at its peak.
    """

    name: ClassVar[str] = "slice-and-group"
    equivalence: ClassVar[Equivalence] = "reassociated"

    def run(self, program: Program, context: PassContext) -> PassResult:
        if context.memory is None:
            return PassResult(program, changed=False)
        if any(ir.is_loop(node) for node in program.graph.nodes):
            return PassResult(program, False, {}, (self._because(program.name, "it is sliced already"),))
        if device_memory(program, context.target).total_bytes <= context.memory:
            peak = format_bytes(peak_activation_bytes(program, workspace=workspace_of(context.target)))
            why = f"its activations, {peak}, fit the budget as they are"
            return PassResult(program, False, {}, (self._because(program.name, why),))
        slicer = Slicer(program, context.target, context.cost_model, context.progress)
        # The search for the smallest tries other budgets, and may find a plan that fits after all.
        solution = within(slicer, context.memory) or slicer.smallest(ROUGH, beside(slicer))
        needs = device_memory(solution.program, context.target)
        if needs.total_bytes > context.memory:
            raise infeasible(program, solution, needs, context.memory)
        return sliced_result(program, slicer, solution)

    def _because(self, node: str, reason: str) -> Explanation:
        return Explanation(node, self.name, reason)


def within(slicer: Slicer, memory: int, *, nested: bool = True) -> Solution | None:
    """A plan for what a budget leaves beside weights and context, with all that it needs in it; None if none was found.

    It is one that costs next to nothing, or else the one of least latency that was met. Regions are nested where plans
    without that cost latency, or there are none; without ``nested`` never, which takes seconds at most.
    """
    plain = _held(slicer, slicer.plain, memory, upwards=False)
    if not nested or (plain is not None and slicer.is_cheap(plain)):
        return plain
    return _faster(plain, _held(slicer, slicer.nested, memory, upwards=True))


def _held(slicer: Slicer, solve: Solve, memory: int, upwards: bool) -> Solution | None:
    """The same by one way of planning.

    Fragments between activations are known only once there is a plan, and a little less room may give more of them. So
    the room for activations is searched for: less than where a plan did not hold, and ``upwards`` more than where there
    was none, or one that held.
    """
    available = memory - beside(slicer)
    low, high = slicer.floor, available
    room, band = int(available * (1 - FRAGMENTS)), (int(available * BAND), available)
    best: Solution | None = None
    for _ in range(TRIES):
        if high - low < MARGIN * available or room <= slicer.floor:
            break
        band = band if band[0] <= room else band_of(room)
        solution = solve(room, band)
        if solution is None and not upwards:
            break
        if solution is None:
            low, room = room, (room + high) // 2
            continue
        excess = device_memory(solution.program, slicer.target).total_bytes - memory
        # A plan may take nothing beyond what weights leave unused of their segments.
        scaled = min(room, solution.peak) * available // max(available + excess, 1)
        if excess > 0:
            high, room = room, max(scaled, (low + room) // 2 if scaled <= low else 0)
            continue
        best = _faster(best, solution)
        if not upwards or slicer.is_cheap(solution):
            break
        low, room = room, min(max(scaled, room + 1), high)
    return best


def _faster(a: Solution | None, b: Solution | None) -> Solution | None:
    return min((s for s in (a, b) if s is not None), key=lambda s: s.seconds, default=None)


def beside(slicer: Slicer) -> int:
    """Bytes that the device must have beside activations, whatever the plan."""
    return loaded_bytes(slicer.program, slicer.target)


def sliced_result(program: Program, slicer: Slicer, solution: Solution) -> PassResult:
    """The solution as a pass' result, with what each region does and why."""
    loops = [node for node in solution.program.graph.nodes if ir.is_loop(node)]
    stats = {
        "regions": len(solution.plan.choices),
        "loops": len(loops),
        "slices": sum(ir.loop_of(node).n_slices for node in loops),
        "peak_activation_bytes": solution.peak,
    }
    changed = solution.program is not program
    return PassResult(solution.program, changed, stats, explain_regions(slicer.problem, solution))


def infeasible(program: Program, smallest: Solution, needs: DeviceMemory, memory: int) -> Infeasible:
    """The error that names the smallest budget and what stands at its peak."""
    culprit = peak_culprit(smallest.program)
    total = needs.total_bytes
    own = f" and {format_bytes(needs.context)} the process itself" if needs.context else ""
    return Infeasible(
        f"no program of {program.name} fits {format_bytes(memory)}: the smallest found takes {format_bytes(total)}, "
        f"{format_bytes(needs.weights)} of it weights{own}",
        smallest_bytes=total,
        culprit=culprit,
    )


def peak_culprit(program: Program) -> str:
    """What stands at the peak of a program's activations, by a name that the network's author knows."""
    node = analyse(program.graph).peak_node
    return _named(node) if node is not None else "the inputs and outputs"


def _named(node: fx.Node) -> str:
    """A node by a name that the network's author knows: a loop by its result."""
    if not ir.is_loop(node):
        return node.name
    return f"the loop that makes {next(iter(node.users)).name}"
