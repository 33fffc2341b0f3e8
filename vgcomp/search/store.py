"""Writes what a search found: its report, its page, and the chosen candidates as Programs for ``vgcomp optimize``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from vgcomp.errors import UsageError
from vgcomp.files import atomic_write, check_file_destination, staged_directory
from vgcomp.models.spaces import build_candidate
from vgcomp.search.page import page_text
from vgcomp.search.problem import Evaluation
from vgcomp.search.result import Outcome

_WRITERS: dict[str, Callable[[Outcome], str]] = {".json": Outcome.to_json, ".html": page_text}


def check_report_path(path: Path) -> Path:
    """``path`` if a search's report can go there; to be asked before the long work. Raises UsageError."""
    if path.suffix.lower() not in _WRITERS:
        raise UsageError(f"--report {path}: the name must end in {' or '.join(_WRITERS)}")
    check_file_destination(path)
    return path


def write_report(outcome: Outcome, path: Path) -> Path:
    """The JSON report or the page, by the name's suffix."""
    return atomic_write(path, _WRITERS[path.suffix.lower()](outcome))


def save_front(outcome: Outcome, chosen: Sequence[Evaluation], folder: Path) -> list[Path]:
    """``front.json``, ``front.html``, and a folder ``candidate-<n>`` a chosen one, the best quality first.

    Raises UsageError for a candidate that is no network of the zoo, OSError if the disk says no.
    """
    names = [f"candidate-{number}" for number in range(1, len(chosen) + 1)]
    with staged_directory(folder) as staged:
        for name, evaluation in zip(names, chosen, strict=True):
            build_candidate(outcome.problem.space, evaluation.candidate).save(staged / name)
        for suffix, text in _WRITERS.items():
            (staged / f"front{suffix}").write_text(text(outcome), encoding="utf-8")
    return [folder / name for name in (*names, "front.json", "front.html")]
