"""``vgcomp optimize --emit coreml``: what is written, how it is checked and run, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.backends.coreml import support
from vgcomp.backends.coreml import check as check_module
from vgcomp.backends.coreml import require
from vgcomp.backends.coreml.artifact import is_artifact, read_manifest
from vgcomp.backends.coreml.package import MODEL, read_package
from vgcomp.capture import capture
from vgcomp.cli.main import main
from vgcomp.errors import ModelError


class Network(nn.Module):
    """Frames, a window in time, a timestep: what makes a video network hard for the engine."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(4, 64, 3, padding=1)
        self.norm = nn.GroupNorm(4, 64)
        self.time = nn.Linear(8, 64)
        self.out = nn.Conv3d(64, 4, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        angles = timestep * torch.exp(-torch.arange(4) / 4 * 9.21)
        scale = self.time(torch.cat([angles.sin(), angles.cos()]))
        hidden = torch.nn.functional.silu(self.norm(self.conv(x)))
        return x + self.out(hidden * (1 + scale.reshape(1, 64, 1, 1, 1)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("network") / "tiny"
    given = (torch.randn(1, 4, 5, 12, 16), torch.tensor(999.0))
    capture(Network().eval(), given, name="tiny", input_names=("x", "timestep")).save(folder)
    return folder


def optimize(model: Path | str, *options: str) -> int:
    return main(["optimize", str(model), "--target", "a18", "--emit", "coreml", *options])


@pytest.fixture(scope="module")
def written(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("artifact") / "out"
    passes = "canonicalize,legalize-coreml,schedule,partition{max-weights=14500}"
    assert optimize(saved, "--mem", "1GB", "--check", "--passes", passes, "-o", str(out)) == 0
    return out / "optimized.coreml"


def test_the_folder_is_what_its_manifest_says(written: Path) -> None:
    manifest = read_manifest(written)
    assert is_artifact(written)
    assert sorted(p.name for p in written.parent.iterdir()) == ["optimized.coreml", "report.html", "report.json"]
    parts = [part.package for part in manifest.parts]
    assert len(parts) > 1
    assert sorted(p.name for p in written.iterdir()) == sorted([*parts, "manifest.json"])
    files = {p.relative_to(written).as_posix() for p in written.rglob("*") if p.is_file()} - {"manifest.json"}
    assert files == set(manifest.files)
    assert [(s.name, s.shape, s.dtype) for s in manifest.inputs] == [
        ("x", (1, 4, 5, 12, 16), "float16"),
        ("timestep", (1,), "float32"),
    ]
    assert [(s.shape, s.dtype) for s in manifest.outputs] == [((1, 4, 5, 12, 16), "float16")]
    assert manifest.budget_bytes == 10**9
    assert manifest.predicted.peak_bytes == max(part.peak_bytes for part in manifest.parts)
    assert manifest.predicted.resident_bytes >= manifest.predicted.peak_bytes
    assert manifest.predicted.latency_s == pytest.approx(sum(part.latency_s for part in manifest.parts))
    assert [step.name for step in manifest.plan][:2] == ["unroll-loops", "half-precision"]
    assert "aten.sin" in manifest.parts[0].cpu_ops
    report = json.loads((written.parent / "report.json").read_text(encoding="utf-8"))
    assert report["check"]["status"] == "passed"


def test_packages_are_ml_programs_for_ios_18_in_fp16(written: Path) -> None:
    import coremltools as ct

    for part in read_manifest(written).parts:
        package = read_package(written / part.package)
        assert package.specification == ct.target.iOS18.value
        assert package.opset == "CoreML8"
        assert package.max_rank <= 5
        assert "FLOAT16" in package.kinds()
        model = ct.models.MLModel(str(written / part.package), skip_model_load=True)
        given = {item.name for item in model.get_spec().description.input}
        assert given == {item.feature for item in part.inputs}


def test_run_interprets_it_and_says_so(
    saved: Path, written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vgcomp.backends.torch_module import TorchModule
    from vgcomp.program import Program

    whole = Program.load(saved)
    x = torch.randn(1, 4, 5, 12, 16, generator=torch.Generator().manual_seed(1))
    np.savez(tmp_path / "x.npz", x=x.numpy(), timestep=np.float32(751.0))
    files = ["--input", str(tmp_path / "x.npz"), "--output", str(tmp_path / "y.npz")]
    assert main(["run", str(written), *files]) == 0
    assert "Core ML runs on Apple's devices: this was its reference" in capsys.readouterr().out
    (wanted,) = TorchModule(whole)(x, torch.tensor(751.0))
    with np.load(tmp_path / "y.npz") as file:
        found = torch.from_numpy(file[whole.output_names[0]]).float()
    assert float((found - wanted).abs().max() / wanted.abs().max()) < support.TOLERANCE
    assert main(["bench", str(written)]) == 5
    assert "time it there" in capsys.readouterr().err


def test_a_schedule_is_folded_and_noted(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert optimize(saved, "--timesteps", "999,749,249", "--check", "-o", str(out)) == 0
    manifest = read_manifest(out / "optimized.coreml")
    assert manifest.domains == {"timestep": (249.0, 749.0, 999.0)}
    assert all("aten.sin" not in part.cpu_ops for part in manifest.parts)
    assert "aten.gt.Scalar" in capsys.readouterr().out


@pytest.mark.parametrize(("form", "most"), [("palettize-4", 0.6), ("linear-8", 0.7)])
def test_compressed_weights_load_less(
    saved: Path, written: Path, tmp_path: Path, form: str, most: float, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert optimize(saved, "--weights", form, "--check", "-o", str(out)) == 0
    manifest = read_manifest(out / "optimized.coreml")
    dense = sum(part.load_bytes for part in read_manifest(written).parts)
    assert manifest.weights == form
    assert sum(part.load_bytes for part in manifest.parts) < most * dense
    assert "held to no bound" in capsys.readouterr().out


def test_a_damaged_artifact_is_one_line(written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(written, broken)
    model = broken / "part1.mlpackage" / MODEL
    model.write_bytes(model.read_bytes() + b"\0")
    np.savez(tmp_path / "x.npz", x=np.zeros(1))
    files = ["--input", str(tmp_path / "x.npz"), "--output", str(tmp_path / "y.npz")]
    assert main(["run", str(broken), *files]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"vgcomp: {model} is not the file that was written: it is damaged; copy it again"
    ]
    model.unlink()
    with pytest.raises(ModelError, match="is missing"):
        read_manifest(broken)
    (broken / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="damaged"):
        read_manifest(broken)


def test_without_coremltools_it_says_how_to_get_it(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(require.importlib.util, "find_spec", lambda name: None)
    assert optimize(saved, "-o", str(tmp_path / "out")) == 5
    assert capsys.readouterr().err.splitlines() == [
        "vgcomp: the Core ML backend needs coremltools, which is not installed: pip install 'vgcomp[coreml]'"
    ]
    assert list(tmp_path.iterdir()) == []
    assert optimize(saved, "--dry-run") == 0, "a plan needs none"


def test_a_failed_check_leaves_nothing(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_module, "TOLERANCE", 1e-9)
    assert optimize(saved, "--check", "-o", str(tmp_path / "out")) == 3
    assert "differ from it by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "code", "line"),
    [
        (["--mem", "10KiB"], 4, "the smallest feasible is --mem"),
        (["--weights", "int4"], 2, "one of fp16, palettize-4"),
        (["--timesteps", "now"], 2, "'now' is not a number"),
        (["--passes", "canonicalize"], 2, "legalize-coreml comes before"),
    ],
)
def test_what_cannot_be_is_one_line(
    saved: Path, options: list[str], code: int, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = "wan-1.3b-small" if "--passes" in options else saved
    assert optimize(model, *options, "-o", str(tmp_path / "out")) == code
    (told,) = capsys.readouterr().err.splitlines()
    assert line in told
    assert list(tmp_path.iterdir()) == []


def test_other_targets_forms_and_absent_weights_are_refused(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["optimize", str(saved), "--emit", "coreml", "--target", "a100"]) == 2
    assert "--target a18" in capsys.readouterr().err
    assert main(["optimize", str(saved), "--weights", "linear-8"]) == 2
    assert "are for --emit coreml" in capsys.readouterr().err
    assert optimize("clip-vit-l-text-small", "--set", "weights=absent", "-o", str(tmp_path / "out")) == 2
    assert "has no data" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
