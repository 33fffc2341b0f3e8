"""The report as Markdown, for a pull request or a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vgcomp.report import summary
from vgcomp.report.data import regions
from vgcomp.report.source import Reportable
from vgcomp.result import Report
from vgcomp.units import format_bytes, format_seconds


def markdown_text(result: Reportable) -> str:
    """The whole document, ending in a newline."""
    report = result.report
    blocks = [
        f"# {report.model} on {report.target}",
        _summary(report),
        _figures(report),
        _regions(result),
        "## Passes\n\n"
        + _table(
            ("Pass", "Equivalence", "Changed", "Seconds"),
            ((f"`{p.name}`", p.equivalence, "yes" if p.changed else "no", f"{p.seconds:.2f}") for p in report.passes),
        ),
        _front(report),
        "Sizes and times are simulated by one cost model, before and after alike. "
        f"The compiler took {format_seconds(report.seconds)}.",
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _summary(report: Report) -> str:
    lines = [
        f"Peak of activations **{format_bytes(report.before.peak_activation_bytes)} → "
        f"{format_bytes(report.after.peak_activation_bytes)}** at **×{report.latency_ratio:.3f}** the latency. "
        f"No order of the unsliced graph goes below {format_bytes(report.lower_bound_bytes.unsliced)}."
    ]
    if report.budget_bytes is not None:
        lines.append(
            f"Budget {format_bytes(report.budget_bytes)}: the device needs {format_bytes(report.after.peak_bytes)}, "
            "weights and workspaces included."
        )
    lines.append(summary.check_text(report))
    return "\n\n".join(lines)


def _figures(report: Report) -> str:
    return _table(("", "Before", "After"), summary.figures(report), numbers=(1, 2))


def _regions(result: Reportable) -> str:
    found = regions(result.program, result.timelines[1])
    if not found:
        return ""
    rows = (
        (
            f"`{r.name}`",
            r.axis,
            str(r.slices),
            str(r.ops),
            format_bytes(r.result_bytes),
            "yes" if r.in_place else "no",
            format_seconds(r.seconds),
        )
        for r in found
    )
    head = ("Region", "Axis", "Slices", "Ops", "Results", "In place", "Time")
    return "## Regions\n\n" + _table(head, rows, numbers=(2, 3, 4, 6))


def _front(report: Report) -> str:
    if not report.front:
        return ""
    head = ("Activations", "Memory needed", "Latency", "Ratio")
    parts = (
        "## Memory against latency",
        _table(head, summary.front_rows(report), range(4)),
        summary.left_out_text(report),
    )
    return "\n\n".join(filter(None, parts))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    rule = ("---:" if i in numbers else "---" for i in range(len(head)))
    lines = [head, list(rule), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
