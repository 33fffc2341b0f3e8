"""Qualities and costs that were found before, in JSON: a list, or a line each, of candidates with their figures.

    {"candidate": {"temporal.mid": "conv1d", "temporal.up.0.0": "none"}, "quality": 0.71}
    {"candidate": ["conv1d", "none"], "latency_s": 0.41, "peak_bytes": 1800000000}

A search's journal is such a table, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vgcomp.compiled_cost.cost import Cost
from vgcomp.errors import UsageError
from vgcomp.space import Candidate, Space

SUFFIXES = (".json", ".jsonl")


@dataclass(frozen=True)
class TableQuality:
    """Qualities of a table, by candidate."""

    values: Mapping[Candidate, float]
    name: str

    def quality(self, candidate: Candidate) -> float:
        return _looked_up(self.values, candidate, self.name)


@dataclass(frozen=True)
class TableCosts:
    """Costs of a table, by candidate."""

    values: Mapping[Candidate, Cost]
    name: str

    def cost(self, candidate: Candidate) -> Cost:
        return _looked_up(self.values, candidate, self.name)


def read_qualities(path: Path, space: Space) -> TableQuality:
    """The table's qualities; higher is better. Raises UsageError for a file that holds none of this space."""
    entries = _entries(path, space)
    found = {c: float(e["quality"]) for c, e in entries if isinstance(e.get("quality"), int | float)}
    return TableQuality(_some(found, path, "quality"), str(path))


def read_costs(path: Path, space: Space) -> TableCosts:
    """The table's costs: ``latency_s``, ``peak_bytes``, and the other fields of :class:`Cost` where it has them.

    Raises UsageError for a file that holds none of this space.
    """
    found = {candidate: _cost(entry.get("cost", entry)) for candidate, entry in _entries(path, space)}
    return TableCosts(_some({c: cost for c, cost in found.items() if cost is not None}, path, "cost"), str(path))


def cost_of(figures: Mapping[str, Any]) -> Cost:
    """A Cost of what is given of it: ``latency_s`` in seconds and ``peak_bytes`` at least. Raises KeyError."""
    latency, peak = float(figures["latency_s"]), int(figures["peak_bytes"])
    return Cost(
        latency_s=latency,
        peak_bytes=peak,
        weight_bytes=int(figures.get("weight_bytes", 0)),
        flops=float(figures.get("flops", 0.0)),
        feasible=bool(figures.get("feasible", True)),
        uncompiled_latency_s=float(figures.get("uncompiled_latency_s", latency)),
        uncompiled_peak_bytes=int(figures.get("uncompiled_peak_bytes", peak)),
    )


def _cost(figures: Mapping[str, Any]) -> Cost | None:
    return cost_of(figures) if "latency_s" in figures and "peak_bytes" in figures else None


def _looked_up(values: Mapping[Candidate, Any], candidate: Candidate, name: str) -> Any:
    if candidate not in values:
        raise UsageError(f"{name} has no line for {'+'.join(map(str, candidate))}")
    return values[candidate]


def _some(found: dict[Candidate, Any], path: Path, what: str) -> dict[Candidate, Any]:
    if not found:
        raise UsageError(f"{path} has no {what} of any candidate")
    return found


def _entries(path: Path, space: Space) -> Iterator[tuple[Candidate, Mapping[str, Any]]]:
    for number, entry in enumerate(_raw(path), 1):
        if not isinstance(entry, dict):
            raise UsageError(f"{path}, entry {number}: not an object with a candidate and its figures")
        if "candidate" not in entry:
            continue  # the heading of a journal
        given = entry["candidate"]
        yield (space.candidate(given) if isinstance(given, dict) else _checked(space, given)), entry


def _checked(space: Space, given: list[Any]) -> Candidate:
    candidate = tuple(given)
    space.genes(candidate)
    return candidate


def _raw(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        entries = json.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(entries, list):
        raise UsageError(f"{path}: a list of candidates with their figures is wanted")
    return entries
