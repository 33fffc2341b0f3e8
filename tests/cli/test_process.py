"""The command as a process: interrupts, full disks, closed pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_optimize import save_tiny

ROOT = Path(__file__).parents[2]
FAKE = [sys.executable, "-m", "tests.cli.fake"]
REAL = [sys.executable, "-m", "vgcomp"]


def start(command: list[str], *args: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command, *args],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore interrupts, and so would all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_an_interrupt_leaves_with_130_and_nothing_written(tmp_path: Path) -> None:
    saved, out = save_tiny(tmp_path / "tiny"), tmp_path / "out"
    process = start(FAKE, "optimize", saved, "-o", str(out), VGCOMP_FAKE="sleep")
    assert process.stderr is not None
    assert process.stderr.readline() == "optimizing\n"
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert (code, err) == (130, "vgcomp: interrupted\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny"]


@pytest.mark.parametrize("room", [64, 3000])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, room: int) -> None:
    saved, out = save_tiny(tmp_path / "tiny"), tmp_path / "out"
    code, _, err = finish(start(FAKE, "optimize", saved, "-o", str(out), VGCOMP_FAKE_ROOM=str(room)))
    assert code == 2, err
    assert err.startswith("vgcomp: cannot write")
    assert err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny"]


def test_a_full_disk_keeps_the_old_report(tmp_path: Path) -> None:
    saved, report = save_tiny(tmp_path / "tiny"), tmp_path / "r.json"
    report.write_text("old")
    code, _, err = finish(start(FAKE, "optimize", saved, "--report", str(report), VGCOMP_FAKE_ROOM="100"))
    assert code == 2, err
    assert str(report) in err
    assert report.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.json", "tiny"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    saved = save_tiny(tmp_path / "tiny")
    code, _, err = finish(start(FAKE, "optimize", saved, "-o", "/proc/nowhere/out"))
    assert code == 2, err
    assert err.count("\n") == 1
    assert "/proc/nowhere" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_stdout_is_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*REAL, "targets"], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    process = start(REAL, "models")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=120) == 141
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


def test_help_does_not_load_torch() -> None:
    script = "import sys; from vgcomp.cli.main import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "optimize" in done.stdout
