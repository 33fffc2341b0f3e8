"""The look-up table: what each option of each choice costs where it stands [SnapGen-V, section 3.2, Figure 3].

    table = look_up(CompiledCosts(find_space("snapgen-v"), "a18pro", "3GB"))
    table.rows[0].latency_s                       # over the base candidate, of one option at one place
    table.kept()                                  # the space without the options that are out of memory

One choice at a time is varied against a base, all figures those of whole networks at their real resolutions: what an
option adds depends on what else is live at its place.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Literal

from vgcomp.compiled_cost.cost import Cost
from vgcomp.compiled_cost.costs import CompiledCosts
from vgcomp.errors import UsageError
from vgcomp.space import Candidate, Option, Space
from vgcomp.units import format_bytes, format_seconds

#: ``sliced``: only slices bring it within the budget. ``out of memory``: nothing does.
State = Literal["fits", "sliced", "out of memory"]


@dataclass(frozen=True)
class Row:
    """One option at one place, all other choices at the base's.

    ``place``: shape of the tensor before it, empty where the choice has no place of its own. ``latency_s`` and
    ``peak_bytes``: over the base candidate's. ``whole_peak_bytes``: of the network as it was built on a runtime that
    holds attention's scores whole; None where it is not known.
    """

    choice: str
    option: Option
    place: tuple[int, ...]
    cost: Cost
    latency_s: float
    peak_bytes: int
    whole_peak_bytes: int | None
    state: State


@dataclass(frozen=True)
class LookupTable:
    """Rows in the order of choices and options. ``memory``: the budget in bytes, None for none."""

    space: Space
    target: str
    memory: int | None
    base: Candidate
    base_cost: Cost
    rows: tuple[Row, ...]

    def out(self, row: Row, *, compiled: bool = True) -> bool:
        """Whether a state is out of memory: once compiled, or as built with attention's scores whole."""
        if compiled:
            return row.state == "out of memory"
        peak = row.cost.uncompiled_peak_bytes if row.whole_peak_bytes is None else row.whole_peak_bytes
        return self.memory is not None and peak > self.memory

    def kept(self, *, compiled: bool = True) -> Space:
        """The space without the states that are out of memory. Raises UsageError where a choice keeps no option."""
        gone = {(row.choice, row.option) for row in self.rows if self.out(row, compiled=compiled)}
        choices = []
        for choice in self.space.choices:
            options = tuple(option for option in choice.options if (choice.name, option) not in gone)
            if not options:
                raise UsageError(f"{choice.name}: every option is out of memory within {_size(self.memory)}")
            choices.append(replace(choice, options=options))
        return replace(self.space, choices=tuple(choices))

    def to_json(self) -> str:
        """The table as JSON."""
        return json.dumps(
            {
                "space": self.space.name,
                "target": self.target,
                "memory_bytes": self.memory,
                "base": list(self.base),
                "base_cost": asdict(self.base_cost),
                "rows": [asdict(row) for row in self.rows],
            },
            indent=2,
        )

    def cells(self) -> list[tuple[str, ...]]:
        """The rows as text, under :data:`HEADINGS`."""
        return [self._cells(row) for row in self.rows]

    def _cells(self, row: Row) -> tuple[str, ...]:
        as_built = "-" if row.whole_peak_bytes is None else format_bytes(row.whole_peak_bytes)
        return (
            row.choice,
            "×".join(map(str, row.place)) or "-",
            str(row.option),
            f"{row.latency_s * 1e3:+.1f} ms",
            f"{row.peak_bytes / 2**20:+.1f} MiB",
            format_seconds(row.cost.latency_s),
            format_bytes(row.cost.peak_bytes),
            row.state,
            as_built,
            "out of memory" if self.out(row, compiled=False) else "fits",
        )

    def summary(self) -> str:
        """One line: the base, and how many states are out of memory either way."""
        gone = sum(self.out(row) for row in self.rows)
        built = sum(self.out(row, compiled=False) for row in self.rows)
        return (
            f"{self.space.name} on {self.target} within {_size(self.memory)}: {len(self.rows)} states over a base of "
            f"{format_seconds(self.base_cost.latency_s)} and {format_bytes(self.base_cost.peak_bytes)}; out of memory: "
            f"{gone} compiled, {built} as built with attention's scores whole"
        )

    def markdown(self) -> str:
        """The table as a Markdown page."""
        names = [heading.removeprefix(">") for heading in HEADINGS]
        rule = ["---:" if heading.startswith(">") else "---" for heading in HEADINGS]
        lines = [f"# Look-up table: {self.space.name}, {self.target}", "", self.summary() + ".", ""]
        lines += ["| " + " | ".join(row) + " |" for row in [tuple(names), tuple(rule), *self.cells()]]
        return "\n".join(lines) + "\n"


#: Columns; those of numbers begin with ``>``.
HEADINGS = (
    "Choice", "Place", "Option", ">Latency", ">Peak", ">Network", ">Needs", "Compiled", ">Scores whole", "As built",
)  # fmt: skip


def look_up(
    costs: CompiledCosts, base: Candidate | None = None, tell: Callable[[str, float], None] | None = None
) -> LookupTable:
    """The table of a space's choices. ``base``: the first option of each choice unless given.

    Raises UsageError for a base that is not of the space.
    """
    space = costs.compiler.space
    base = base or tuple(choice.options[0] for choice in space.choices)
    base_cost = costs.cost(base)
    places = costs.places()
    rows: list[Row] = []
    for k, choice in enumerate(space.choices):
        if tell is not None:
            tell(choice.name, k / len(space.choices))
        for option in choice.options:
            candidate = (*base[:k], option, *base[k + 1 :])
            rows.append(_row(costs, candidate, base_cost, (choice.name, option, places.get(choice.name, ()))))
    memory = costs.compiler.memory
    return LookupTable(space, costs.compiler.target.name, memory, base, base_cost, tuple(rows))


def _row(costs: CompiledCosts, candidate: Candidate, base: Cost, where: tuple[str, Option, tuple[int, ...]]) -> Row:
    cost = costs.cost(candidate)
    return Row(
        *where,
        cost=cost,
        latency_s=cost.latency_s - base.latency_s,
        peak_bytes=cost.peak_bytes - base.peak_bytes,
        whole_peak_bytes=costs.whole_scores_bytes(candidate),
        state=_state(costs, candidate, cost),
    )


def _state(costs: CompiledCosts, candidate: Candidate, cost: Cost) -> State:
    if not cost.feasible:
        return "out of memory"
    return "sliced" if costs.is_sliced(candidate) else "fits"


def _size(memory: int | None) -> str:
    return "no budget" if memory is None else format_bytes(memory, binary=False)
