"""The JSON report: the schema that others read, to the letter."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from tests.report import sample
from vgcomp.result import Report

MEASURES = {"peak_bytes", "peak_activation_bytes", "weight_bytes", "latency_s", "flops", "nodes", "parts"}


def test_every_field_of_the_schema_and_no_other() -> None:
    content = json.loads(sample.report(front=sample.front()).to_json())
    assert content["schema"] == "vgcomp.report/1"
    assert set(content) == {
        "schema",
        "model",
        "target",
        "budget_bytes",
        "before",
        "after",
        "lower_bound_bytes",
        "passes",
        "front",
        "check",
        "artifacts",
        "seconds",
        "latency_sources",
    }
    assert set(content["before"]) == set(content["after"]) == MEASURES
    assert set(content["lower_bound_bytes"]) == {"unsliced", "result"}
    assert {frozenset(item) for item in content["passes"]} == {frozenset({"name", "equivalence", "changed", "seconds"})}
    assert {frozenset(item) for item in content["front"]} == {
        frozenset({"peak_bytes", "peak_activation_bytes", "latency_s"})
    }
    assert set(content["check"]) == {"status", "max_abs_error", "shape"}
    peaks = [point["peak_bytes"] for point in content["front"]]
    assert peaks == sorted(peaks, reverse=True), "cheapest memory last"


def test_json_round_trips() -> None:
    report = sample.report(front=sample.front())
    assert Report.from_json(report.to_json()) == report
    assert report.to_json() == Report.from_json(report.to_json()).to_json()


def test_without_a_budget_it_says_null() -> None:
    assert json.loads(sample.report(budget_bytes=None).to_json())["budget_bytes"] is None


@pytest.mark.parametrize(
    "change", [{"schema": "vgcomp.report/2"}, {"surplus": 1}, {"seconds": -1.0}, {"passes": [{"name": "x"}]}]
)
def test_anything_else_is_refused(change: dict[str, object]) -> None:
    content = {**json.loads(sample.report().to_json()), **change}
    with pytest.raises(ValidationError):
        Report.from_json(json.dumps(content))


def test_ratios_compare_after_with_before() -> None:
    report = sample.report()
    assert report.latency_ratio == report.after.latency_s / report.before.latency_s
    assert report.activation_ratio == report.after.peak_activation_bytes / report.before.peak_activation_bytes
