"""The report as Markdown, for a pull request or a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vgcomp.report.data import regions
from vgcomp.report.source import Reportable
from vgcomp.result import Report
from vgcomp.units import format_bytes, format_count, format_seconds


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
            f"Budget {format_bytes(report.budget_bytes)}, weights included: "
            f"{format_bytes(report.after.peak_bytes)} used."
        )
    lines.append(check_text(report))
    return "\n\n".join(lines)


def check_text(report: Report) -> str:
    """One sentence on whether outputs were compared."""
    check = report.check
    if check.status == "skipped":
        return "Outputs were not compared."
    error = f", largest difference {check.max_abs_error:.3g}" if check.max_abs_error is not None else ""
    shape = "at the full shape" if check.shape == "full" else f"at the reduced shape {check.shape}"
    return f"Outputs compared with the unmodified network's {shape}: {check.status}{error}."


def _figures(report: Report) -> str:
    before, after = report.before, report.after
    rows = [
        ("Peak with weights", format_bytes(before.peak_bytes), format_bytes(after.peak_bytes)),
        ("Peak of activations", format_bytes(before.peak_activation_bytes), format_bytes(after.peak_activation_bytes)),
        ("Weights", format_bytes(before.weight_bytes), format_bytes(after.weight_bytes)),
        ("Latency", format_seconds(before.latency_s), format_seconds(after.latency_s)),
        ("FLOPs", format_count(before.flops), format_count(after.flops)),
        ("Nodes", str(before.nodes), str(after.nodes)),
    ]
    return _table(("", "Before", "After"), rows, numbers=(1, 2))


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
    rows = (
        (format_bytes(p.peak_activation_bytes), format_bytes(p.peak_bytes), format_seconds(p.latency_s))
        for p in report.front
    )
    return "## Memory against latency\n\n" + _table(("Activations", "With weights", "Latency"), rows, numbers=(0, 1, 2))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    rule = ("---:" if i in numbers else "---" for i in range(len(head)))
    lines = [head, list(rule), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
