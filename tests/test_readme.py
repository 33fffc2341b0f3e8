"""Every command and program of the README, in a quick form: small networks instead of full-size ones."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from vgcomp.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.split("  #")[0].strip() for line in re.findall(r"^    ((?:vgcomp|make) .*)$", README, re.MULTILINE)]
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def small(command: str) -> list[str]:
    """The arguments of a ``vgcomp`` command, on the ``-small`` sibling of its network at its own size."""
    command = re.sub(r" --set \S+", "", command)
    command = re.sub(r"costs \S+", "costs space.json", command)
    command = re.sub(r"search \S+", "search space.json --evaluations 2 --jobs 1", command)
    return shlex.split(re.sub(r"\b(svd-unet|svd-vae-decoder|svd(?= ))(?!-small)", r"\1-small", command))[1:]


@pytest.fixture
def _with_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with ``model.onnx``, a small search space and a quality, to work in."""
    from vgcomp import capture
    from vgcomp.backends.onnx_export import export_onnx
    from vgcomp.space import Choice, Space

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.SiLU())
    export_onnx(capture(network, (torch.randn(4, 4, 16, 16),), name="model"), tmp_path / "model.onnx")
    fixed = "+".join(["none"] * 9)
    layer = Choice("temporal.mid", ("none", "conv1d"))
    Space("space", "snapgen-v-small", (layer,), (("temporal", fixed),)).save(tmp_path / "space.json")
    (tmp_path / "mine.py").write_text("def score(options):\n    return len(options['temporal.mid'])\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_with_a_model")
def test_the_commands_run_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    commands = [command for command in COMMANDS if command.startswith("vgcomp")]
    assert len(commands) >= 6
    for command in commands:
        assert main(small(command)) == 0, f"{command}: {capsys.readouterr().err}"
    assert Path("out/optimized.onnx").is_file()
    assert Path("out/report.html").is_file()


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make")])
@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_the_make_targets_exist(command: str) -> None:
    done = subprocess.run([*command.split(), "-n"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("_with_a_model")
def test_the_python_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = (text for text in PROGRAMS if text.startswith("import"))
    exec(compile(program, "README.md", "exec"), {"__name__": "readme"})
    before, after = map(int, capsys.readouterr().out.split())
    assert after <= 5_000_000 < before
    assert Path("out/denoiser").exists()


def test_the_files_that_it_names_exist() -> None:
    named = set(re.findall(r"`((?:passes|targets|models|vgcomp|tests)/[\w./-]*|[A-Z]+\.md)`", README))
    assert "targets/a100.toml" in named
    assert [name for name in named if not (ROOT / name).exists()] == []
