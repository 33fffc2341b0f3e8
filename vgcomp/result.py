"""What an optimization reports: the schema ``vgcomp.report/1``, and why rewrites did not apply.

The writers are in :mod:`vgcomp.report`; this is below the optimizer, which fills it in.
Every size is in bytes, every time in seconds, simulated unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA: Literal["vgcomp.report/1"] = "vgcomp.report/1"

Equivalence = Literal["exact", "reassociated", "approximate"]


class _Record(BaseModel):
    """Frozen, strict about names, and the same text for the same content."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, ser_json_inf_nan="null")


class Measures(_Record):
    """One program on one target, under one cost model.

    ``peak_activation_bytes``: inputs, outputs and temporaries live at once. ``peak_bytes``: what the device must
    have, and ``parts`` what that is made of (weights, activations, workspaces, fragmentation, context). ``nodes``: ops
    of the graph, a sliced loop counting as one.
    """

    peak_bytes: int = Field(ge=0)
    peak_activation_bytes: int = Field(ge=0)
    weight_bytes: int = Field(ge=0)
    latency_s: float = Field(ge=0)
    flops: float = Field(ge=0)
    nodes: int = Field(ge=0)
    parts: dict[str, int] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _parts_add_up(self) -> Self:
        if self.parts and sum(self.parts.values()) != self.peak_bytes:
            raise ValueError("the parts of a peak must add up to it")
        return self


class LowerBound(_Record):
    """Activation bytes that no execution order goes below: of the unsliced graph, and of the result's."""

    unsliced: int = Field(ge=0)
    result: int = Field(ge=0)


class PassReport(_Record):
    """One pass as it ran."""

    name: str
    equivalence: Equivalence
    changed: bool
    seconds: float = Field(ge=0)


class FrontPoint(_Record):
    """One plan of the Pareto front of memory against latency."""

    peak_bytes: int = Field(ge=0)
    peak_activation_bytes: int = Field(ge=0)
    latency_s: float = Field(ge=0)


class CheckReport(_Record):
    """The result's outputs against the unmodified network's, on random inputs.

    ``max_abs_error``: None where nothing ran. ``shape``: ``"full"``, or the reduced settings that
    were compared because the full shape does not fit this machine.
    """

    status: Literal["passed", "failed", "skipped"] = "skipped"
    max_abs_error: float | None = None
    shape: str = ""


class Report(_Record):
    """The JSON report.

    ``front``: best latency first, cheapest memory last; empty where a budget was given.
    ``artifacts``: files written. ``seconds``: what the compiler itself took. ``latency_sources``: what
    ``after.latency_s`` is made of, seconds by where they come from (measured, interpolated, analytic, overhead).
    """

    schema_: Literal["vgcomp.report/1"] = Field(default=SCHEMA, alias="schema")
    model: str
    target: str
    budget_bytes: int | None = None
    before: Measures
    after: Measures
    lower_bound_bytes: LowerBound
    passes: tuple[PassReport, ...] = ()
    front: tuple[FrontPoint, ...] = ()
    check: CheckReport = CheckReport()
    artifacts: tuple[str, ...] = ()
    seconds: float = Field(default=0.0, ge=0)
    latency_sources: dict[str, float] = Field(default_factory=dict)

    @property
    def latency_ratio(self) -> float:
        """``after.latency_s / before.latency_s``, a comparison on one cost model (1.0 where nothing is timed)."""
        return self.after.latency_s / self.before.latency_s if self.before.latency_s else 1.0

    @property
    def activation_ratio(self) -> float:
        """``after`` over ``before`` in peak activation bytes (1.0 for a graph without any)."""
        before = self.before.peak_activation_bytes
        return self.after.peak_activation_bytes / before if before else 1.0

    def to_json(self) -> str:
        """The report as JSON text, ending in a newline."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> Report:
        """Reads :meth:`to_json`'s text. Raises pydantic's ValidationError for anything else."""
        return Report.model_validate_json(text)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a pass left something as it was (or did what it did). ``node``: a node, region or tensor."""

    node: str
    pass_name: str
    reason: str
