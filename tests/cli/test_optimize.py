"""``vgcomp optimize`` around the optimizer: what is written, what is said, and what is refused in time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from tests.cli import fake
from vgcomp.cli.main import main
from vgcomp.result import Report


@pytest.fixture
def saved(tmp_path: Path) -> str:
    """A folder that holds a small Program."""
    return save_tiny(tmp_path / "tiny")


def save_tiny(folder: Path) -> str:
    from vgcomp import capture

    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.SiLU())
    capture(network, (torch.randn(2, 8),), name="tiny").save(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def _fake_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vgcomp.optimize", fake.module())


def test_results_and_reports_are_written(saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, md = tmp_path / "out", tmp_path / "r.md"
    assert main(["optimize", saved, "--mem", "6GB", "-o", str(out), "--report", str(md)]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["optimized", "report.html", "report.json"]
    report = Report.from_json((out / "report.json").read_text())
    assert sorted(report.artifacts) == sorted(str(p) for p in out.iterdir())
    assert md.read_text().startswith("# tiny on a100")
    captured = capsys.readouterr()
    assert captured.err == "", "quiet in a pipe"
    assert "Peak of activations" in captured.out
    assert "×1.005" in captured.out
    assert str(md) in captured.out
    assert "\x1b" not in captured.out, "no colours in a pipe"


def test_a_second_run_replaces_the_first_and_leaves_other_files(saved: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["optimize", saved, "-o", str(out)]) == 0
    (out / "mine.txt").write_text("keep")
    (out / "report.json").write_text("stale")
    assert main(["optimize", saved, "-o", str(out)]) == 0
    assert json.loads((out / "report.json").read_text())["schema"] == "vgcomp.report/1"
    assert (out / "mine.txt").read_text() == "keep"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_dry_run_writes_only_the_report(saved: str, tmp_path: Path) -> None:
    out, report = tmp_path / "out", tmp_path / "r.json"
    assert main(["optimize", saved, "-o", str(out), "--report", str(report), "--dry-run"]) == 0
    assert not out.exists()
    assert json.loads(report.read_text())["artifacts"] == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--mem", "six"], "'six' is not a memory size"),
        (["--mem", "0"], "more than 0"),
        (["--report", "r.pdf"], ".json, .html, .md, .svg"),
        (["--report", "no/such/r.json"], "does not exist"),
        (["--passes", "slice-and-grop"], "did you mean slice-and-group"),
        (["--passes", "canonicalize{"], "unbalanced"),
        (["--set", "frames"], "write name=value"),
        (["--set", "frames=2"], "its shapes are fixed"),
        (["--emit", "tpu"], "tpu"),
        (["--nonsense"], "No such option"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    saved: str, capsys: pytest.CaptureFixture[str], args: list[str], said: str
) -> None:
    assert main(["optimize", saved, *args]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("vgcomp: ")
    assert said in captured.err


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("svd-unt", "svd-unet"),
        ("missing.onnx", "missing.onnx does not exist"),
        ("missing/folder", "does not exist"),
        ("{empty}", "is a directory without program.json"),
        ("{text}", "is not a model"),
        ("{broken}", "broken.onnx"),
    ],
)
def test_a_wrong_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x07\x12\xff\xff")
    places = {
        name: tmp_path / file for name, file in (("empty", "empty"), ("text", "notes.txt"), ("broken", "broken.onnx"))
    }
    assert main(["optimize", source.format(**places)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error


def test_a_file_where_the_folder_should_go(saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert main(["optimize", saved, "-o", str(tmp_path / "file")]) == 2
    assert main(["optimize", saved, "-o", str(tmp_path / "file" / "deep")]) == 2
    assert capsys.readouterr().err.count("is a file: name a directory") == 2
    assert (tmp_path / "file").read_text() == "mine"


def test_a_models_own_weights_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = save_tiny(tmp_path / "out" / "optimized")
    before = {p.name: p.read_bytes() for p in Path(saved).iterdir()}
    assert main(["optimize", saved, "-o", str(tmp_path / "out")]) == 2
    assert "holds the model's weights" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in Path(saved).iterdir()} == before


def test_emit_onnx(saved: str, tmp_path: Path) -> None:
    assert main(["optimize", saved, "-o", str(tmp_path / "out"), "--emit", "onnx"]) == 0
    assert (tmp_path / "out" / "optimized.onnx").is_file()


def test_an_unknown_target_is_unavailable(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["optimize", saved, "--target", "a101"]) == 5
    assert "did you mean a100" in capsys.readouterr().err


@pytest.mark.parametrize(("wish", "code"), [("infeasible", 4), ("check", 3), ("unavailable", 5), ("memory", 2)])
def test_exit_codes(
    saved: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wish: str,
    code: int,
) -> None:
    monkeypatch.setenv("VGCOMP_FAKE", wish)
    assert main(["optimize", saved, "--mem", "1MB", "-o", str(tmp_path / "out")]) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_infeasible_gives_the_budget_to_ask_for(
    saved: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VGCOMP_FAKE", "infeasible")
    assert main(["optimize", saved, "--mem", "1MB"]) == 4
    error = capsys.readouterr().err
    assert "--mem 2385MiB" in error, "rounded up: the figure must be feasible as it is printed"
    assert "up_blocks_3_conv1 stands at its peak" in error


@pytest.mark.parametrize("wish", ["internal", "bug"])
def test_a_bug_shows_where_and_how_to_see_it_again(
    saved: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wish: str
) -> None:
    monkeypatch.setenv("VGCOMP_FAKE", wish)
    assert main(["optimize", saved, "--mem", "1GB"]) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    last = error.splitlines()[-1]
    assert f"reproduce with: vgcomp optimize {saved} --mem 1GB" in last
    assert wish == "bug" or "pass slice-and-group" in last


def test_without_a_budget_it_says_which_point_is_written_and_how_to_get_another(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VGCOMP_FAKE", "front")
    assert main(["optimize", saved, "-o", str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "The fastest point is the result; for another pass --mem with the memory it needs" in said
    assert "such as --mem 2794MiB" in said, "the least memory that is not many times as slow"
    assert "The JSON report has 2 further points" in said
    assert "×41.597" in said
    assert "×19.967" not in said


def test_explain_lists_reasons(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", saved]) == 0
    assert "keys would cost" in capsys.readouterr().out
    assert main(["explain", saved, "--node", "mid_block"]) == 0
    assert "two regions" not in capsys.readouterr().out
