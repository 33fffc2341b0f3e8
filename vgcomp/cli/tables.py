"""Before and after, as tables."""

from __future__ import annotations

from rich.table import Table

from vgcomp.cli.console import table
from vgcomp.report import summary
from vgcomp.result import Report
from vgcomp.units import budget_text, format_bytes, format_count, format_seconds


def heading(report: Report) -> str:
    """``svd-unet on a100, budget 8.00 GB``."""
    budget = f"budget {format_bytes(report.budget_bytes, binary=False)}" if report.budget_bytes else "no budget"
    return f"{report.model} on {report.target}, {budget}"


def before_after(report: Report) -> Table:
    """The two programs' figures side by side."""
    before, after = report.before, report.after
    parts = dict.fromkeys((*before.parts, *after.parts))
    made = table("", ">Before", ">After", "")
    for label, old, new in (
        ("Peak of activations", before.peak_activation_bytes, after.peak_activation_bytes),
        ("Memory needed", before.peak_bytes, after.peak_bytes),
        *((f"  {name}", before.parts.get(name, 0), after.parts.get(name, 0)) for name in parts),
    ):
        made.add_row(label, format_bytes(old), format_bytes(new), _change(old, new))
    latency = f"×{report.latency_ratio:.3f}"
    made.add_row("Latency, simulated", format_seconds(before.latency_s), format_seconds(after.latency_s), latency)
    made.add_row("FLOPs", format_count(before.flops), format_count(after.flops), _change(before.flops, after.flops))
    made.add_row("Nodes", str(before.nodes), str(after.nodes), "")
    bound = report.lower_bound_bytes
    made.add_row("Lower bound, any order", format_bytes(bound.unsliced), format_bytes(bound.result), "of activations")
    return made


def _change(before: float, after: float) -> str:
    if not before or after == before:
        return ""
    # The sign is a minus, not a hyphen; under half a percent it would read as nothing at all.
    percent = 100 * (after / before - 1)
    return f"{percent:+.1f} %".replace("-", "−") if abs(percent) < 10 else f"{percent:+.0f} %".replace("-", "−")


def passes_line(report: Report) -> str:
    """``canonicalize 0.08 s, slice-and-group 3.40 s``; a pass without effect says so."""
    parts = (f"{p.name} {format_seconds(p.seconds)}{'' if p.changed else ' (no change)'}" for p in report.passes)
    return "Passes: " + (", ".join(parts) or "none")


def front(report: Report) -> Table:
    """The Pareto front, best latency first, without its dearest points."""
    made = table(">Activations", ">Memory needed", ">Latency", ">Ratio", title="Memory against latency")
    for row in summary.front_rows(report):
        made.add_row(*row)
    return made


def other_point(report: Report) -> str:
    """Without a budget the fastest point is the result: how to ask for another; empty where there is no other."""
    if len(report.front) < 2:
        return ""
    affordable = [p for p in summary.shown_points(report) if p.latency_s <= summary.DEAREST * report.before.latency_s]
    return (
        "The fastest point is the result; for another pass --mem with the memory it needs, "
        f"such as --mem {budget_text((affordable or report.front)[-1].peak_bytes)}"
    )
