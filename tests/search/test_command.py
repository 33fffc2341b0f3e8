"""``vgcomp search``: what it prints, writes and refuses, and what becomes of it when it is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.search.support import SPACE, cost, quality
from vgcomp import Program
from vgcomp.cli.main import main

ROOT = Path(__file__).parents[2]
HERE = "tests.search.support"
GIVEN = ("--quality", f"{HERE}:quality", "--cost", f"{HERE}:cost", "--jobs", "1", "--target", "a18pro")


@pytest.fixture
def space(tmp_path: Path) -> str:
    SPACE.save(tmp_path / "space.json")
    return str(tmp_path / "space.json")


@pytest.fixture
def table(tmp_path: Path) -> str:
    """The whole space's figures, as a saved table."""
    lines = []
    for candidate in SPACE.every():
        named = SPACE.named(candidate)
        lines.append(json.dumps({"candidate": named, "quality": quality(named), **cost(named)}))
    (tmp_path / "table.jsonl").write_text("\n".join(lines))
    return str(tmp_path / "table.jsonl")


def test_a_search_prints_a_front_and_writes_it(space, table, tmp_path, capsys):
    report, out = tmp_path / "r.json", tmp_path / "out"
    tables = ("--quality", table, "--cost", table, "--jobs", "1")
    options = ("--evaluations", "30", "--report", str(report), "-o", str(out), "--keep", "1")
    assert main(["search", space, *tables, *options]) == 0
    printed = capsys.readouterr()
    assert "of 30 candidates evaluated are the front" in printed.out and printed.err == ""
    found = json.loads(report.read_text())
    assert (found["evaluations"], found["resumed"], found["failed"]) == (30, 0, 0)
    assert found["seconds"] > 0 and found["candidates_per_second"] == pytest.approx(30 / found["seconds"])
    assert found["hypervolume"] > 0 and found["hypervolume_unit"] == "quality·s·bytes"
    assert set(found["units"]) >= {"seconds", "candidates_per_second", "quality", "latency_s", "memory_bytes"}
    for point in found["front"]:
        assert point["quality"] == pytest.approx(quality(point["candidate"]))
        assert point["latency_s"] == cost(point["candidate"])["latency_s"]
    page = (out / "front.html").read_text()
    assert page.count('<circle class="front"') == len(found["front"])
    assert not re.search(r'(src|href)="', page)  # nothing is fetched
    kinds = dict(Program.load(out / "candidate-1").source.fields)["temporal"]
    assert found["front"][0]["candidate"]["temporal.mid"] in kinds.split("+")
    assert sorted(path.name for path in out.iterdir()) == ["candidate-1", "front.html", "front.json"]


