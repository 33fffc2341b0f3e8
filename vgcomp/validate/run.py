"""Collects the rows of all providers; refuses bad requests before the long work."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path

from vgcomp.errors import UsageError
from vgcomp.files import check_file_destination
from vgcomp.targets import target_names
from vgcomp.validate.row import Context, Provider, Report


def validate(
    target: str | None = None,
    *,
    progress: Callable[[str, float], None] | None = None,
    providers: Sequence[Provider] | None = None,
    measured: Sequence[Path] = (),
) -> Report:
    """Predictions beside every published figure of ``target``, or of all devices.

    ``measured``: records of ``tests/benchmarks/gpu_validate.py``; with them, theirs are the only rows.
    Raises UsageError for a target that has no figures, and for a record that is none.
    """
    from vgcomp.validate.gpu import load_record, record_rows
    from vgcomp.validate.providers import PROVIDERS

    context = Context(target, progress) if progress is not None else Context(target)
    if measured:
        records = [load_record(path) for path in measured]
        found = tuple(row for record in records for row in record_rows(record, context))
        if not found:
            devices = ", ".join(dict.fromkeys(record.target for record in records))
            raise UsageError(f"no figures of {target!r} in what was measured; there are some for {devices}")
        return Report(rows=found)
    check_target(target)
    rows = [row for provider in (PROVIDERS if providers is None else providers) for row in provider(context)]
    return Report(rows=tuple(rows))


def check_target(target: str | None) -> None:
    """Raises UsageError for a target without published figures, with those that have some."""
    from vgcomp.validate.providers import TARGETS

    if target is None or target in TARGETS:
        return
    known = target_names()
    near = difflib.get_close_matches(target, TARGETS, n=1)
    hint = f" (did you mean {near[0]}?)" if near and target not in known else ""
    what = "no published figures for" if target in known else "unknown target"
    raise UsageError(f"{what} {target!r}{hint}; there are some for {', '.join(TARGETS)}")


def check_report_path(path: Path) -> Path:
    """``path`` if a report can go there. Raises UsageError for another suffix or a directory."""
    if path.suffix.lower() != ".json":
        raise UsageError(f"--report {path}: the name must end in .json")
    check_file_destination(path)
    return path
