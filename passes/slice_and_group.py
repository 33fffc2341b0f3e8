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

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from vgcomp import ir
from vgcomp.errors import Infeasible
from vgcomp.memory import analyse
from vgcomp.passes.base import PassContext, PassResult
from vgcomp.program import Program
from vgcomp.result import Equivalence, Explanation
from vgcomp.slicing.engine import ROUGH, Slicer, Solution
from vgcomp.slicing.explain import explain_regions
from vgcomp.units import format_bytes


@dataclass(frozen=True)
class SliceAndGroup:
    """Fits the activations into what the budget leaves beside the weights.

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
        budget = context.memory - program.weight_bytes()
        slicer = Slicer(program, context.target, context.cost_model, context.progress)
        if slicer.unsliced <= budget:
            why = f"its activations, {format_bytes(slicer.unsliced)}, fit the budget as they are"
            return PassResult(program, False, {}, (self._because(program.name, why),))
        if budget <= slicer.floor:
            raise infeasible(program, slicer.smallest(ROUGH), context.memory)
        # The search for the smallest tries other budgets, and may find a plan that fits after all.
        solution = slicer.solve(budget) or slicer.smallest(ROUGH)
        if solution.peak > budget:
            raise infeasible(program, solution, context.memory)
        return sliced_result(program, slicer, solution)

    def _because(self, node: str, reason: str) -> Explanation:
        return Explanation(node, self.name, reason)


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


def infeasible(program: Program, smallest: Solution, memory: int) -> Infeasible:
    """The error that names the smallest budget and what stands at its peak."""
    node = analyse(smallest.program.graph).peak_node
    culprit = _named(node) if node is not None else "the inputs and outputs"
    weights = program.weight_bytes()
    total = smallest.peak + weights
    return Infeasible(
        f"no program of {program.name} fits {format_bytes(memory)}: the smallest found takes {format_bytes(total)}, "
        f"{format_bytes(weights)} of it weights",
        smallest_bytes=total,
        culprit=culprit,
    )


def _named(node: fx.Node) -> str:
    """A node by a name that the network's author knows: a loop by its result."""
    if not ir.is_loop(node):
        return node.name
    return f"the loop that makes {next(iter(node.users)).name}"
