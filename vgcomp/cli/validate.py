"""``vgcomp validate``: published figures beside predictions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vgcomp.cli.console import progress, say, table

if TYPE_CHECKING:
    from rich.table import Table

    from vgcomp.validate import Report, Row


def validate(
    target: Annotated[
        str | None, typer.Option("--target", metavar="NAME", help="Only this device's figures; default: all.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write the rows as FILE.json too.")
    ] = None,
    measured: Annotated[
        list[Path] | None,
        typer.Option("--measured", metavar="FILE", help="Show a GPU's record (gpu_validate) instead; repeatable."),
    ] = None,
) -> None:
    """Predict published figures and show the errors: fitted ones, left out of the fit, and held out."""
    from vgcomp.files import atomic_write
    from vgcomp.validate import check_report_path, check_target
    from vgcomp.validate import validate as collect

    if not measured:
        check_target(target)
    if report is not None:
        check_report_path(report)
    with progress() as tell:
        found = collect(target, progress=tell, measured=measured or ())
    say(_table(found), *_means(found))
    if report is not None:
        atomic_write(report, found.model_dump_json(by_alias=True, indent=2) + "\n")
        say(f"Wrote {report}")


def _table(report: Report) -> Table:
    from vgcomp.validate.row import ROLES

    made = table("Role", "Figure", "Target", ">Published", ">Predicted", ">Error", "Source")
    for role in ROLES:
        for row in report.rows:
            if row.role == role:
                figure, predicted = (_text(row, value) for value in (row.figure, row.predicted))
                made.add_row(role, row.name, row.target, figure, predicted, _percent(row), row.source)
    return made


def _text(row: Row, value: float) -> str:
    from vgcomp.units import format_bytes, format_count, format_seconds

    if row.quantity == "peak_bytes":
        return format_bytes(value, binary=False)
    if row.quantity == "flops":
        return f"{format_count(value)}FLOP"
    return f"{value:.2f} s" if value >= 0.1 else format_seconds(value)


def _percent(row: Row) -> str:
    return f"{100 * (row.predicted / row.figure - 1):+.1f} %".replace("-", "−")


def _means(report: Report) -> list[str]:
    """Mean size of the errors of each role and quantity, a device each."""
    from vgcomp.validate import Report as Rows
    from vgcomp.validate.row import ROLES

    lines = []
    for target in dict.fromkeys(row.target for row in report.rows):
        own = Rows(rows=tuple(row for row in report.rows if row.target == target))
        for quantity, label in (("latency_s", "latency"), ("peak_bytes", "peak"), ("flops", "FLOPs")):
            means = [(role, own.mean_error(role, quantity)) for role in ROLES]  # type: ignore[arg-type]
            text = ", ".join(f"{role} {100 * mean:.1f} %" for role, mean in means if mean is not None)
            lines += [f"Mean error of {label} on {target}: {text}"] if text else []
    return lines
