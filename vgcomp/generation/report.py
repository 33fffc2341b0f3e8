"""What a joint plan reports: the schema ``vgcomp.generation/1``, and its Markdown.

Every size is in bytes, every time in simulated seconds unless a name says otherwise.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vgcomp.generation.stage import Weights
from vgcomp.result import LowerBound, PassReport
from vgcomp.units import format_bytes, format_seconds

SCHEMA: Literal["vgcomp.generation/1"] = "vgcomp.generation/1"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, ser_json_inf_nan="null")


class StageFigures(_Record):
    """A stage's turn. ``peak_bytes``: what the device must have meanwhile; ``parts`` add up to it: the stage's own
    weights, activations, workspaces, fragmentation, context, and beside them ``other weights`` and ``held`` tensors.

    ``kinds``: the activations by kind. ``latency_s``: of one run.
    """

    peak_bytes: int = Field(ge=0)
    parts: dict[str, int]
    kinds: dict[str, int] = Field(default_factory=dict)
    peak_activation_bytes: int = Field(ge=0)
    latency_s: float = Field(ge=0)
    flops: float = Field(ge=0)
    nodes: int = Field(ge=0)

    @model_validator(mode="after")
    def _parts_add_up(self) -> Self:
        if sum(self.parts.values()) != self.peak_bytes:
            raise ValueError("the parts of a peak must add up to it")
        return self


class StageReport(_Record):
    """One stage. ``runs``: calls in a generation; ``copy_s``: seconds of copying its weights to the device in all."""

    name: str
    network: str
    runs: int = Field(ge=1)
    schedule: str
    weights: Weights
    weight_bytes: int = Field(ge=0)
    copy_s: float = Field(ge=0)
    before: StageFigures
    after: StageFigures
    lower_bound_bytes: LowerBound
    passes: tuple[PassReport, ...] = ()
    #: The node or tensor at the peak of its activations.
    culprit: str = ""

    @property
    def seconds(self) -> float:
        """All runs, and the copies of weights."""
        # Runs with streamed weights have their copies in them.
        return self.runs * self.after.latency_s + (self.copy_s if self.weights == "loaded" else 0.0)


class Whole(_Record):
    """A generation: seconds of all runs and copies of weights, and the most memory, with the stage that needs it."""

    peak_bytes: int = Field(ge=0)
    peak_stage: str
    latency_s: float = Field(ge=0)
    copy_s: float = Field(ge=0)


class GenerationReport(_Record):
    """The JSON report. ``before``: every stage as it was given, all weights on the device.

    ``lower_bound_bytes``: weights, context and activations that no order of the planned programs' ops goes below.
    ``seconds``: what planning took.
    """

    schema_: Literal["vgcomp.generation/1"] = Field(default=SCHEMA, alias="schema")
    pipeline: str
    sampler: str = ""
    settings: dict[str, int] = Field(default_factory=dict)
    target: str
    mode: str = "eager"
    budget_bytes: int
    host_bytes_per_s: float | None = None
    before: Whole
    after: Whole
    lower_bound_bytes: int = Field(ge=0)
    stages: tuple[StageReport, ...]
    artifacts: tuple[str, ...] = ()
    seconds: float = Field(default=0.0, ge=0)

    @property
    def latency_ratio(self) -> float:
        """``after`` over ``before``, a comparison on one cost model."""
        return self.after.latency_s / self.before.latency_s if self.before.latency_s else 1.0

    def to_json(self) -> str:
        """The report as JSON text, ending in a newline."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> GenerationReport:
        """Reads :meth:`to_json`'s text. Raises pydantic's ValidationError for anything else."""
        return GenerationReport.model_validate_json(text)

    def to_markdown(self) -> str:
        """The report as Markdown."""
        lines = [f"# {self.pipeline} on {self.target}", "", self.summary() + ".", ""]
        for head, rows in ((STAGE_HEAD, self.stage_rows()), (PART_HEAD, self.part_rows())):
            lines += [_row(head), _row(["---", *["---:"] * (len(head) - 1)]), *map(_row, rows), ""]
        return "\n".join([*lines, self.footnote(), ""])

    # -- the same words in every form -----------------------------------------------------------------

    def summary(self) -> str:
        """One line: memory and latency of the whole."""
        before, after = self.before, self.after
        return (
            f"Memory needed {format_bytes(after.peak_bytes)} of {format_bytes(self.budget_bytes)} (unmodified "
            f"{format_bytes(before.peak_bytes)}), at its peak in {after.peak_stage}; latency "
            f"{format_seconds(after.latency_s)}, {format_seconds(after.copy_s)} of it copies of weights (unmodified "
            f"{format_seconds(before.latency_s)}, ×{self.latency_ratio:.3f})"
        )

    def footnote(self) -> str:
        """How the figures were come to."""
        return (
            f"{self.sampler + '; ' if self.sampler else ''}ops run {self.mode}; lower bound of these plans in any "
            f"order {format_bytes(self.lower_bound_bytes)}. kept: weights stay on the device; loaded: they are copied "
            "to it when the stage's turn comes, and dropped after it; streamed: they are copied op by op in every run."
        )

    def stage_rows(self) -> list[list[str]]:
        """A row a stage: see :data:`STAGE_HEAD`."""
        return [
            [
                stage.name,
                stage.schedule,
                stage.weights,
                format_bytes(stage.weight_bytes),
                format_bytes(stage.before.peak_bytes),
                format_bytes(stage.after.peak_bytes),
                format_seconds(stage.after.latency_s),
                f"×{stage.after.latency_s / stage.before.latency_s:.3f}" if stage.before.latency_s else "",
                format_seconds(stage.seconds),
            ]
            for stage in self.stages
        ]

    def part_rows(self) -> list[list[str]]:
        """A row a part of the peaks, a column a stage, after a heading row of :data:`PART_HEAD`."""
        return [
            [stage.name, *(format_bytes(stage.after.parts[p]) if stage.after.parts.get(p) else "" for p in PARTS)]
            for stage in self.stages
        ]


PARTS = ("weights", "activations", "workspaces", "fragmentation", "frames out", "other weights", "held", "context")
STAGE_HEAD = ("Stage", "Runs", "Weights are", "Weights", "Unmodified", "Memory", "A run", "Ratio", "In all")
PART_HEAD = ("Memory of", *(part.capitalize() for part in PARTS))


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
