"""Writes what :mod:`tests.benchmarks.quality.rehash` and its timing found as tables and a plot.

    python -m tests.benchmarks.quality.report ONE.json [MORE.json] -o NAME      # NAME.json, NAME.md, NAME.svg

joins runs of one network each.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from tests.benchmarks.quality.plot import pareto_svg

Row = dict[str, Any]

NAMES = {
    "least-error": "shortest path",
    "algorithm-1-effect": "Algorithm 1, by effect",
    "algorithm-1": "Algorithm 1",
    "uniform": "uniform",
}
#: Full steps at which the ways to choose them are compared, and who is compared with whom.
COMPARED = (13, 8)
PAIRS = (
    ("least-error", "algorithm-1"),
    ("algorithm-1", "uniform"),
    ("least-error", "algorithm-1-effect"),
    ("algorithm-1-effect", "uniform"),
)

HEAD = """# Step rehash on trained networks

25 Euler steps of a straight flow, guidance within the network. PSNR (pixels) and SSIM are to the clip of the full
schedule, means over clips of seeds that calibration has not seen; the PSNR predicted is of the latent's range, which is
0.6 to 0.7 dB more. Seconds are of all steps of a clip on one thread: measured (median of runs on a machine that does
nothing else), and as the measured cost model of `cpu-1` predicts them. The Fréchet distance is to 256 generated clips,
on 8 features of an untrained random network: for comparison within this table alone. *Algorithm 1* is the published
walk on the cosine of the values kept; *by effect* the same walk on how much the clip changes; *shortest path* minimises
the clip's predicted error.
"""


def write_reports(raw: Row, out: Path) -> None:
    """NAME.json, NAME.md and NAME.svg from what was measured."""
    out.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    plot = f"\n![PSNR over seconds]({out.name}.svg)\n"
    parts = [HEAD, plot, *(_network(name, about, raw["rows"]) for name, about in raw["about"].items())]
    out.with_suffix(".md").write_text("".join(parts), encoding="utf-8")
    out.with_suffix(".svg").write_text(pareto_svg(raw, NAMES), encoding="utf-8")


def _network(name: str, about: Row, rows: list[Row]) -> str:
    ours = [row for row in rows if row["network"] == name]
    chosen = [row for row in ours if row["cut"] == about["chosen"]]
    others = [row for row in ours if row["cut"] != about["chosen"]]
    lines = [
        f"\n## {name}\n",
        f"Kept: `{about['chosen']}`, {chosen[0]['cache_bytes'] / 1024:.0f} KiB; a reuse step reads "
        f"{chosen[0]['reads'] or 'neither latent nor timestep'}.",
        f"Calibrated on {about['chosen_on']} clips, judged on {about['many']} (other cuts: {about['tried']} and "
        f"{about['few']}); flow shift {about['shift']:g}.",
        f"The full schedule: {about['full_s']:.3f} s ({about['full_predicted_s']:.3f} s predicted), flicker "
        f"{about['full_flicker']:.4f}, Fréchet distance {about['full_frechet']:.4f}.\n",
        *_table([row for row in chosen if row["asked"] in COMPARED]),
        "\nClip by clip, mean difference and its standard error:\n",
        *_differences(chosen),
        "\nOther numbers of full steps:\n",
        *_table([row for row in chosen if row["asked"] not in COMPARED]),
        "\nOther cuts:\n",
        *_table(others),
    ]
    return "\n".join(lines) + "\n"


def _table(rows: list[Row]) -> list[str]:
    lines = [
        "| cut | full steps by | full | fewer FLOPs | PSNR predicted | **PSNR** | worst | SSIM | flicker | Fréchet "
        "| s predicted | s measured | steps |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        far = "–" if row["frechet"] is None else f"{row['frechet']:.4f}"
        times = f"{row['predicted_s']:.3f} | {row['measured_s']:.3f}"
        lines.append(
            f"| `{row['cut']}` | {NAMES[row['rule']]} | {row['full']} | {row['fewer_flops']:.2f} "
            f"| {row['predicted_psnr']:.1f} | **{statistics.mean(row['psnrs']):.2f}** | {min(row['psnrs']):.1f} "
            f"| {row['ssim']:.4f} | {row['flicker']:.4f} | {far} | {times} | `{row['schedule']}` |"
        )
    return lines


def _differences(rows: list[Row]) -> list[str]:
    """A row for each pair of ways, at each number of full steps compared."""
    found = {(row["rule"], row["asked"]): row["psnrs"] for row in rows}
    lines = ["| full | | dB |", "|---:|---|---:|"]
    for full in COMPARED:
        for ours, theirs in PAIRS:
            apart = [a - b for a, b in zip(found[ours, full], found[theirs, full], strict=True)]
            error = statistics.stdev(apart) / len(apart) ** 0.5
            what = f"{NAMES[ours]} over {NAMES[theirs]}"
            lines.append(f"| {full} | {what} | {statistics.mean(apart):+.2f} ± {error:.2f} |")
    return lines


def main() -> None:
    """Joins raw files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    joined: Row = {"about": {}, "rows": []}
    for file in given.files:
        raw = json.loads(file.read_text(encoding="utf-8"))
        joined["about"] |= raw["about"]
        joined["rows"] += raw["rows"]
    write_reports(joined, given.out)


if __name__ == "__main__":
    main()
