"""Where qualities and costs come from: functions, tables, journals, a supernet's checkpoint."""

import json
import sys
import types

import pytest

from tests.search.support import SPACE, cost, evaluator, quality, run
from vgcomp.compiled_cost.cost import Cost
from vgcomp.errors import UsageError
from vgcomp.search.evaluator import Evaluator
from vgcomp.search.journal import Journal
from vgcomp.search.problem import Limits
from vgcomp.search.sources import CostFunction, cost_source, quality_source
from vgcomp.search.tables import read_costs, read_qualities

CANDIDATE = ("conv1d", "none", "selfattention3d", "none")
NAMED = SPACE.named(CANDIDATE)


@pytest.mark.parametrize("given", [NAMED, list(CANDIDATE)], ids=["by name", "in order"])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_table_has_what_was_saved(given, suffix, tmp_path):
    path = tmp_path / f"table{suffix}"
    entry = {"candidate": given, "quality": 0.5, "latency_s": 1.5, "peak_bytes": 7, "weight_bytes": 3}
    path.write_text(json.dumps([entry] if suffix == ".json" else entry))
    assert quality_source(str(path)).open(SPACE).quality(CANDIDATE) == 0.5
    found = cost_source(str(path), "a18pro", None).open(SPACE).cost(CANDIDATE)
    assert found == Cost(1.5, 7, 3, 0.0, True, 1.5, 7)
    with pytest.raises(UsageError, match=r"has no line for none\+none\+none\+none"):
        read_qualities(path, SPACE).quality(("none",) * 4)


def test_a_journal_is_a_table(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal.open(path, {}, SPACE, resume=False) as journal:
        found = run("random", 5, journal=journal)
    for evaluation in found.evaluations:
        assert read_qualities(path, SPACE).quality(evaluation.candidate) == evaluation.quality
        assert read_costs(path, SPACE).cost(evaluation.candidate) == evaluation.cost


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no quality of any candidate"),
        ("{]", "cannot be read"),
        ("3", "entry 1: not an object"),
        ('{"candidate": {"attic": "none"}, "quality": 1}', "has no choice 'attic'"),
        ('{"candidate": ["none"], "quality": 1}', "has 4 choices, not 1"),
        ('{"candidate": ["none", "none", "none", "none"], "latency_s": 1}', "no quality of any candidate"),
    ],
)
def test_what_is_no_table_is_refused(text, match, tmp_path):
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(UsageError, match=match):
        read_qualities(tmp_path / "t.jsonl", SPACE)


def test_a_function_is_asked_by_name_and_found_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "my_judge.py").write_text(
        "class Best:\n    @staticmethod\n    def score(options): return len(options)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    assert quality_source("my_judge:Best.score").open(SPACE).quality(CANDIDATE) == 4


def test_a_cost_may_be_whole_or_two_figures():
    module = types.ModuleType("costs_of_a_test")
    module.whole = lambda options: Cost(1.0, 2, 3, 4.0, False, 5.0, 6)  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    assert CostFunction("costs_of_a_test:whole").open(SPACE).cost(CANDIDATE) == Cost(1.0, 2, 3, 4.0, False, 5.0, 6)
    assert CostFunction("tests.search.support:cost").open(SPACE).cost(CANDIDATE).latency_s == cost(NAMED)["latency_s"]


def test_a_supernet_of_another_space_is_refused(monkeypatch):
    inherited = pytest.importorskip("vgcomp.training.inherited")
    other = types.SimpleNamespace(space=types.SimpleNamespace(name="sned", choices=()))
    monkeypatch.setattr(inherited, "InheritedLoss", lambda path: other)
    with pytest.raises(UsageError, match="run holds a supernet of the space sned, not of toy"):
        quality_source("loss:run").open(SPACE)
    other.space = SPACE
    assert quality_source("loss:run").open(SPACE) is other


def test_what_misses_the_limits_is_not_judged():
    plain = evaluator()
    limited = Evaluator(SPACE, plain.costs, plain.quality, Limits(latency_s=0.6)).open()
    slow, fast = limited.evaluate(("selfattention3d",) * 4), limited.evaluate(("none",) * 4)
    assert slow.cost is not None and slow.quality is None and not slow.failed
    assert fast.quality == quality(SPACE.named(("none",) * 4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_failed(value, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.search.support.quality", lambda named: value)
    found = evaluator().open().evaluate(CANDIDATE)
    assert found.failed == f"its quality is {value}" and found.quality is None
