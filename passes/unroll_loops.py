"""``unroll-loops``: every step of a sliced loop as ops of its own, for backends that have no loops.

Given::

    %y = sliced(loop_0, %x)                  # two steps along dimension 0

results::

    %a = silu(slice(%x, 0, 0, 2))
    %b = silu(slice(%x, 0, 2, 4))
    %y = cat([%a, %b], 0)

A result that was written in place now lies beside its pieces for a moment. Only merges of statistics are spelled in
another order of operations; the rest is bit for bit the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vgcomp import ir
from vgcomp.passes.base import PassContext, PassResult
from vgcomp.program import Program
from vgcomp.result import Equivalence
from vgcomp.unroll import unroll


@dataclass(frozen=True)
class UnrollLoops:
    """See the module's text."""

    name: ClassVar[str] = "unroll-loops"
    equivalence: ClassVar[Equivalence] = "reassociated"

    def run(self, program: Program, context: PassContext) -> PassResult:
        if not any(ir.is_loop(node) for node in program.graph.nodes):
            return PassResult(program, changed=False)
        new = program.copy()
        steps = unroll(new.graph)
        return PassResult(program.with_graph(new.graph), True, {"steps": steps})
