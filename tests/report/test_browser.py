"""The page in a real browser: the chart is drawn, and pointing at an op names it with its bytes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.report import sample
from vgcomp.report import write_report
from vgcomp.units import format_bytes

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (  # noqa: SIM905  (one string reads as the command line does)
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --virtual-time-budget=4000 --window-size=1200,1000"
).split()


def render(page: Path, fragment: str = "") -> str:
    """The DOM after the script has run."""
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        pytest.skip("no Chromium here: the HTML report was not tried in a browser")
    command = [chromium, *FLAGS, f"--user-data-dir={page.parent / 'profile'}", "--dump-dom", page.as_uri() + fragment]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def paths(dom: str, kind: str) -> list[str]:
    return re.findall(rf'<path class="line {kind}" d="([^"]*)"', dom)


def test_both_timelines_and_both_lines_are_drawn(tmp_path: Path) -> None:
    dom = render(write_report(sample.result(), tmp_path / "report.html"))
    for kind in ("before", "after"):
        (line,) = paths(dom, kind)
        assert line.count("V") > 20
    assert '<line class="budget"' in dom
    assert "budget 4.59 GiB" in dom
    assert '<line class="lower"' in dom


def test_an_op_is_named_with_its_bytes(tmp_path: Path) -> None:
    dom = render(write_report(sample.result(), tmp_path / "report.html"), "#node=mul")
    tip = dom[dom.index('class="tip on"') :]
    tip = tip[: tip.index("</section>")]
    entry = next(e for e in sample.timeline(0.77, seconds=0.604).entries if e.name == "mul")
    assert ">mul<" in tip
    assert "14 slices in frames_0" in tip
    assert format_bytes(entry.live_bytes + 194 * sample.MIB) in tip
    assert "before: convolution" in tip


def test_without_a_budget_the_chart_is_whole_too(tmp_path: Path) -> None:
    result = sample.result(budget_bytes=None, front=sample.front())
    dom = render(write_report(result, tmp_path / "report.html"), "#node=mul")
    assert '<line class="budget"' not in dom
    assert 'class="tip on"' in dom
    assert dom.count('class="mark"') == 3, "lower bound and both peaks"
