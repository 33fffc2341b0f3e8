"""Why each region is as it is, and why the ops at the peak were not sliced further."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import fx

from vgcomp import ir
from vgcomp.axes import WHOLE, AxisMap
from vgcomp.result import Explanation
from vgcomp.slicing.problem import Problem
from vgcomp.units import format_bytes

if TYPE_CHECKING:
    from vgcomp.slicing.engine import Solution

PASS = "slice-and-group"
#: Ops explained, from the one with the highest peak down.
_MOST = 12


def explain_regions(problem: Problem, solution: Solution) -> tuple[Explanation, ...]:
    """One line a region, then one for each of the unsliced ops that stand highest."""
    lines = []
    covered: set[int] = set()
    loops = _loops_by_result(solution.program.graph)
    for choice in solution.plan.choices:
        covered.update(range(choice.first, choice.end))
        last = problem.nodes[choice.end - 1]
        names = [problem.nodes[i].name for i in range(choice.first, choice.end)]
        how = how_sliced([loops[name] for name in names if name in loops])
        axis = choice.axis
        factor = "" if axis.whole_dim else f" (a factor of {axis.extent} in {axis.size})"
        reason = (
            f"{choice.end - choice.first} ops to {last.name} run in {choice.n_slices} slices of dimension {axis.dim}"
            f"{factor} of {last.name}, {how}; {format_bytes(choice.peak)} at most are live"
        )
        lines.append(Explanation(problem.nodes[choice.first].name, PASS, reason))
    plain = [i for i in range(problem.n) if i not in covered and not problem.is_view[i]]
    highest = sorted(plain, key=lambda i: -int(problem.plain_peak[i]))[:_MOST]
    amap = problem.amap
    for i in sorted(highest):
        node = problem.nodes[i]
        lines.append(Explanation(node.name, PASS, _unsliced(problem, i, amap)))
    return tuple(lines)


def _loops_by_result(graph: fx.Graph) -> dict[str, ir.Loop]:
    """The loops of a graph, by the names of their results: those of the ops that they took the place of."""
    return {node.name: ir.loop_of(node.all_input_nodes[0]) for node in graph.nodes if ir.is_getitem(node)}


def how_sliced(loops: Sequence[ir.Loop]) -> str:
    """How the slices of a region's loops (its statistics' included) meet: what neighbours share, and who keeps it."""
    if any(body.carries_in for loop in loops for body in loop.bodies):
        return "carrying line buffers"
    most = max((_overlap(loop, k) for loop in loops for k in range(len(loop.operand_axes))), default=0)
    return f"recomputing halos of {most}" if most else "without overlap"


def _overlap(loop: ir.Loop, operand: int) -> int:
    """Elements of an operand's axis that two neighbouring steps both read, at the most."""
    spans = sorted({span for step in loop.steps if (span := step.reads[operand]) is not None})
    return max((before[1] - after[0] for before, after in pairwise(spans) if after[0] < before[1]), default=0)


def _unsliced(problem: Problem, i: int, amap: AxisMap) -> str:
    node = problem.nodes[i]
    live = format_bytes(int(problem.plain_peak[i]))
    if node.target is ir.own.group_moments.default:
        return f"runs whole, {live} live: a norm's statistics are sliced only together with what makes their operand"
    value = ir.val(node)
    open_axes = []
    for dim, extent in enumerate(value.shape):
        if extent < 2:
            continue
        demands = amap.demands(node, ir.Axis(dim, int(extent)))
        if demands is None:
            continue
        shared = sum(d is WHOLE and x.op == "call_function" for d, x in zip(demands, amap.operands(node), strict=True))
        open_axes.append(f"{dim}{' (an operand is needed whole)' if shared else ''}")
    if not open_axes:
        return f"runs whole, {live} live: no axis can be followed through {node.target}"
    dims = ", ".join(open_axes)
    return f"runs whole, {live} live, within the budget: slicing it (dimension {dims}) would cost latency"
