"""Writes a report in the format that its file's name asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vgcomp.errors import UsageError
from vgcomp.files import atomic_write, check_file_destination
from vgcomp.report.html import html_text
from vgcomp.report.markdown import markdown_text
from vgcomp.report.source import Reportable
from vgcomp.report.svg import svg_text

_WRITERS: dict[str, Callable[[Reportable], str]] = {
    ".json": lambda result: result.report.to_json(),
    ".html": html_text,
    ".md": markdown_text,
    ".svg": svg_text,
}


def write_report(result: Reportable, path: Path | str) -> Path:
    """Writes ``path``, whole or not at all; ``.json``, ``.html``, ``.md``, or ``.svg`` for the timelines alone.

    Raises UsageError for another suffix or a path that cannot be a file, OSError if the disk says no.
    """
    return atomic_write(path, report_text(result, check_report_path(path).suffix))


def report_text(result: Reportable, suffix: str) -> str:
    """The report in the format of ``suffix``."""
    return _WRITERS[suffix.lower()](result)


def check_report_path(path: Path | str) -> Path:
    """``path`` if a report can go there. To be asked before the long work, not after."""
    path = Path(path)
    if path.suffix.lower() not in _WRITERS:
        raise UsageError(f"--report {path}: the name must end in {', '.join(_WRITERS)}")
    check_file_destination(path)
    return path
