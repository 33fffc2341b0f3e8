"""Records of a GPU: their rows, what is wrong with a bad one, and all of the benchmark that needs no GPU."""

import json

import pytest
import torch

from tests.benchmarks import gpu_validate
from vgcomp.cli.main import main
from vgcomp.errors import UsageError
from vgcomp.models import build
from vgcomp.targets import load_target
from vgcomp.validate.gpu import Case, Figures, load_record, record_rows
from vgcomp.validate.row import Context

H200 = load_target("h200")


def figures(scale=1.0, used=4_000_000_000):
    return Figures(
        latency_s=0.5 * scale,
        allocated_bytes=int(2e9 * scale),
        reserved_bytes=int(3e9 * scale),
        used_bytes=int(used * scale),
    )


@pytest.fixture
def record(tmp_path):
    cases = [
        Case(name="a network, frames 2", form="unmodified", measured=figures(), predicted=figures(1.1)),
        Case(name="a network, frames 2", form="sliced", measured=figures(used=0), predicted=figures(0.9)),
    ]
    return gpu_validate.write(cases, H200, "a card", tmp_path)


def test_rows_are_latency_and_three_weights(record):
    rows = list(record_rows(load_record(record), Context("h200")))
    assert [row.quantity for row in rows] == ["latency_s", *["peak_bytes"] * 3, "latency_s", *["peak_bytes"] * 2]
    assert rows[1].name == "a network, frames 2, unmodified, allocated"
    assert rows[0].error == pytest.approx(0.1)
    assert rows[0].role == "held-out"
    assert not list(record_rows(load_record(record), Context("a100")))


def test_the_command_shows_a_record_alone(record, tmp_path, capsys):
    report = tmp_path / "rows.json"
    assert main(["validate", "--measured", str(record), "--report", str(report)]) == 0
    assert "Mean error of latency on h200" in capsys.readouterr().out
    assert len(json.loads(report.read_text())["rows"]) == 7


def test_a_target_that_a_record_is_not_about_is_refused(record, capsys):
    assert main(["validate", "--measured", str(record), "--target", "a100"]) == 2
    assert "there are some for h200" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"date": None}, "field 'date'"),
        ({"schema": "vgcomp.gpu-validate/0"}, "field 'schema'"),
        ({"extra": 1}, "field 'extra' is unknown"),
    ],
)
def test_a_bad_record_is_one_line(record, change, told):
    record.write_text(json.dumps({**json.loads(record.read_text()), **change}))
    with pytest.raises(UsageError, match=told):
        load_record(record)


def test_a_missing_or_damaged_record_is_named(tmp_path, capsys):
    assert main(["validate", "--measured", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
    (tmp_path / "half.json").write_text("{")
    with pytest.raises(UsageError, match=r"half\.json: not JSON"):
        load_record(tmp_path / "half.json")


def test_predictions_and_weights_of_both_forms():
    forms = dict(gpu_validate.forms("svd-vae-decoder-small", {"frames": 8, "height": 256, "width": 256}, H200))
    assert set(forms) == {"unmodified", "sliced"}
    plain, sliced = (gpu_validate.predicted(forms[form], H200) for form in ("unmodified", "sliced"))
    assert sliced.allocated_bytes < plain.allocated_bytes
    assert plain.reserved_bytes < plain.used_bytes
    program = build("svd-vae-decoder-small")
    weights = gpu_validate.random_weights(program, torch.device("cpu"))
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {
        name: tuple(weight.shape) for name, weight in program.weights.items()
    }
    assert all(torch.isfinite(weight).all() for weight in weights.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu_validate.main([]) == 5
    assert "no CUDA device here" in capsys.readouterr().err
