"""``vgcomp optimize`` of whole pipelines: exit codes, what is written, what is refused in time."""

from __future__ import annotations

from pathlib import Path

import pytest

from vgcomp.cli.main import main
from vgcomp.generation.report import GenerationReport
from vgcomp.models.pipelines import PIPELINES, Generation, Part, Pipeline
from vgcomp.program import Program
from vgcomp.units import MIB


def _stages(g: Generation) -> tuple[Part, ...]:
    size = {"frames": g.frames, "height": g.height, "width": g.width}
    return (
        Part("text encoder", "clip-vit-l-text-small", {}, 2, "2 prompts"),
        Part("vae decoder", "sd-vae-decoder-small", size, after=MIB),
    )


@pytest.fixture(autouse=True)
def _a_small_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """``tiny``; and one that has its name in common with a network."""
    for name in ("tiny", "clip-vit-l-text-small"):
        monkeypatch.setitem(PIPELINES, name, Pipeline(name, "small", Generation(1, 64, 64, 2), "Euler", _stages))


def test_a_pipeline_is_planned_written_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, md = tmp_path / "out", tmp_path / "r.md"
    assert main(["optimize", "tiny", "--mem", "1GB", "--set", "frames=2", "-o", str(out), "--report", str(md)]) == 0
    said = capsys.readouterr().out
    assert "tiny on a100, budget 1.00 GB: frames 2, height 64" in said
    assert "Memory needed" in said
    report = GenerationReport.from_json((out / "report.json").read_text())
    assert report.sampler == "Euler"
    assert report.settings["frames"] == 2
    assert md.read_text() == (out / "report.md").read_text() == report.to_markdown()
    assert Program.load(out / "vae-decoder").outputs[0].meta["val"].shape == (2, 3, 64, 64)
    assert Program.load(out / "text-encoder").name == "clip-vit-l-text-small"


def test_a_dry_run_writes_only_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, report = tmp_path / "out", tmp_path / "r.json"
    assert main(["optimize", "tiny", "-o", str(out), "--report", str(report), "--dry-run"]) == 0
    assert not out.exists()
    assert GenerationReport.from_json(report.read_text()).budget_bytes == 80_000_000_000, "all that the target has"
    capsys.readouterr()


def test_too_small_a_budget_is_exit_code_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["optimize", "tiny", "--mem", "440MiB"]) == 4
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no plan of tiny fits 440 MiB: vae decoder takes" in error
    assert "the smallest feasible is --mem" in error
    assert "in vae decoder stands at its peak" in error


def test_a_shared_name_is_the_networks_unless_the_pipeline_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["optimize", "clip-vit-l-text-small", "--pipeline", "--mem", "1GB"]) == 0
    assert "vae decoder" in capsys.readouterr().out
    assert main(["optimize", "clip-vit-l-text-small", "--passes", "canonicalize"]) == 0
    assert "Peak of activations" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["tiny", "--passes", "canonicalize"], "--passes is for a single network"),
        (["tiny", "--emit", "onnx"], "--emit is for a single network"),
        (["tiny", "--check"], "--check is for a single network"),
        (["tiny", "--set", "depth=3"], "tiny has no setting 'depth'; it has frames, height, width, steps"),
        (["tiny", "--set", "steps=0"], "steps is a whole number above 0"),
        (["tiny", "--report", "r.html"], ".json, .md"),
        (["tinny"], "did you mean 'tiny'?"),
        (["clip-vit-l-text", "--pipeline"], "no pipeline is called 'clip-vit-l-text'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str], args: list[str], said: str) -> None:
    assert main(["optimize", *args]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert said in captured.err


def test_other_commands_say_what_a_pipeline_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "tiny"]) == 2
    assert "tiny is a whole pipeline" in capsys.readouterr().err
    assert main(["models"]) == 0
    assert "Stable Video Diffusion XT" in capsys.readouterr().out


def test_every_pipeline_of_the_zoo_has_networks_of_the_zoo() -> None:
    from vgcomp.models import find

    for pipeline in PIPELINES.values():
        for part in pipeline.stages(pipeline.defaults):
            find(part.network).settings(part.settings)
            assert part.runs > 0
