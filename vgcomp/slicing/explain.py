"""Why each region is as it is, and why the ops at the peak were not sliced further."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    for choice in solution.plan.choices:
        covered.update(range(choice.first, choice.end))
        last = problem.nodes[choice.end - 1]
        how = "carrying line buffers" if choice.carry else "recomputing halos"
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
