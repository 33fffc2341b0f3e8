"""``assign-buffers``: pointwise ops write over an operand that dies in them.

Given::

    %y = silu(%x)            # %x is used nowhere else

Results the same graph, ``%y`` marked to take ``%x``'s buffer. No value changes: exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vgcomp.passes.base import PassContext, PassResult
from vgcomp.program import Program
from vgcomp.result import Equivalence
from vgcomp.slicing.prepare import assign_reuse


@dataclass(frozen=True)
class AssignBuffers:
    """Marks every pointwise op outside loops that may run in place; loops' bodies are marked when they are built."""

    name: ClassVar[str] = "assign-buffers"
    equivalence: ClassVar[Equivalence] = "exact"

    def run(self, program: Program, context: PassContext) -> PassResult:
        before = [node.meta.get("reuse") for node in program.graph.nodes]
        result = program.copy()
        count = assign_reuse(result.graph)
        if [node.meta.get("reuse") for node in result.graph.nodes] == before:
            return PassResult(program, changed=False)
        return PassResult(result, changed=True, stats={"in_place": count})
