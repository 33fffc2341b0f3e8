"""The driver: order, records, verification between passes, and whose fault an error is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
from torch import fx

from tests.graph_builder import Builder, aten
from tests.test_simulate import program_of
from vgcomp.cost_models import AnalyticModel
from vgcomp.errors import InternalError, UsageError
from vgcomp.passes.base import PassContext, PassResult
from vgcomp.passes.pipeline import run_pipeline
from vgcomp.program import Program
from vgcomp.result import Equivalence, Explanation
from vgcomp.targets import load_target


@dataclass(frozen=True)
class Probe:
    """Does to a copy of the program what ``action`` says."""

    name: ClassVar[str] = "probe"
    equivalence: ClassVar[Equivalence] = "exact"

    action: str = "nothing"

    def run(self, program: Program, context: PassContext) -> PassResult:
        context.progress("probing", 0.5)
        if self.action == "nothing":
            return PassResult(program, changed=False, explanations=(Explanation("x", self.name, "nothing to do"),))
        new = program.copy()
        _ACTIONS[self.action](new.graph)
        if self.action == "rename":
            new = replace(new, output_names=("other",))
        return PassResult(new, changed=True, stats={"actions": 1})


def _break(graph: fx.Graph) -> None:
    for node in graph.nodes:
        node.meta.pop("val", None)


def _double(graph: fx.Graph) -> None:
    (neg,) = (node for node in graph.nodes if node.target is aten.neg.default)
    neg.target = aten.abs.default


def _raise(error: Exception) -> Any:
    def action(graph: fx.Graph) -> None:
        raise error

    return action


_ACTIONS: dict[str, Any] = {
    "rewrite": _double,
    "break": _break,
    "rename": lambda graph: None,
    "crash": _raise(KeyError("missing")),
    "refuse": _raise(UsageError("max-slices is too small")),
    "assert": _raise(InternalError("an invariant is gone")),
}


def context(**changes: Any) -> PassContext:
    return replace(PassContext(load_target("a100"), AnalyticModel()), **changes)


def program() -> Program:
    b = Builder()
    return program_of(b.done(b.call(aten.neg.default, b.input("x", (4, 5)))))


def test_passes_run_in_order_and_leave_records() -> None:
    given = program()
    before = str(given.graph)
    result = run_pipeline(given, [Probe("rewrite"), Probe()], context())
    assert [record.changed for record in result.records] == [True, False]
    assert result.program.history == result.records
    assert result.changed
    assert result.records[0].stats == {"actions": 1}
    assert all(record.seconds >= 0 for record in result.records)
    assert [e.reason for e in result.explanations] == ["nothing to do"]
    assert str(given.graph) == before, "the program given stays as it is"
    assert aten.abs.default in {node.target for node in result.program.graph.nodes}


def test_a_spec_runs_too() -> None:
    assert [record.name for record in run_pipeline(program(), "canonicalize", context()).records] == ["canonicalize"]


def test_progress_is_of_the_whole_pipeline() -> None:
    told: list[tuple[str, float]] = []
    run_pipeline(program(), [Probe(), Probe()], context(progress=lambda stage, done: told.append((stage, done))))
    fractions = [done for _, done in told]
    assert fractions == sorted(fractions)
    assert ("probing", 0.25) in told
    assert told[-1][1] == 1.0


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("break", "pass probe left broken IR"),
        ("rename", "pass probe changed the inputs or outputs"),
        ("crash", "pass probe failed on .*KeyError: 'missing'"),
        ("assert", "pass probe: an invariant is gone"),
    ],
)
def test_a_broken_pass_is_named(action: str, said: str) -> None:
    with pytest.raises(InternalError, match=said):
        run_pipeline(program(), [Probe(action)], context())


def test_a_users_mistake_stays_one() -> None:
    with pytest.raises(UsageError, match="max-slices is too small"):
        run_pipeline(program(), [Probe("refuse")], context())


def test_broken_ir_is_refused_before_any_pass() -> None:
    given = program()
    _break(given.graph)
    with pytest.raises(InternalError):
        run_pipeline(given, [], context())
