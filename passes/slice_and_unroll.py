"""``slice-and-unroll``: slices for backends that run parts without loops, and only where no parts do without.

Given a program of which no partition fits the budget (one op's operands and results are too much), results the plan of
``slice-and-group``, every step as ops of its own::

    %a = silu(convolution(slice(%x, 0, 0, 2), %w))
    %b = silu(convolution(slice(%x, 0, 2, 4), %w))
    %y = cat([%a, %b], 0)

Parts share the memory one after the other, so the weights that count are one part's. What the loops wrote in place is
joined by a copy when unrolled; so the plan is made for less and less until the unrolled program's parts fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from vgcomp import ir
from vgcomp.errors import Infeasible
from vgcomp.passes.base import PassContext, PassResult
from vgcomp.passes.partition import Costs, Partition, smallest_ceiling
from vgcomp.passes.slice_and_group import SliceAndGroup
from vgcomp.passes.unroll_loops import UnrollLoops
from vgcomp.program import Program
from vgcomp.result import Equivalence, Explanation
from vgcomp.units import format_bytes

#: Plans that are tried, each for this share less room than the one before at least.
TRIES, SHRINK = 6, 0.1


@dataclass(frozen=True)
class SliceAndUnroll:
    """See the module's text.

    ``max_nodes``: the most ops that the result may have, as a compiled program grows with every slice;
    ``part_weights``: bytes of weights that a part has at most. Raises Infeasible with the smallest budget found.
    """

    name: ClassVar[str] = "slice-and-unroll"
    equivalence: ClassVar[Equivalence] = "reassociated"

    max_nodes: int = 40_000
    part_weights: int = 1_000_000_000

    def run(self, program: Program, context: PassContext) -> PassResult:
        if context.memory is None or any(ir.is_loop(node) for node in program.graph.nodes):
            return PassResult(program, changed=False)
        needed = self._needed(program, context)
        if needed is None:
            why = Explanation(program.name, self.name, f"parts of it fit {format_bytes(context.memory)} as they are")
            return PassResult(program, False, {}, (why,))
        weights = program.weight_bytes()
        beside = min(weights, self.part_weights)
        room, smallest, culprit = context.memory - beside, needed, "the program"
        for _ in range(TRIES):
            try:
                planned = SliceAndGroup().run(program, replace(context, memory=weights + room))
            except Infeasible as error:
                smallest = min(smallest, error.smallest_bytes - weights + beside)
                culprit = error.culprit
                break
            unrolled = UnrollLoops().run(planned.program, context).program
            over = self._needed(unrolled, context)
            if over is None and unrolled.n_nodes <= self.max_nodes:
                stats = {**planned.stats, "nodes": unrolled.n_nodes}
                return PassResult(unrolled, unrolled is not program, stats, planned.explanations)
            if over is None:
                raise self._too_long(program, unrolled, needed)
            smallest = min(smallest, over)
            room -= max(over - context.memory, int(room * SHRINK))
        raise Infeasible(
            f"no parts of {program.name} fit {format_bytes(context.memory)}, in slices without loops either",
            smallest_bytes=max(smallest, context.memory + 1),
            culprit=culprit,
        )

    def _needed(self, program: Program, context: PassContext) -> int | None:
        """None where some partition fits; else the least that one would need."""
        try:
            Partition(max_weights=self.part_weights).run(program, context)
        except Infeasible as error:
            return max(error.smallest_bytes, smallest_ceiling(Costs.of(program))[0])
        return None

    def _too_long(self, program: Program, unrolled: Program, needed: int) -> Infeasible:
        return Infeasible(
            f"{program.name} fits only in slices that make {unrolled.n_nodes} ops, over {self.max_nodes}",
            smallest_bytes=needed,
            culprit="the whole of it, unsliced,",
        )
