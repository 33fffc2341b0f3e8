"""``vgcomp rehash``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rehash.support import program
from vgcomp.cli.main import main

SMALL = ["--steps", "6", "--full", "3", "--clips", "1"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    program("transformer").save(folder / "denoiser")
    return str(folder / "denoiser")


def test_it_writes_both_programs_and_the_table(saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["rehash", saved, *SMALL, "--psnr", "-100", "--check", "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "F" in said.split("Steps: ")[1][:6]
    assert "a reuse step still depends on the latent" in said.lower()
    assert "PSNR on clips not calibrated on" in said
    assert sorted(path.name for path in out.iterdir()) == ["full", "reuse", "schedule.json"]
    assert main(["inspect", str(out / "reuse")]) == 0


def test_a_bound_that_is_missed_is_no_success(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rehash", saved, *SMALL, "--psnr", "500"]) == 3
    assert "raise --full" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["--latent", "x"], 2, "no input 'x'"),
        (["--sampler", "x"], 2, "no sampler is called 'x'"),
        (["--mem", "1kB"], 4, "the smallest feasible is"),
        (["--full", "99"], 2, "99 full steps"),
        (["--latency", "1e-9"], 2, "no schedule takes at most 1.00 ns"),
    ],
)
def test_mistakes_end_with_one_line(
    saved: str, arguments: list[str], code: int, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*SMALL, *arguments]
    assert main(["rehash", saved, *given]) == code
    assert what in capsys.readouterr().err
