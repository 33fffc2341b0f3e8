"""Rows, their report, the fit behind the left-out ones, and the command."""

import json
from collections import Counter
from dataclasses import dataclass

import pytest
from pydantic import ValidationError

from tests.cost_models.test_analytic import WORKS
from vgcomp.cli.main import main
from vgcomp.errors import InternalError, UsageError
from vgcomp.simulate import op_works, simulate
from vgcomp.targets import load_target
from vgcomp.validate import Report, Row, validate
from vgcomp.validate import providers as registry
from vgcomp.validate.cpu import PATH, cpu_rows
from vgcomp.validate.fit import PRIOR, device_seconds, fit, with_efficiency
from vgcomp.validate.pipelines import RUNS, Run, Stage

A100 = load_target("a100")


def row(role="held-out", predicted=1.1, quantity="latency_s", target="a100", name="a run"):
    return Row(
        name=name, target=target, quantity=quantity, figure=1.0, predicted=predicted, source="a paper", role=role
    )


@pytest.fixture
def few(monkeypatch):
    """Three rows in the place of all."""

    def rows(context):
        context.progress("rows", 0.5)
        if context.wants("a100"):
            yield row("calibrated", 1.0)
            yield row("leave-one-out", 0.9)
        if context.wants("a18pro"):
            yield row("held-out", 2e9, "peak_bytes", "a18pro", "peak of a run")

    monkeypatch.setattr(registry, "PROVIDERS", [rows])


def test_error_is_relative_to_the_figure():
    assert row(predicted=0.9).error == pytest.approx(-0.1)
    report = Report(rows=(row(predicted=0.9), row(predicted=1.3), row("calibrated", 9.0)))
    assert report.mean_error("held-out", "latency_s") == pytest.approx(0.2)
    assert report.mean_error("held-out", "flops") is None


@pytest.mark.parametrize("change", [{"role": "guessed"}, {"quantity": "smell"}, {"figure": 0.0}, {"extra": 1}])
def test_a_bad_row_is_refused(change):
    with pytest.raises(ValidationError):
        Row(**{**row().model_dump(exclude={"error"}), **change})


def test_every_published_run_has_its_stages():
    assert [run.seconds for run in RUNS if run.fitted] == [10.23, 23.29, 17.05, 40.77, 9.65, 24.38]
    held_out = [run for run in RUNS if not run.fitted]
    assert {(run.family, run.seconds) for run in held_out} == {("cogvideox", 96.89), ("cogvideox", 76.27)}
    for run in RUNS:
        assert len(run.stages) >= 3, "encoders, denoiser, decoder"
        assert max(stage.times for stage in run.stages) == (50 if run.family == "cogvideox" else 25)


def test_a_stage_counts_equal_ops_together():
    stage = Stage("clip-vit-l-text-small", times=2)
    assert stage.program() is stage.program()
    assert sum(stage.works().values()) == len(list(op_works(stage.program())))
    # Without the host's part the stage takes what a recorded graph does.
    run = Run("a run", "svd", 1.0, "", (stage,))
    from vgcomp.cost_models import AnalyticModel

    graph = simulate(stage.program(), A100, AnalyticModel(), mode="graph")
    assert device_seconds(run, A100) == pytest.approx(2 * graph.latency_s)


@dataclass(frozen=True)
class Made:
    """A stage of given ops."""

    cases: tuple[str, ...]
    times: int = 1

    def works(self):
        return Counter(WORKS[case] for case in self.cases)


def runs(device):
    """Runs that take on ``device`` what their figures say."""
    mixes = [
        ("conv, large", "group norm"),
        ("linear, large",),
        ("attention, space", "silu"),
        ("silu", "cat"),
        ("conv, large", "linear, large", "attention, space"),
    ]
    for cases in mixes:
        run = Run("a run", "svd", 1.0, "", (Made(cases),))
        yield Run("a run", "svd", device_seconds(run, device), "", run.stages)


def test_the_fit_finds_the_constants_behind_the_figures():
    truth = {"conv": 0.4, "matmul": 0.6, "attention": 0.65, "memory": 0.7}
    device = with_efficiency(A100, truth)
    found = fit(list(runs(device)), A100)
    assert found.keys() == PRIOR.keys()
    for kind, value in truth.items():
        assert found[kind] == pytest.approx(value, rel=0.08), kind
    for run in runs(device):
        assert device_seconds(run, with_efficiency(A100, found)) == pytest.approx(run.seconds, rel=0.04)


def test_without_figures_the_fit_is_the_prior():
    assert fit([], A100) == pytest.approx({kind: usual for kind, (usual, _) in PRIOR.items()})


def test_calibrated_targets_say_so():
    for name in ("a100", "a18pro"):
        target = load_target(name)
        assert target.efficiency
        assert target.sources["efficiency"].startswith("calibrated: ")


def test_only_the_wanted_target(few):
    assert [r.target for r in validate("a18pro").rows] == ["a18pro"]
    assert len(validate().rows) == 3
    with pytest.raises(UsageError, match="no published figures for 'h200'; there are some for a100, a18pro, cpu-1"):
        validate("h200")


def test_the_command_prints_and_writes(few, tmp_path, capsys):
    path = tmp_path / "rows.json"
    assert main(["validate", "--report", str(path)]) == 0
    out = capsys.readouterr().out
    assert "−10.0 %" in out
    assert "2.00 GB" in out
    assert "Mean error of latency on a100: calibrated 0.0 %, leave-one-out 10.0 %" in out
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["schema"] == "vgcomp.validate/1"
    assert [r["role"] for r in report["rows"]] == ["calibrated", "leave-one-out", "held-out"]
    assert {"name", "target", "quantity", "figure", "predicted", "source", "role"} <= report["rows"][0].keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "a101"], "unknown target 'a101' (did you mean a100?); there are some for a100, a18pro, cpu-1"),
        (["--target", "rtx4090"], "no published figures for 'rtx4090'"),
        (["--report", "rows.txt"], "must end in .json"),
        (["--report", "{folder}"], "is a directory"),
        (["--reprot", "x"], "No such option"),
    ],
)
def test_bad_input_is_one_line_and_code_2(few, tmp_path, capsys, arguments, message):
    folder = tmp_path / "folder.json"
    folder.mkdir()
    assert main(["validate", *(a.format(folder=folder) for a in arguments)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_the_rows_of_a_cpu_are_those_that_the_benchmark_recorded():
    rows = validate("cpu-1", providers=[cpu_rows]).rows
    recorded = json.loads(PATH.read_text())["cases"]
    assert [row.figure for row in rows] == [case["measured"] for case in recorded]
    assert {(row.role, row.quantity, row.target) for row in rows} == {("held-out", "latency_s", "cpu-1")}
    assert len({row.name.partition(",")[0] for row in rows}) >= 8
    assert validate("a100", providers=[cpu_rows]).rows == ()


def test_a_record_that_is_missing_is_our_bug(monkeypatch, tmp_path):
    monkeypatch.setattr("vgcomp.validate.cpu.PATH", tmp_path / "none.json")
    with pytest.raises(InternalError, match=r"none\.json"):
        validate("cpu-1", providers=[cpu_rows])
