"""Full-size networks: the memory they take as they are, at almost no cost, and at the least.

    python -m tests.benchmarks.full_size                        # an hour on a CPU; writes results/
    python -m tests.benchmarks.full_size --only svd-unet --frames 14 --no-write

Everything is what ``vgcomp optimize NETWORK --target a100`` reports: fp16, tensors without data, the front of peak
against latency under the analytic cost model. A peak counts inputs, outputs and temporaries, not weights.
The decoders of Wan, CogVideoX and LTX run at the zoo's defaults: a clip of five seconds at its usual size.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from vgcomp.models import build
from vgcomp.optimize import optimize
from vgcomp.result import FrontPoint

RESULTS = Path(__file__).parent / "results"
GIB = 2**30
SIZE = {"height": 576, "width": 1024}
#: What counts as almost no cost.
LATENCY = 1.03


@dataclass(frozen=True)
class Case:
    """A network and the GiB it should come down to, at ``LATENCY`` and at all; as shares where ``shares``."""

    network: str
    settings: tuple[tuple[str, int], ...]
    cheap: float
    least: float
    shares: bool = False

    @property
    def title(self) -> str:
        return ", ".join([self.network, *(f"{value} {name}" for name, value in self.settings if name == "frames")])


def _sized(frames: int) -> tuple[tuple[str, int], ...]:
    return (("frames", frames), *SIZE.items())


CASES = (
    Case("svd-vae-decoder", _sized(14), 4.2, 2.6),
    Case("svd-vae-decoder", _sized(25), 7.4, 4.6),
    Case("svd-unet", _sized(14), 1.5, 1.2),
    Case("svd-unet", _sized(25), 2.6, 2.1),
    Case("sd-vae-decoder", _sized(16), 1.2, 0.95),
    Case("animatediff-unet", _sized(16), 1.6, 1.3),
    Case("wan-vae-decoder", (), 0.5, 0.25, shares=True),
    Case("cogvideox-vae-decoder", (), 0.5, 0.25, shares=True),
    Case("ltx-vae-decoder", (), 0.5, 0.25, shares=True),
)


@dataclass(frozen=True)
class Row:
    """One network's figures. Peaks in bytes of activations, latencies relative to the unmodified network."""

    network: str
    settings: dict[str, int]
    unmodified: int
    cheap: int
    cheap_latency: float
    cheap_bar: int
    least: int
    least_latency: float
    least_bar: int
    points: int
    seconds: float
    rss_bytes: int
    #: (activation bytes, latency ratio) of every point.
    front: list[tuple[int, float]]


def measure(case: Case, target: str) -> Row:
    """The case's front, and the two points of it that are asked for."""
    begin = time.perf_counter()
    program = build(case.network, **dict(case.settings))
    report = optimize(program, target=target).report
    before = report.before
    unit = before.peak_activation_bytes if case.shares else GIB
    cheap = least_within(report.front, LATENCY * before.latency_s)
    least = least_within(report.front, float("inf"))
    return Row(
        case.network, dict(case.settings), before.peak_activation_bytes,
        cheap.peak_activation_bytes, cheap.latency_s / before.latency_s, int(case.cheap * unit),
        least.peak_activation_bytes, least.latency_s / before.latency_s, int(case.least * unit),
        len(report.front), time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        [(point.peak_activation_bytes, point.latency_s / before.latency_s) for point in report.front],
    )  # fmt: skip


def least_within(front: Sequence[FrontPoint], latency_s: float) -> FrontPoint:
    """The point of least memory among those that are fast enough."""
    return min((p for p in front if p.latency_s <= latency_s), key=lambda p: p.peak_activation_bytes)


def markdown(rows: Sequence[Row]) -> str:
    """The table; a figure over its bar is marked."""
    lines = [
        f"| network, fp16 | unmodified, GiB | at ≤ {LATENCY} × latency, GiB | bar | least, GiB | bar | latency at the "
        "least | points | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        frames = f", {row.settings['frames']} frames" if "frames" in row.settings else ""
        cheap = f"{row.cheap / GIB:.2f}" + (" (over)" if row.cheap > row.cheap_bar else "")
        least = f"{row.least / GIB:.2f}" + (" (over)" if row.least > row.least_bar else "")
        lines.append(
            f"| {row.network}{frames} | {row.unmodified / GIB:.2f} | {cheap} | {row.cheap_bar / GIB:.2f} | {least} "
            f"| {row.least_bar / GIB:.2f} | {row.least_latency:.3f} | {row.points} | {row.seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


def write(rows: Sequence[Row], target: str, folder: Path) -> None:
    """``<date>-full-size.json`` and ``.md``; rows of other cases written the same day stay."""
    date = datetime.date.today().isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{date}-full-size.json"
    merged = {_key(row): row for row in [*_written(path), *rows]}
    order = [(case.network, dict(case.settings)) for case in CASES]
    kept = sorted(merged.values(), key=lambda row: order.index((row.network, row.settings)))
    record = {
        "schema": "vgcomp.full-size/1",
        "date": date,
        "target": target,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "rows": [asdict(row) for row in kept],
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    text = (
        f"Measured {date} by `python -m tests.benchmarks.full_size`, target {target}; {os.cpu_count()} cores, "
        f"{os.getloadavg()[0]:.1f} processes wanting them.\n\n"
    )
    path.with_suffix(".md").write_text(text + markdown(kept), encoding="utf-8")


def _key(row: Row) -> str:
    return f"{row.network} {sorted(row.settings.items())}"


def _written(path: Path) -> list[Row]:
    if not path.exists():
        return []
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 0 where every bar is met, else 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", help="a network; may be given more than once")
    parser.add_argument("--frames", type=int, help="only the cases of that many frames")
    parser.add_argument("--target", default="a100")
    parser.add_argument("--no-write", action="store_true", help="print the table and write nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    for case in CASES:
        frames = dict(case.settings).get("frames")
        if (options.only and case.network not in options.only) or (options.frames and frames != options.frames):
            continue
        print(f"{case.title} ...", file=sys.stderr, flush=True)
        rows.append(measure(case, options.target))
        if not options.no_write:
            write(rows[-1:], options.target, options.out)
    print(markdown(rows))
    return int(any(row.cheap > row.cheap_bar or row.least > row.least_bar for row in rows))


if __name__ == "__main__":
    sys.exit(main())
