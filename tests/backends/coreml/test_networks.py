"""Networks end to end: the command, then the packages' own bytes beside torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.backends.coreml import support  # noqa: F401  (skips without coremltools)
from vgcomp.backends.coreml.artifact import read_manifest
from vgcomp.backends.onnx_export import export_onnx
from vgcomp.cli.main import main
from vgcomp.load import load


def emitted(model: str, out: Path, *options: str) -> None:
    command = ["optimize", model, "--target", "a18", "--mem", "6GB", "--emit", "coreml", "--check", "-o", str(out)]
    assert main([*command, *options]) == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert (report["check"]["status"], report["check"]["shape"]) == ("passed", "full")


def test_the_unet_from_an_onnx_file(tmp_path: Path) -> None:
    onnx = tmp_path / "svd-unet-small.onnx"
    export_onnx(load("svd-unet-small"), onnx)
    emitted(str(onnx), tmp_path / "out")
    manifest = read_manifest(tmp_path / "out" / "optimized.coreml")
    assert [spec.name for spec in manifest.inputs] == [
        "sample",
        "timestep",
        "encoder_hidden_states",
        "added_time_ids",
    ]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("animatediff-unet-small", marks=pytest.mark.slow),
        pytest.param("snapgen-v-small", marks=pytest.mark.slow),
        "svd-vae-decoder-small",
        pytest.param("wan-vae-decoder-small", marks=pytest.mark.slow),
        pytest.param("cogvideox-vae-decoder-small", marks=pytest.mark.slow),
        "ltx-vae-decoder-small",
        "wan-1.3b-small",
        "cogvideox-2b-small",
        "ltx-video-small",
        "clip-vit-l-text-small",
        "clip-vit-h-vision-small",
        "t5-xxl-encoder-small",
    ],
)
def test_a_network_of_the_zoo(name: str, tmp_path: Path) -> None:
    emitted(name, tmp_path / "out")


def test_the_unet_in_parts_with_a_schedule(tmp_path: Path) -> None:
    passes = "canonicalize,legalize-coreml,schedule,partition{max-weights=8MB}"
    emitted("svd-unet-small", tmp_path / "out", "--timesteps", "1.6377,0.7,-0.5", "--passes", passes)
    manifest = read_manifest(tmp_path / "out" / "optimized.coreml")
    assert len(manifest.parts) >= 3
    assert all(part.load_bytes <= 8_100_000 for part in manifest.parts)


@pytest.mark.slow
def test_the_whole_unet_is_planned_without_weights(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["optimize", "svd-unet", "--target", "a18", "--mem", "6GB", "--emit", "coreml", "--dry-run"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "Predicted peak" in told
    assert "Dry run: nothing was written" in told
    rows = [line.split() for line in told.split("Parts\n")[1].splitlines()[1:] if line.strip()[:1].isdigit()]
    assert len(rows) > 1
    assert "aten.convolution" not in told.split("On the CPU:")[1].splitlines()[0]
