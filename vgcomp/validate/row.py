"""A published figure and its prediction, and the report that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, computed_field

#: ``calibrated``: constants were fitted to this very figure. ``leave-one-out``: fitted to the same set without the
#: figure's network. ``held-out``: nothing was fitted to it.
Role = Literal["calibrated", "leave-one-out", "held-out"]
Quantity = Literal["latency_s", "peak_bytes", "flops"]

ROLES: tuple[Role, ...] = ("calibrated", "leave-one-out", "held-out")


class Row(BaseModel):
    """One figure. ``figure`` and ``predicted`` are in the quantity's unit: seconds, bytes, FLOPs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    target: str
    quantity: Quantity
    figure: PositiveFloat
    predicted: PositiveFloat
    source: str
    role: Role

    @computed_field
    def error(self) -> float:
        """Of the prediction, relative to the figure; above 0 where it is too much."""
        return self.predicted / self.figure - 1.0


class Report(BaseModel):
    """What ``vgcomp validate --report`` writes. Another meaning of a field is another ``schema``."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["vgcomp.validate/1"] = Field(default="vgcomp.validate/1", alias="schema")
    rows: tuple[Row, ...]

    def mean_error(self, role: Role, quantity: Quantity) -> float | None:
        """Mean of the errors' sizes; None without rows."""
        errors = [
            abs(row.predicted / row.figure - 1.0) for row in self.rows if (row.role, row.quantity) == (role, quantity)
        ]
        return sum(errors) / len(errors) if errors else None


@dataclass(frozen=True)
class Context:
    """What a provider is asked for. ``target`` None: figures of every device."""

    target: str | None = None
    progress: Callable[[str, float], None] = lambda stage, fraction: None

    def wants(self, target: str) -> bool:
        """True if rows for this target are asked for."""
        return self.target in (None, target)


#: Gives the rows of one kind of figure that a context wants.
Provider = Callable[[Context], Iterable[Row]]
