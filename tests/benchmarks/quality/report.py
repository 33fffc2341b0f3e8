"""Writes what :mod:`tests.benchmarks.quality.rehash` measured as a table and a plot.

    python -m tests.benchmarks.quality.report ONE.json [MORE.json] -o FILE

joins runs of one network each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

NAMES = {
    "least-error": "shortest path",
    "algorithm-1-effect": "Algorithm 1, by effect",
    "algorithm-1": "Algorithm 1",
    "uniform": "uniform",
}
#: Full steps at which the ways to choose them are compared.
COMPARED = (13, 8)

HEAD = """# Step rehash on trained networks

25 Euler steps of a straight flow, guidance within the network. PSNR (pixels) and SSIM are to the clip of the full
schedule, means over clips of seeds that calibration has not seen. Times are processor seconds of one thread for all
steps of a clip, measured, and as predicted by the measured cost model of `cpu-1`. The Fréchet distance is to 256
generated clips, on 8 features of an untrained random network: for comparison within this table alone. *Algorithm 1* is
the published walk on the cosine of the values kept; *by effect* the same walk on how much the clip changes; *shortest
path* minimises the clip's predicted error.
"""


def write_reports(raw: dict[str, Any], out: Path) -> None:
    """FILE.json, FILE.md and FILE.html from what was measured."""
    out.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    parts = [HEAD, *(_network(name, about, raw["rows"]) for name, about in raw["about"].items())]
    out.with_suffix(".md").write_text("\n".join(parts), encoding="utf-8")
    _plot(raw, out.with_suffix(".html"))


def _network(name: str, about: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    ours = [row for row in rows if row["network"] == name]
    chosen = [row for row in ours if row["cut"] == about["chosen"]]
    others = [row for row in ours if row["cut"] != about["chosen"]]
    lines = [
        f"\n## {name}\n",
        f"Kept: `{about['chosen']}`, {chosen[0]['cache_bytes'] / 1024:.0f} KiB; a reuse step reads "
        f"{chosen[0]['reads'] or 'neither latent nor timestep'}.",
        f"Calibrated on {about['chosen_on']} clips, judged on {about['many']} (other cuts: {about['tried']} and "
        f"{about['few']}); flow shift {about['shift']:g}.",
        f"The full schedule: {about['full_s']:.3f} s, flicker {about['full_flicker']:.4f}, Fréchet distance "
        f"{about['full_frechet']:.4f}.\n",
        *_table([row for row in chosen if row["asked"] in COMPARED]),
        "\nOther numbers of full steps:\n",
        *_table([row for row in chosen if row["asked"] not in COMPARED]),
        "\nOther cuts:\n",
        *_table(others),
    ]
    return "\n".join(lines) + "\n"


def _table(rows: list[dict[str, Any]]) -> list[str]:
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
            f"| {row['predicted_psnr']:.1f} | **{row['psnr']:.2f}** | {row['worst_psnr']:.1f} | {row['ssim']:.4f} "
            f"| {row['flicker']:.4f} | {far} | {times} | `{row['schedule']}` |"
        )
    return lines


def _plot(raw: dict[str, Any], path: Path) -> None:
    """PSNR against processor seconds, a panel a network: the chosen cut's lines, other cuts as dots."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    names = list(raw["about"])
    figure = make_subplots(rows=1, cols=len(names), subplot_titles=names)
    colours = {
        "least-error": "#1f6feb",
        "algorithm-1-effect": "#2da44e",
        "algorithm-1": "#d97706",
        "uniform": "#6b7280",
    }
    for column, name in enumerate(names, 1):
        about = raw["about"][name]
        for rule, colour in colours.items():
            rows = [row for row in raw["rows"] if row["network"] == name and row["rule"] == rule]
            line = sorted((r for r in rows if r["cut"] == about["chosen"]), key=lambda r: r["full"])
            dots = [row for row in rows if row["cut"] != about["chosen"]]
            for some, mode, label in (
                (line, "lines+markers", NAMES[rule]),
                (dots, "markers", f"{NAMES[rule]}, other cuts"),
            ):
                hover = [f"{r['cut']}<br>{r['full']} full, {r['fewer_flops']:.2f}× fewer FLOPs" for r in some]
                marker = {"color": colour, "symbol": "circle" if mode != "markers" else "x"}
                x, y = [r["measured_s"] for r in some], [r["psnr"] for r in some]
                trace = go.Scatter(
                    x=x, y=y, mode=mode, name=label, hovertext=hover, marker=marker, showlegend=column == 1
                )
                figure.add_trace(trace, row=1, col=column)
        figure.add_vline(x=about["full_s"], line_dash="dot", row=1, col=column)
    figure.update_xaxes(title="processor seconds a clip (dotted: all steps full)")
    figure.update_yaxes(title="PSNR to the full schedule, dB")
    figure.write_html(path, include_plotlyjs="cdn")


def main() -> None:
    """Joins raw files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    joined: dict[str, Any] = {"about": {}, "rows": []}
    for file in given.files:
        raw = json.loads(file.read_text(encoding="utf-8"))
        joined["about"] |= raw["about"]
        joined["rows"] += raw["rows"]
    write_reports(joined, given.out)


if __name__ == "__main__":
    main()
