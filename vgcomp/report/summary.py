"""What every written form of a report says in the same words: figures, the front, the check."""

from __future__ import annotations

from vgcomp.result import FrontPoint, Report
from vgcomp.units import format_bytes, format_count, format_seconds

#: Points of the front that take more than this many times the unmodified latency are left to the JSON report.
DEAREST = 4.0


def figures(report: Report) -> list[tuple[str, str, str]]:
    """(what, before, after), as text with its unit."""
    before, after = report.before, report.after
    return [
        ("Memory needed", format_bytes(before.peak_bytes), format_bytes(after.peak_bytes)),
        *(
            (f"of it {name}", format_bytes(before.parts.get(name, 0)), format_bytes(after.parts.get(name, 0)))
            for name in dict.fromkeys((*before.parts, *after.parts))
        ),
        ("Peak of activations", format_bytes(before.peak_activation_bytes), format_bytes(after.peak_activation_bytes)),
        ("Weights", format_bytes(before.weight_bytes), format_bytes(after.weight_bytes)),
        ("Latency", format_seconds(before.latency_s), format_seconds(after.latency_s)),
        ("FLOPs", format_count(before.flops), format_count(after.flops)),
        ("Nodes", str(before.nodes), str(after.nodes)),
    ]


def shown_points(report: Report) -> tuple[FrontPoint, ...]:
    """The front up to ``DEAREST`` times the unmodified latency, and its point of least memory."""
    last = len(report.front) - 1
    return tuple(p for i, p in enumerate(report.front) if i == last or _ratio(report, p) <= DEAREST)


def front_rows(report: Report) -> list[tuple[str, str, str, str]]:
    """(activations, memory needed, latency, latency relative to the unmodified graph's) of each point shown."""
    return [
        (
            format_bytes(point.peak_activation_bytes),
            format_bytes(point.peak_bytes),
            format_seconds(point.latency_s),
            f"×{_ratio(report, point):.3f}",
        )
        for point in shown_points(report)
    ]


def left_out_text(report: Report) -> str:
    """One sentence on the points of the front that are not shown; empty where all are."""
    count = len(report.front) - len(shown_points(report))
    if not count:
        return ""
    points = f"{count} further point{'s' * (count != 1)}"
    return f"The JSON report has {points} of more than ×{DEAREST:g} the unmodified latency (--report FILE.json)."


def sources_text(report: Report) -> str:
    """One sentence on where the latency comes from; empty where one model alone said it."""
    sources, total = report.latency_sources, report.after.latency_s
    if len(sources) < 2 or not total:
        return ""
    parts = [f"{100 * seconds / total:.0f} % {kind}" for kind, seconds in sorted(sources.items(), key=lambda x: -x[1])]
    return f"The latency is {', '.join(parts)}."


def check_text(report: Report) -> str:
    """One sentence on whether outputs were compared."""
    check = report.check
    if check.status == "skipped":
        return "Outputs were not compared."
    error = f", largest difference {check.max_abs_error:.3g}" if check.max_abs_error is not None else ""
    shape = "at the full shape" if check.shape == "full" else f"at the reduced shape {check.shape}"
    return f"Outputs compared with the unmodified network's {shape}: {check.status}{error}."


def _ratio(report: Report, point: FrontPoint) -> float:
    return point.latency_s / (report.before.latency_s or 1.0)
