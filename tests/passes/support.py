"""What the tests of passes share: programs, their text, and what every pass must hold to."""

from __future__ import annotations

from dataclasses import replace
from textwrap import dedent, indent
from typing import Literal

from torch import fx

from tests.passes.test_pipeline import context
from tests.test_simulate import program_of
from vgcomp.check import check
from vgcomp.cost_models import AnalyticModel
from vgcomp.passes.base import Pass, PassContext, PassResult
from vgcomp.program import Program
from vgcomp.targets import load_target
from vgcomp.verify import verify

#: Memory is what is live: networks of a few KB are all workspace and context otherwise.
A100 = load_target("a100").model_copy(update={"allocator": "live", "context_bytes": 0})


def program(graph: fx.Graph) -> Program:
    """A graph as a Program whose weights have no data."""
    made = program_of(graph)
    return replace(made, output_names=tuple(f"out{k}" for k in range(len(made.outputs))))


def with_budget(memory: int | None) -> PassContext:
    """Bytes for weights and activations on an a100."""
    return context(target=A100, cost_model=AnalyticModel(A100), memory=memory)


def run_pass(
    item: Pass, given: Program, where: PassContext, equivalence: Literal["exact", "reassociated"]
) -> PassResult:
    """Runs a pass; holds it to IR that verifies, to outputs as near as it claims, and to rest when run again."""
    text = given.text()
    result = item.run(given, where)
    assert given.text() == text, "the program given stays as it is"
    assert result.changed == (result.program is not given)
    verify(result.program)
    found = check(given, result.program, equivalence=equivalence)
    assert found.status == "passed", found.reason
    again = item.run(result.program, where)
    assert not again.changed
    assert again.program is result.program
    return result


def body(text: str) -> str:
    """A text as ``Program.text`` has it, without its first line."""
    return indent(dedent(text).strip("\n"), "  ") + "\n"


def body_of(given: Program) -> str:
    return given.text().partition("\n")[2]
