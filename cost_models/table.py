"""Measured tables: seconds of single op calls on one device, in one format, ``vgcomp.table/1``.

A table is a text file in UTF-8. Its first line is ``# `` and a JSON object (:class:`Metadata`); the rest is CSV with a
header row:

======================  ==============================================================================
``op``                  the op, as ``aten.convolution.default``
``arguments, result``   its call (:mod:`vgcomp.cost_models.calls`): shapes, strides, dtypes, attributes
``seconds``             median of the repeats, of the op alone: allocation included, the runtime's calls not
``spread``              half the distance between the quartiles, seconds
``repeats``             how many times it was timed
======================  ==============================================================================
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vgcomp.cost_models.base import Overhead
from vgcomp.cost_models.calls import Call
from vgcomp.errors import UsageError
from vgcomp.fields import first_problem

SCHEMA = "vgcomp.table/1"
COLUMNS = ("op", "arguments", "result", "seconds", "spread", "repeats")
#: Directories (separated as in ``PATH``) that are searched before the tables that come with vgcomp.
ENV_DIRS = "VGCOMP_TABLES"

_OWN_DIR = Path(__file__).parent / "tables"


class Units(BaseModel):
    """Of the columns: seconds, and nothing else so far."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: Literal["s"] = "s"
    spread: Literal["s"] = "s"


class Metadata(BaseModel):
    """The head of a table: what was measured with, and the runtime's own seconds (see :class:`Overhead`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["vgcomp.table/1"] = Field(default="vgcomp.table/1", alias="schema")
    target: str
    device: str
    threads: int = Field(ge=1)
    #: The library that ran the ops, with its version.
    driver: str
    torch: str
    #: Of the newest row, as 2026-01-31.
    date: str
    units: Units
    overhead: dict[str, float] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timing:
    """One row's figures; seconds."""

    seconds: float
    spread: float
    repeats: int


@dataclass(frozen=True)
class Table:
    """A device's timings by call."""

    metadata: Metadata
    rows: Mapping[Call, Timing]
    #: For messages.
    path: Path | None = None

    @property
    def overhead(self) -> Overhead:
        """The runtime's own seconds."""
        return Overhead(**self.metadata.overhead)

    def text(self) -> str:
        """The file's text, rows sorted."""
        out = io.StringIO()
        out.write(f"# {json.dumps(self.metadata.model_dump(by_alias=True))}\n")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        for call, timing in sorted(self.rows.items(), key=lambda item: (item[0].op, item[0].arguments, item[0].result)):
            figures = (f"{timing.seconds:.4g}", f"{timing.spread:.2g}", timing.repeats)
            writer.writerow((call.op, call.arguments, call.result, *figures))
        return out.getvalue()

    def updated(self, newer: Table) -> Table:
        """Both tables' rows; of a call in both, the newer table's. Raises UsageError for another device's table."""
        for name in ("target", "device", "threads"):
            ours, theirs = getattr(self.metadata, name), getattr(newer.metadata, name)
            if ours != theirs:
                where = newer.path or "the new table"
                raise UsageError(
                    f"{where}: {name} is {theirs!r}, but {self.path or 'the table'} is of {ours!r}: "
                    "keep them in files of their own"
                )
        return replace(newer, rows={**self.rows, **newer.rows}, path=self.path)


def table_path(target: str) -> Path | None:
    """Where the table of a target is, the user's directories first; None where there is none."""
    for directory in _directories():
        path = directory / f"{target}.csv"
        if path.is_file():
            return path
    return None


def default_path(target: str) -> Path:
    """Where a new table of a target goes: the first of the user's directories, or our own."""
    return _directories()[0] / f"{target}.csv"


def _directories() -> list[Path]:
    named = [Path(entry).expanduser() for entry in os.environ.get(ENV_DIRS, "").split(os.pathsep) if entry]
    for directory in named:
        if not directory.is_dir():
            raise UsageError(f"{ENV_DIRS} names '{directory}', which is not a directory: correct or unset it")
    return [*named, _OWN_DIR]


def load_table(target: str, path: Path | None = None) -> Table:
    """The measured table of a target, from ``path`` or where tables are.

    Raises UsageError where there is none, it is damaged, or it is another target's.
    """
    found = path or table_path(target)
    if found is None:
        raise UsageError(f"there is no measured table for {target!r}: make one with `vgcomp profile --target {target}`")
    table = read_table(found)
    if table.metadata.target != target:
        raise UsageError(f"{found}: target is {table.metadata.target!r}, not {target!r}: it is another device's table")
    return table


def read_table(path: Path) -> Table:
    """The table in a file. Raises UsageError, naming file and field, for a damaged one."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a table: it is not UTF-8 text") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    head, _, body = text.partition("\n")
    metadata = _metadata(path, head)
    return Table(metadata, _rows(path, body), path)


def _metadata(path: Path, head: str) -> Metadata:
    try:
        values = json.loads(head.removeprefix("#")) if head.startswith("#") else None
    except json.JSONDecodeError:
        values = None
    if not isinstance(values, dict):
        raise UsageError(f"{path}: not a table: line 1 must be '# ' and a JSON object with its schema")
    if values.get("schema") != SCHEMA:
        raise UsageError(f"{path}: schema is {values.get('schema')!r}, not {SCHEMA!r}: profile again")
    try:
        metadata = Metadata.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{path}: {first_problem(error)}") from None
    known = {field.name for field in fields(Overhead)}
    for name, value in metadata.overhead.items():
        if name not in known:
            raise UsageError(f"{path}: field 'overhead.{name}' is unknown; there are {', '.join(sorted(known))}")
        if not (math.isfinite(value) and value >= 0.0):
            raise UsageError(f"{path}: field 'overhead.{name}' is {value!r}, not seconds of at least 0")
    return metadata


def _rows(path: Path, body: str) -> dict[Call, Timing]:
    reader = csv.reader(io.StringIO(body))
    header = next(reader, [])
    for name in COLUMNS:
        if name not in header:
            raise UsageError(f"{path}: column {name!r} is missing")
    places = [header.index(name) for name in COLUMNS]
    rows: dict[Call, Timing] = {}
    try:
        for values in reader:
            # Line 1 is the head.
            where = f"{path}: line {reader.line_num + 1}"
            if len(values) != len(header):
                raise UsageError(f"{where}: {len(values)} columns, not {len(header)}")
            op, arguments, result, *figures = (values[place] for place in places)
            rows[Call(op, arguments, result)] = _timing(where, figures)
    except csv.Error as error:
        raise UsageError(f"{path}: line {reader.line_num + 1}: {error}") from None
    return rows


def _timing(where: str, figures: Sequence[str]) -> Timing:
    seconds, spread, repeats = (_number(where, name, text) for name, text in zip(COLUMNS[3:], figures, strict=True))
    if seconds <= 0.0 or repeats < 1.0:
        name = "seconds" if seconds <= 0.0 else "repeats"
        raise UsageError(f"{where}, column {name!r}: must be above 0")
    return Timing(seconds, spread, int(repeats))


def _number(where: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0.0:
        raise UsageError(f"{where}, column {name!r}: {text!r} is not a number of at least 0")
    return value


def overhead_fields(overhead: Overhead) -> dict[str, Any]:
    """An overhead for a table's head."""
    return {name: float(f"{value:.4g}") for name, value in asdict(overhead).items()}
