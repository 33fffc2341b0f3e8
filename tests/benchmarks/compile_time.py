"""Wall time and memory of ``vgcomp optimize`` on the largest network of the zoo, by depth.

    python -m tests.benchmarks.compile_time                 # minutes; writes results/
    python -m tests.benchmarks.compile_time --depths 1

Each line is a process of its own, as a user would start it: imports, capture, planning, checks and report. The budget
is given as a share of what the network takes as it is, so that plans of all depths have as much to do.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vgcomp.cost_models.analytic import AnalyticModel
from vgcomp.device_memory import fixed_bytes
from vgcomp.models import build
from vgcomp.simulate import simulate
from vgcomp.targets import load_target

RESULTS = Path(__file__).parent / "results"
NETWORK = "svd-unet"
SIZE = {"frames": 25, "height": 576, "width": 1024}
#: Layers a block at depth 1.
LAYERS = 2
#: Activation bytes allowed, of those that the network takes as it is.
SHARE = 0.45
#: What depth 1 must stay within.
MOST_SECONDS, MOST_BYTES = 60.0, 4 * 2**30


@dataclass(frozen=True)
class Row:
    """One run. ``cpu_seconds``: user and system; beside ``wall_seconds`` it tells how busy the machine was."""

    depth: int
    nodes: int
    wall_seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    before_bytes: int
    after_bytes: int
    latency_ratio: float
    passes: dict[str, float]


def measure(depth: int) -> Row:
    """Runs the command on the network with ``depth`` times its layers."""
    settings = {**SIZE, "layers": LAYERS * depth}
    target = load_target("a100")
    plain = simulate(build(NETWORK, **settings), target, AnalyticModel(target))
    budget = plain.weight_bytes + fixed_bytes(target) + int(SHARE * plain.peak_activation_bytes)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "vgcomp", "optimize", NETWORK, "--target", "a100", "--mem", str(budget)]
        command += [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        command += ["--dry-run", "--report", str(report)]
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begin
        if status:
            raise SystemExit(f"{' '.join(command)}: exit status {os.waitstatus_to_exitcode(status)}")
        found = json.loads(report.read_text(encoding="utf-8"))
    before, after = found["before"], found["after"]
    return Row(
        depth, before["nodes"], wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024,
        before["peak_activation_bytes"], after["peak_activation_bytes"], after["latency_s"] / before["latency_s"],
        {record["name"]: round(record["seconds"], 2) for record in found["passes"]},
    )  # fmt: skip


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    lines = [
        "| depth | nodes | wall, s | CPU, s | CPU a node, ms | memory, GiB | activations, GiB | latency |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines.extend(
        f"| {row.depth}× | {row.nodes} | {row.wall_seconds:.0f} | {row.cpu_seconds:.0f} "
        f"| {1000 * row.cpu_seconds / row.nodes:.1f} | {row.peak_rss_bytes / 2**30:.1f} "
        f"| {row.before_bytes / 2**30:.2f} → {row.after_bytes / 2**30:.2f} | {row.latency_ratio:.3f} |"
        for row in rows
    )
    return "\n".join(lines) + "\n"


def write(rows: Sequence[Row], load: float, folder: Path) -> None:
    """``<date>-compile-time.json`` and ``.md``."""
    date = datetime.date.today().isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "schema": "vgcomp.compile-time/1", "date": date, "network": NETWORK, "settings": SIZE,
        "cores": os.cpu_count(), "load": round(load, 1), "rows": [asdict(row) for row in rows],
    }  # fmt: skip
    (folder / f"{date}-compile-time.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    text = (
        f"Measured {date} by `python -m tests.benchmarks.compile_time`: `vgcomp optimize {NETWORK}`, 25 frames of "
        f"576×1024, with {SHARE:.0%} of the unmodified activations allowed. {os.cpu_count()} cores; {load:.1f} other "
        "processes wanted them at the start.\n\n"
    )
    (folder / f"{date}-compile-time.md").write_text(text + markdown(rows), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 0 where depth 1 stays within its bars, else 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--no-write", action="store_true", help="print the table and write nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    rows: list[Row] = []
    for depth in options.depths:
        rows.append(measure(depth))
        print(markdown(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
        if not options.no_write:
            write(rows, load, options.out)
    print(markdown(rows))
    slow = [r for r in rows if r.depth == 1 and (r.wall_seconds > MOST_SECONDS or r.peak_rss_bytes > MOST_BYTES)]
    return int(bool(slow))


if __name__ == "__main__":
    sys.exit(main())
