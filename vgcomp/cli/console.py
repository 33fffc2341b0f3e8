"""Where the command line writes: results to stdout, progress and errors to stderr.

In a pipe nothing is coloured, framed, folded or animated.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

#: Columns in a pipe: enough that no cell is folded.
_PIPE_WIDTH = 400


class ReaderGone(Exception):
    """Whoever read our output has left, as ``head`` does."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # rich would leave at once, with the exit code of a bug.
        raise ReaderGone


def out() -> Console:
    """Standard output as it is now (a test may have replaced it)."""
    return _console(sys.stdout.isatty(), stderr=False)


def err() -> Console:
    """Standard error as it is now."""
    return _console(sys.stderr.isatty(), stderr=True)


def _console(terminal: bool, *, stderr: bool) -> Console:
    return _Console(stderr=stderr, highlight=False, soft_wrap=not terminal, width=None if terminal else _PIPE_WIDTH)


def table(*columns: str, title: str | None = None) -> Table:
    """An empty table; a heading that begins with ``>`` is a column of numbers."""
    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD if sys.stdout.isatty() else None,
        header_style="dim" if sys.stdout.isatty() else "",
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for text in columns:
        numbers = text.startswith(">")
        made.add_column(text.removeprefix(">"), justify="right" if numbers else "left", overflow="fold")
    return made


def say(*lines: str | Text | Table) -> None:
    """Prints to stdout. Text is taken literally: a name with brackets is no markup."""
    console = out()
    for i, line in enumerate(lines):
        if isinstance(line, Table) and not console.is_terminal and i:
            console.print()  # frames set tables apart on a terminal, an empty line does in a pipe
        console.print(Text(line) if isinstance(line, str) else line)


@contextmanager
def progress(enabled: bool | None = None) -> Iterator[Callable[[str, float], None]]:
    """Yields ``report(stage, fraction)``, drawn on stderr if that is a terminal, silent if not."""
    shown = sys.stderr.isatty() if enabled is None else enabled
    if not shown:
        yield _silent
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=32), TimeElapsedColumn())
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda stage, fraction: bar.update(task, description=stage, completed=fraction)


def _silent(stage: str, fraction: float) -> None:
    """For pipes."""
