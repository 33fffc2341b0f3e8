"""``schedule``: an order of the same ops in which less is live.

Given (the exporter's order: a skip's small producer early, its consumer late)::

    %scale = linear(%emb, %w)      # lives from here
    ...                            # through all of this
    %y = mul(%h, %scale)

Results ``%scale`` right before its first use, and keys and values before queries, so that a region may begin at
the queries. The order only changes where the peak does not rise: exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vgcomp import ir
from vgcomp.memory import peak_activation_bytes
from vgcomp.passes.base import PassContext, PassResult
from vgcomp.program import Program
from vgcomp.result import Equivalence, Explanation
from vgcomp.slicing.order import reorder


@dataclass(frozen=True)
class Schedule:
    """Sinks each op to its first use where that does not lengthen what it reads; keeps the order if it is no better."""

    name: ClassVar[str] = "schedule"
    equivalence: ClassVar[Equivalence] = "exact"

    def run(self, program: Program, context: PassContext) -> PassResult:
        if any(ir.is_loop(node) for node in program.graph.nodes):
            # A loop may write over an operand: what reads that before must not move behind it.
            reason = "it is sliced already: a plan rests on its order"
            return PassResult(program, False, {}, (Explanation(program.name, self.name, reason),))
        ordered, moved = reorder(program.graph)
        if not moved:
            return PassResult(program, changed=False)
        result = program.with_graph(ordered)
        before, after = peak_activation_bytes(program), peak_activation_bytes(result)
        if after > before:
            reason = f"the other order would hold {after - before} bytes more at its peak"
            return PassResult(program, False, {}, (Explanation(program.name, self.name, reason),))
        return PassResult(result, True, {"moved": moved, "saved_bytes": before - after})
