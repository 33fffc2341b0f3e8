"""The commands that only look: inspect, plan, verify and the lists."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.cli import fake
from vgcomp.cli.main import main


def save(folder: Path, factor: float = 1.0) -> str:
    """A network whose inner tensor stands at the peak: 2×64 between 2×8 and 2×8."""
    from vgcomp import capture

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 64), nn.SiLU(), nn.Linear(64, 8))
    with torch.no_grad():
        network[0].weight.mul_(factor)
    capture(network, (torch.randn(2, 8),), name="tiny").save(folder)
    return str(folder)


@pytest.fixture
def saved(tmp_path: Path) -> str:
    return save(tmp_path / "tiny")


def test_inspect_counts(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", saved]) == 0
    out = capsys.readouterr().out
    rows = {line[:24].strip(): line[24:].strip() for line in out.splitlines()}
    assert rows["MACs"] == format_macs(2 * 8 * 64 * 2)
    assert "1.10 K" in rows["Parameters"]  # 8·64 + 64 + 64·8 + 8
    assert "1.06 KiB" in rows["Peak of activations"]  # input and two of 2×64, fp32
    assert "Lower bound, any order" in rows
    linear = next(line for line in out.splitlines() if line.startswith("linear"))
    assert linear.split()[1] == "2"


def format_macs(macs: int) -> str:
    from vgcomp.units import format_count

    return format_count(macs)


def test_inspect_prints_the_program(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", saved, "--text"]) == 0
    assert "silu(" in capsys.readouterr().out


def test_plan_lists_what_is_alive(saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", saved, "--top", "1"]) == 0
    out = capsys.readouterr().out
    assert "Alive at the peak, while silu runs" in out
    assert "2×64" in out
    assert "2 more" in out


def test_plan_with_a_budget_shows_the_result(
    saved: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "vgcomp.optimize", fake.module())
    assert main(["plan", saved, "--mem", "1MB"]) == 0
    assert "Peak 1.06 KiB of activations" in capsys.readouterr().out
    assert main(["plan", saved, "--mem", "six"]) == 2


def test_the_chart_draws_both_and_the_budget() -> None:
    from tests.report import sample
    from vgcomp.cli.chart import chart

    class Timed(sample.FakeTimeline):
        latency_s = 0.6

    before, after = (Timed(t.entries, t.peak_activation_bytes) for t in (sample.timeline(2.2), sample.timeline(0.77)))
    lines = chart(after, before=before, budget=5 * 2**30, width=80).plain.splitlines()
    assert lines[0].startswith("  11.5 GiB │")
    assert "░" in lines[0]
    assert any("┄" in line and "budget 5.00 GiB" in line for line in lines)
    assert lines[13].count("█") > 35
    assert {len(line) for line in lines[:5]} == {92}


def test_verify_agrees_and_differs(saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", saved, save(tmp_path / "same"), "--exact"]) == 0
    assert "agree" in capsys.readouterr().out
    assert main(["verify", saved, save(tmp_path / "other", 1.5)]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "differ" in error
    assert main(["verify", saved, str(tmp_path / "other"), "--tolerance", "10"]) == 0


def test_verify_refuses_another_interface(saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vgcomp import capture

    capture(nn.SiLU(), (torch.randn(3, 8),), name="other").save(tmp_path / "other")
    assert main(["verify", saved, str(tmp_path / "other")]) == 2
    assert "inputs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("targets", ["a100", "a18pro", "rtx5090"]),
        ("models", ["svd-unet", "wan-1.3b-small"]),
        ("passes", ["canonicalize"]),
    ],
)
def test_lists(command: str, expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command]) == 0
    first = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert set(expected) <= set(first)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from vgcomp import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vgcomp {__version__}\n"


def test_nothing_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert "optimize" in captured.out
    assert captured.err == ""