def test_algorithm_a1_prints_its_trace_in_the_papers_terms(space, capsys):
    limits = ("--engine", "a1", "--latency", "0.9", "--mem", "1.4GB", "--evaluations", "60")
    assert main(["search", space, *GIVEN, *limits]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Coarse search: ") and "selfattention3d[down.0.0]" in lines[0]
    head = next(line for line in lines if line.startswith("Condition"))
    columns = ["Action", "ΔQ", "ΔLatency", "ΔQ/ΔLatency", "ΔMemory", "ΔQ/ΔMemory", "T", "M"]
    assert re.split(r"\s{2,}", head.strip())[1:] == columns
    assert any(re.match(r"T not satisfied\s+A⁻ \w+\[[\w.]+\]\s+-0\.", line) for line in lines)


def test_nothing_within_the_limits_is_exit_code_4_with_the_nearest(space, capsys):
    assert main(["search", space, *GIVEN, "--evaluations", "20", "--latency", "0.4"]) == 4
    error = capsys.readouterr().err
    assert error == (
        "vgcomp: none of 20 candidates is within 400 ms; the nearest takes 500 ms and 954MiB: none+none+none+none\n"
    )


def test_evaluations_that_all_fail_are_no_result(space, tmp_path, capsys):
    (tmp_path / "t.json").write_text(json.dumps([{"candidate": ["conv1d"] * 4, "quality": 1}]))
    given = ("--quality", str(tmp_path / "t.json"), "--cost", f"{HERE}:cost", "--jobs", "1", "--engine", "random")
    assert main(["search", space, *given, "--evaluations", "3"]) == 2
    assert re.match(r"vgcomp: all 3 evaluations failed, 1 of them so: .* has no line for ", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("options", "code", "match"),
    [
        ([], 2, "--quality is wanted, nothing stands in for it: package.module:function"),
        (["--quality", "guess"], 2, "--quality guess: it is package.module:function"),
        (["--quality", "no.such:function"], 2, "no.such:function cannot be loaded: ModuleNotFoundError"),
        (["--quality", f"{HERE}:SPACE"], 2, "is a Space, not a function"),
        (["--quality", "absent.json"], 2, "absent.json cannot be read"),
        (["--quality", f"{HERE}:quality", "--engine", "a1"], 2, "give --latency or --mem"),
        (["--quality", f"{HERE}:quality", "--resume"], 2, "add --journal FILE"),
        (["--quality", f"{HERE}:quality", "--report", "x.txt"], 2, "must end in .json or .html"),
        (["--quality", f"{HERE}:quality", "--objectives", "beauty"], 2, "'beauty' is not one of quality"),
        (["--quality", f"{HERE}:quality", "--objectives", "quality"], 2, "one objective has no front"),
        (["--quality", f"{HERE}:quality", "--cost", "cheap"], 2, "--cost cheap: it is compiled, package.module"),
        (["--quality", "loss:nowhere"], 2, "nowhere"),
    ],
)
def test_what_is_wrong_is_one_line(space, options, code, match, capsys):
    given = () if "--cost" in options else ("--cost", f"{HERE}:cost")
    assert main(["search", space, *given, *options]) == code
    error = capsys.readouterr().err
    assert match in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("extra", "options"), [("pymoo", ["--engine", "nsga2"]), ("ray", ["--ray", "local"])], ids=["pymoo", "ray"]
)
def test_an_extra_that_is_missing_is_exit_code_5(space, extra, options, monkeypatch, capsys):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == extra else find(name, *rest))
    assert main(["search", space, *GIVEN, *options]) == 5
    assert f"needs {extra}, which is not installed: pip install 'vgcomp[" in capsys.readouterr().err


# -- as a process ------------------------------------------------------------------------------------


def start(space: str, *options: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "vgcomp", "search", space, *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_search_that_is_killed_goes_on_and_ends_the_same(space, sign, tmp_path):
    """Its evaluator stops when the journal has twelve lines and says so on a pipe; then the search is killed."""
    fifo, journal = tmp_path / "stuck", tmp_path / "journal.jsonl"
    os.mkfifo(fifo)
    given = ("--quality", f"{HERE}:stuck", "--cost", f"{HERE}:cost", "--evaluations", "40")
    marks = {"VGCOMP_TEST_STUCK": str(fifo), "VGCOMP_TEST_JOURNAL": str(journal)}
    process = start(space, *given, "--jobs", "2", "--journal", str(journal), **marks)
    with fifo.open() as pipe:  # opens when a worker does
        assert pipe.read(1) == "!"
    process.send_signal(sign)
    _, error = process.communicate(timeout=300)
    assert process.returncode == (-signal.SIGKILL if sign == signal.SIGKILL else 130)
    if sign == signal.SIGINT:
        assert "the same command with --resume goes on\nvgcomp: interrupted\n" in error
    held = len(journal.read_text().splitlines()) - 1
    assert 12 <= held < 40
    found = []
    for path in (journal, tmp_path / "whole.jsonl"):
        report = path.with_suffix(".json")
        resumed = ("--jobs", "1", "--journal", str(path), "--resume", "--report", str(report))
        assert main(["search", space, *given, *resumed]) == 0
        found.append(json.loads(report.read_text()))
    assert [each["resumed"] for each in found] == [held, 0]
    assert found[0]["front"] == found[1]["front"]
