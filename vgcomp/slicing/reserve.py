"""Reservations along the shortest path: which live buffers were allocated with room for what will be laid over them.

For one number of extra bytes, the state at a boundary is the cheapest way to have each wanted buffer allocated with as
much to spare: an array over the buffers, improved by all edges into the boundary at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vgcomp.slicing.problem import Bools, Floats, Ints

if TYPE_CHECKING:
    from vgcomp.slicing.plan import PlanSpace

#: No buffer; no edge but an unsliced op.
NONE = -1


@dataclass(frozen=True, slots=True)
class Step:
    """How a reservation came to a boundary: from which one, as which buffer there (None: made on the way), by what."""

    before: int
    buffer: int | None
    edge: int


class Reservations:
    """The cheapest reservations of ``extra`` bytes for ``buffers`` (by id) at every boundary.

    ``useful``: the edges to be looked at.
    """

    def __init__(self, space: PlanSpace, budget: int, extra: int, buffers: list[int], useful: Bools) -> None:
        problem = space.problem
        self.extra, self.buffers = extra, buffers
        self.number = {buffer: k for k, buffer in enumerate(buffers)}
        shape = (problem.n + 1, len(buffers))
        self.cost = np.full(shape, np.inf)
        self._before = np.zeros(shape, dtype=np.int32)
        self._was = np.full(shape, NONE, dtype=np.int32)
        self._edge = np.full(shape, NONE, dtype=np.int64)
        self._last = np.array([problem.last[buffer] for buffer in buffers])
        self._room = (problem.plain_peak + extra <= budget).tolist()
        self._plain = problem.seconds.tolist()
        self._held = np.zeros(problem.n + 1, dtype=bool)
        self._take_edges(space, useful & (space.peak + extra <= budget))

    def _take_edges(self, space: PlanSpace, fits: Bools) -> None:
        """For each end, start and placement of results, the cheapest edge that leaves room."""
        rows = space.by_seconds[fits[space.by_seconds]]
        kinds, cheapest = np.unique(space.kind[rows], return_index=True)
        order = np.argsort(space.end[rows[cheapest]], kind="stable")
        self._rows = rows[cheapest][order]
        self._first, self._seconds = space.first[self._rows], space.seconds[self._rows]
        at = np.full(space.n_kinds, NONE)
        at[kinds[order]] = np.arange(len(order))
        n = space.problem.n
        self._span = np.searchsorted(space.end[self._rows], np.arange(n + 2)).tolist()
        number = self.number
        makes, takes = space.makes[at[space.makes[:, 0]] != NONE], space.takes[at[space.takes[:, 0]] != NONE]
        begun = [(int(at[kind]), NONE, number[b]) for kind, b in makes.tolist() if b in number]
        moved = [
            (int(at[kind]), number.get(source, NONE), number[result])
            for kind, source, result in takes.tolist()
            if result in number
        ]
        #: (edge, buffer before, buffer after) where an edge makes a buffer or hands one on, by edge.
        self._begun, self._begun_span = self._by_edge(begun)
        self._moved, self._moved_span = self._by_edge(moved)

    def _by_edge(self, found: list[tuple[int, int, int]]) -> tuple[Ints, list[int]]:
        table = np.array(found, dtype=np.int64).reshape(-1, 3)
        table = table[np.argsort(table[:, 0], kind="stable")]
        return table, np.searchsorted(table[:, 0], self._span).tolist()

    def reach(self, j: int, plain: Floats) -> None:
        """Fills boundary ``j``; ``plain``: the least cost of each boundary before it without a reservation."""
        if self._room[j - 1] and self._held[j - 1]:
            cost = np.where(self._last >= j, self.cost[j - 1] + self._plain[j - 1], np.inf)
            self._improve(j, cost, j - 1, np.arange(len(cost)), NONE)
        lo, hi = self._span[j], self._span[j + 1]
        if lo == hi:
            return
        if self._held[self._first[lo:hi]].any():
            self._pass(j, lo, hi)
        for edge, _, k in self._begun[self._begun_span[j] : self._begun_span[j + 1]].tolist():
            first = int(self._first[edge])
            self._improve_one(j, k, float(plain[first]) + self._seconds[edge], first, NONE, edge)

    def _pass(self, j: int, lo: int, hi: int) -> None:
        """By edges on whose way the buffer stays, or is handed on."""
        begun = self._begun[self._begun_span[j] : self._begun_span[j + 1]]
        moved = self._moved[self._moved_span[j] : self._moved_span[j + 1]]
        through = self.cost[self._first[lo:hi]] + self._seconds[lo:hi, None]
        for edge, source, k in moved.tolist():
            if source != NONE and through[edge - lo, source] < self.cost[j, k]:
                first = int(self._first[edge])
                self._improve_one(j, k, float(through[edge - lo, source]), first, source, edge)
        # From there on these names stand for other memory.
        through[begun[:, 0] - lo, begun[:, 2]] = np.inf
        through[moved[:, 0] - lo, moved[:, 2]] = np.inf
        handed = moved[moved[:, 1] != NONE]
        through[handed[:, 0] - lo, handed[:, 1]] = np.inf
        best = through.argmin(axis=0)
        each = np.arange(len(best))
        cost = np.where(self._last >= j, through[best, each], np.inf)
        self._improve(j, cost, self._first[lo + best], each, self._rows[lo + best])

    def _improve(self, j: int, cost: Floats, before: Ints | int, was: Ints, edge: Ints | int) -> None:
        better = cost < self.cost[j]
        if not better.any():
            return
        self._held[j] = True
        self.cost[j] = np.where(better, cost, self.cost[j])
        self._before[j] = np.where(better, before, self._before[j])
        self._was[j] = np.where(better, was, self._was[j])
        self._edge[j] = np.where(better, edge, self._edge[j])

    def _improve_one(self, j: int, k: int, cost: float, before: int, was: int, edge: int) -> None:
        if cost < self.cost[j, k]:
            self._held[j] = True
            self.cost[j, k], self._before[j, k], self._was[j, k], self._edge[j, k] = cost, before, was, self._rows[edge]

    def step(self, j: int, buffer: int) -> Step:
        """How the cheapest reservation of a buffer came to boundary ``j``."""
        k = self.number[buffer]
        was = int(self._was[j, k])
        return Step(int(self._before[j, k]), None if was == NONE else self.buffers[was], int(self._edge[j, k]))
