"""Programs timed and weighed on a CUDA device by ``tests/benchmarks/gpu_validate.py``, beside their predictions.

A record holds both, since the predictions are of the day: files in ``cost_models/tables`` named ``gpu-*.json`` come
with the project, others are named with ``--measured``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from vgcomp import cost_models
from vgcomp.errors import UsageError
from vgcomp.fields import first_problem
from vgcomp.validate.row import Context, Quantity, Row

FOLDER = Path(cost_models.__file__).parent / "tables"
SCHEMA = "vgcomp.gpu-validate/1"


class Figures(BaseModel):
    """Of one program, measured or predicted: seconds and bytes.

    ``allocated_bytes``: tensors alive at the most. ``reserved_bytes``: what the caching allocator held for them.
    ``used_bytes``: what the process took of the device.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency_s: PositiveFloat
    allocated_bytes: PositiveInt
    reserved_bytes: PositiveInt
    used_bytes: NonNegativeInt


class Case(BaseModel):
    """One program: a network at a size, as it is or ``sliced`` to a budget."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    form: Literal["unmodified", "sliced"]
    measured: Figures
    predicted: Figures


class Record(BaseModel):
    """What one run of the benchmark writes."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["vgcomp.gpu-validate/1"] = Field(alias="schema")
    date: str
    target: str
    device: str
    #: Versions by name: driver, cuda, cudnn, torch, python.
    versions: dict[str, str]
    cases: tuple[Case, ...]


def load_record(path: Path) -> Record:
    """A record from its file. Raises UsageError, naming file and field, for one that is not."""
    try:
        return Record.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        raise UsageError(f"{path}: {first_problem(error)}") from None
    except ValueError as error:
        raise UsageError(f"{path}: not JSON: {error}") from None


def record_rows(record: Record, context: Context) -> Iterator[Row]:
    """A record's rows: latency, and the three ways to weigh a run."""
    if not context.wants(record.target):
        return
    source = f"measured on {record.device}, torch {record.versions.get('torch', 'unknown')}, {record.date}"
    weighed: tuple[tuple[str, Quantity], ...] = (
        ("latency_s", "latency_s"),
        ("allocated_bytes", "peak_bytes"),
        ("reserved_bytes", "peak_bytes"),
        ("used_bytes", "peak_bytes"),
    )
    for case in record.cases:
        for field, quantity in weighed:
            figure, predicted = getattr(case.measured, field), getattr(case.predicted, field)
            if not figure:
                continue  # a device that does not tell what a process takes
            how = "" if field == "latency_s" else f", {field.removesuffix('_bytes')}"
            yield Row(
                name=f"{case.name}, {case.form}{how}",
                target=record.target,
                quantity=quantity,
                figure=figure,
                predicted=predicted,
                source=source,
                role="held-out",
            )


def gpu_rows(context: Context) -> Iterator[Row]:
    """Rows of the records that come with the project."""
    for path in sorted(FOLDER.glob("gpu-*.json")):
        yield from record_rows(load_record(path), context)
