"""Formats by suffix, destinations checked before the work, and what stands in the written text."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.report import sample
from vgcomp.errors import UsageError
from vgcomp.report import check_report_path, report_text, write_report
from vgcomp.report.data import curve, op_text, regions


@pytest.mark.parametrize("suffix", [".json", ".html", ".md", ".svg", ".HTML"])
def test_the_suffix_chooses_the_format(tmp_path: Path, suffix: str) -> None:
    path = write_report(sample.result(), tmp_path / f"report{suffix}")
    assert path.read_text().startswith(
        {".json": "{", ".html": "<!doctype html>", ".md": "# ", ".svg": "<svg"}[suffix.lower()]
    )
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name], "nothing else is left behind"


@pytest.mark.parametrize("name", ["report.pdf", "report", "no/such/folder/report.json"])
def test_a_bad_destination_is_a_usage_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        check_report_path(tmp_path / name)


def test_a_folder_is_not_a_report(tmp_path: Path) -> None:
    (tmp_path / "x.json").mkdir()
    with pytest.raises(UsageError, match="is a directory"):
        check_report_path(tmp_path / "x.json")


class _Page(HTMLParser):
    """Everything that a page might fetch, and its embedded data."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.data = ""
        self._in_data = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.fetched += [f"{tag} {values[key]}" for key in ("src", "href", "srcset") if key in values]
        self._in_data = values.get("id") == "data"

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.data += data

    def handle_endtag(self, tag: str) -> None:
        self._in_data = False


def test_the_page_holds_everything_it_needs() -> None:
    text = report_text(sample.result(), ".html")
    page = _Page()
    page.feed(text)
    assert page.fetched == []
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", text)
    content = json.loads(page.data)
    assert len(content["before"]["start"]) == 480
    assert max(content["after"]["bytes"]) == sample.timeline(0.77).peak_activation_bytes


def test_names_from_a_model_are_escaped() -> None:
    text = report_text(sample.result(model="<b>&co"), ".html")
    assert "<h1>&lt;b&gt;&amp;co</h1>" in text
    assert "</script><b>x" not in text
    assert "frames &lt;of&gt; the last block" in text


def test_a_long_timeline_is_thinned_but_keeps_its_peak() -> None:
    long = sample.timeline(1.0, ops=50_000)
    points = curve(long, limit=1000)
    assert len(points) <= 1000
    assert max(p.live_bytes for p in points) == long.peak_activation_bytes
    assert points[0].start_s == 0.0
    last = long.entries[-1]
    assert points[-1].start_s + points[-1].duration_s == pytest.approx(last.start_s + last.duration_s)


def test_regions_describe_the_loops() -> None:
    result = sample.result()
    (region,) = regions(result.program, result.timelines[1])
    assert (region.slices, region.bodies, region.ops, region.in_place) == (14, 1, 1, 1)
    assert region.axis == "dim 0 of 14"
    assert region.seconds > 0


def test_markdown_has_the_figures_and_the_check() -> None:
    text = report_text(sample.result(), ".md")
    assert "×1.005" in text
    assert "| `slice-and-group` | reassociated | yes | 3.40 |" in text
    assert "at the reduced shape frames=4, height=128, width=128: passed" in text


@pytest.mark.parametrize("suffix", [".md", ".html"])
def test_points_that_take_many_times_the_latency_are_left_to_the_json_report(suffix: str) -> None:
    text = report_text(sample.result(budget_bytes=None, front=sample.dear_front()), suffix)
    for shown in ("×1.000", "×1.514", "1.07 GiB", "×41.597"):
        assert shown in text
    for hidden in ("×12.479", "×19.967"):
        assert hidden not in text
    assert "The JSON report has 2 further points of more than ×4 the unmodified latency" in text
    content = json.loads(report_text(sample.result(front=sample.dear_front()), ".json"))
    assert len(content["front"]) == 8
    assert "further point" not in report_text(sample.result(front=sample.front()), suffix)


def test_op_names_lose_namespace_and_overload() -> None:
    assert op_text("aten.convolution.default") == "convolution"
    assert op_text("sliced") == "sliced"


def test_the_picture_is_well_formed_and_draws_both() -> None:
    tree = ElementTree.fromstring(report_text(sample.result(model="<b>&co"), ".svg"))
    paths = [node.get("class") for node in tree.iter("{http://www.w3.org/2000/svg}path")]
    assert paths == ["before", "after"]
    text = "".join(tree.itertext())
    assert "<b>&co on a100: 11.5 GiB → 4.03 GiB" in text
    assert "budget less what is no activation, 4.40 GiB" in text
