"""A search's journal: one JSON line an evaluation, on the disk before the next one begins.

The first line says which search it is of. A line that a kill cut short is dropped when the journal is opened again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from vgcomp.compiled_cost.cost import Cost
from vgcomp.errors import UsageError
from vgcomp.files import check_file_destination
from vgcomp.search.problem import Evaluation
from vgcomp.space import Space

#: Of the format.
VERSION = 1


@dataclass
class Journal:
    """An open journal. ``found``: what it held when it was opened."""

    path: Path
    file: BinaryIO
    space: Space
    found: tuple[Evaluation, ...] = ()

    @staticmethod
    def open(path: Path, header: Mapping[str, Any], space: Space, *, resume: bool) -> Journal:
        """Opens it for appending. ``header``: what must be the same for evaluations to be of the same search.

        Raises UsageError where there is one already and ``resume`` is False, where it is of another search, damaged,
        or being written by another process.
        """
        check_file_destination(path)
        held = path.is_file() and path.stat().st_size > 0
        if held and not resume:
            raise UsageError(f"{path} is there already: --resume goes on with it, or name another --journal")
        file = path.open("r+b" if held else "w+b")
        try:
            _lock(file, path)
            journal = Journal(path, file, space)
            journal.found = journal._read(header) if held else ()
            if not file.tell():
                journal._append({"journal": VERSION, **header})
        except BaseException:
            file.close()
            raise
        return journal

    def write(self, evaluation: Evaluation) -> None:
        """Appends one evaluation and waits for the disk."""
        entry: dict[str, Any] = {"candidate": self.space.named(evaluation.candidate), "quality": evaluation.quality}
        if evaluation.cost is not None:
            entry["cost"] = asdict(evaluation.cost)
        if evaluation.failed:
            entry["failed"] = evaluation.failed
        self._append({**entry, "seconds": round(evaluation.seconds, 6)})

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _append(self, entry: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(entry, allow_nan=False).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def _read(self, header: Mapping[str, Any]) -> tuple[Evaluation, ...]:
        """What it holds; the file stands at its end then, a half-written last line cut off."""
        data = self.file.read()
        whole = data.rfind(b"\n") + 1
        self.file.truncate(whole)
        self.file.seek(whole)
        lines = data[:whole].splitlines()
        if not lines:
            return ()
        _compare(self._parsed(lines[0], 1), {"journal": VERSION, **header}, self.path)
        return tuple(self._evaluation(line, number) for number, line in enumerate(lines[1:], 2))

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            raise UsageError(f"{self.path}, line {number}: not a line of a search's journal")
        return entry

    def _evaluation(self, line: bytes, number: int) -> Evaluation:
        entry = self._parsed(line, number)
        try:
            cost = Cost(**entry["cost"]) if "cost" in entry else None
            candidate = self.space.candidate(entry["candidate"])
            quality = entry["quality"]
            return Evaluation(candidate, cost, quality, str(entry.get("failed", "")), float(entry["seconds"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{self.path}, line {number}: not an evaluation of this search ({error})") from error


def _lock(file: BinaryIO, path: Path) -> None:
    """Until the file is closed, or the process ends in any way; Windows has no such lock."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(f"{path} is being written by another search") from error


def _compare(found: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    """Raises UsageError that names the first thing in which two headers differ."""
    for name in wanted:
        if found.get(name) != wanted[name]:
            raise UsageError(
                f"{path} is the journal of another search: its {name} is {found.get(name)!r}, not {wanted[name]!r}"
            )
