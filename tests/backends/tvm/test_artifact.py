"""The artifact: written whole, run in a fresh process, refused where it is damaged or wrongly fed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.backends.tvm import support  # noqa: F401  (skips without TVM)
from vgcomp.backends.tvm import build as build_module
from vgcomp.backends.tvm import require
from vgcomp.backends.tvm.artifact import Predicted, read_manifest, write_artifact
from vgcomp.backends.tvm.build import build_library
from vgcomp.backends.tvm.runtime import Artifact
from vgcomp.capture import capture
from vgcomp.cli.main import main
from vgcomp.errors import ModelError, Unavailable, UsageError
from vgcomp.memory import peak_activation_bytes
from vgcomp.program import Program


def _network() -> tuple[nn.Module, Program, torch.Tensor]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 5, 1)).eval()
    x = torch.randn(2, 3, 8, 8)
    return module, capture(module, (x,), name="tiny"), x


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact") / "tiny"
    _, program, _ = _network()
    write_artifact(program, folder, predicted=Predicted(peak_activation_bytes=peak_activation_bytes(program)))
    return folder


def test_an_artifact_runs_in_a_fresh_process(written: Path, tmp_path: Path) -> None:
    module, program, x = _network()
    manifest = read_manifest(written)
    np.savez(tmp_path / "x.npz", **{manifest.inputs[0].name: x.numpy()})
    command = [sys.executable, "-m", "vgcomp", "run", str(written)]
    files = ["--input", str(tmp_path / "x.npz"), "--output", str(tmp_path / "y.npz")]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "y.npz") as file, torch.no_grad():
        found = torch.from_numpy(file[program.output_names[0]])
        torch.testing.assert_close(found, module(x), rtol=1e-5, atol=1e-5)


def test_the_manifest_says_what_is_in_the_folder(written: Path) -> None:
    _, program, _ = _network()
    manifest = json.loads((written / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["schema"] == "vgcomp.artifact/1"
    assert sorted(entry.name for entry in written.iterdir()) == sorted([*manifest["files"], "manifest.json"])
    assert sorted(manifest["weights"]) == sorted(program.weights)
    assert manifest["planned"]["total_bytes"] <= peak_activation_bytes(program) + 1024
    assert manifest["tuned_kernels"] <= manifest["kernels"]


def test_wrong_inputs_are_refused(written: Path) -> None:
    artifact = Artifact(written)
    name = artifact.manifest.inputs[0].name
    with pytest.raises(UsageError, match="must be float32 of shape"):
        artifact.run({name: torch.zeros(2, 3, 8, 9)})
    with pytest.raises(UsageError, match="not float64"):
        artifact.run({name: torch.zeros(2, 3, 8, 8, dtype=torch.float64)})
    with pytest.raises(UsageError, match="is missing"):
        artifact.run({})
    with pytest.raises(UsageError, match="no input 'other'"):
        artifact.run({name: torch.zeros(2, 3, 8, 8), "other": torch.zeros(1)})


def test_a_damaged_artifact_is_one_line(written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(written, broken)
    weights = broken / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    np.savez(tmp_path / "x.npz", x=np.zeros(1))
    code = main(["run", str(broken), "--input", str(tmp_path / "x.npz"), "--output", str(tmp_path / "y.npz")])
    assert code == 2
    assert capsys.readouterr().err.splitlines() == [
        f"vgcomp: {weights} is not the file that was written: it is damaged; copy it again"
    ]
    weights.unlink()
    with pytest.raises(ModelError, match="is missing"):
        read_manifest(broken)
    (broken / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="damaged"):
        read_manifest(broken)


@pytest.mark.parametrize(
    ("worker", "limit", "line"),
    [
        ("import os; os.kill(os.getpid(), 11)", 60.0, "killed by SIGSEGV"),
        ("import threading; threading.Event().wait()", 0.5, "did not finish"),
        ("raise ValueError('no such pass')", 60.0, "no such pass"),
    ],
    ids=["crash", "hang", "error"],
)
def test_a_compiler_that_fails_leaves_nothing(
    worker: str, limit: float, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "WORKER", ("-c", worker))
    _, program, _ = _network()
    with pytest.raises(Unavailable, match=line) as found:
        write_artifact(program, tmp_path / "out", predicted=Predicted(peak_activation_bytes=0), time_limit_s=limit)
    assert found.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []


def test_weights_must_be_there(tmp_path: Path) -> None:
    _, program, _ = _network()
    with pytest.raises(ModelError, match="has no data"):
        write_artifact(
            program.without_data(list(program.weights)), tmp_path / "out", predicted=Predicted(peak_activation_bytes=0)
        )


def test_without_tvm_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(require.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"pip install 'vgcomp\[tvm\]'"):
        build_library(_network()[1], tmp_path)
