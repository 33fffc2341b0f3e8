"""The shortest path over boundaries, and over what is reserved at them.

Without reservations a state is a boundary: the bytes live on an edge depend on the edge alone. A *reservation* adds
one fact: a certain live buffer was allocated with ``extra`` bytes to spare, because a later region will lay its
result over it (:class:`~vgcomp.slicing.regions.Grow`). From where the buffer is born to where it grows, every edge
costs ``extra`` more bytes; a region that works in place hands the reservation on to its result. The decoder of a
video network ends so: the frames at half resolution lie in the buffer that the full resolution will fill.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vgcomp.slicing.choices import Choice, Plan
from vgcomp.slicing.problem import Bools, Ints
from vgcomp.slicing.regions import GROW, Grow

if TYPE_CHECKING:
    from vgcomp.slicing.plan import PlanSpace

#: (extra bytes, buffer by id).
_Key = tuple[int, int]


@dataclass
class _State:
    """A boundary with a reservation: the least cost to it and where it came from (edge -1: an unsliced op)."""

    cost: float
    before: int
    key: _Key | None
    edge: int


@dataclass(frozen=True)
class _Edge:
    """An edge as reservations see it."""

    row: int
    first: int
    peak: float
    seconds: float
    taken: dict[int, int]
    fresh: tuple[int, ...]


@dataclass
class _Rich:
    """Edges that leave room for a reservation, by end.

    ``begins``: those that make a buffer which may be reserved. ``reserved``: boundaries with such a reservation.
    """

    rows: Ints
    first: Ints
    begins: Bools
    span: Ints
    reserved: Bools


def shortest(space: PlanSpace, budget: int) -> Plan | None:
    """The least-latency plan whose every edge stays within ``budget`` bytes; None if there is none."""
    return _Search(space, budget).run()


class _Search:
    def __init__(self, space: PlanSpace, budget: int) -> None:
        self.space, self.problem, self.budget = space, space.problem, budget
        n = self.problem.n
        self.cost = np.full(n + 1, np.inf)
        self.cost[0] = 0.0
        #: The edge into each boundary (-1: an unsliced op), and the reservation that it ended.
        self.via = np.full(n + 1, -1, dtype=np.int64)
        self.ended: dict[int, _Key] = {}
        self.states: list[dict[_Key, _State]] = [{} for _ in range(n + 1)]
        self.modes = space.which[:, 1]
        fits = (space.peak <= budget) & (self.modes != GROW)
        self.seconds = np.where(fits, space.seconds, np.inf)
        self.grows = self._growing_edges()
        #: By extra bytes: the buffers that are worth reserving with as much to spare.
        self.wanted = self._wanted_reservations()
        #: By extra bytes: the edges that leave room for them.
        self.edges: dict[int, _Edge] = {}
        self.rich = {extra: self._rich_edges(extra) for extra in sorted(self.wanted)}

    def run(self) -> Plan | None:
        plain, fine = self.problem.seconds, self.problem.plain_peak <= self.budget
        span, first = self.space.span, self.space.first
        for j in range(1, self.problem.n + 1):
            if fine[j - 1]:
                self.cost[j] = self.cost[j - 1] + plain[j - 1]
            lo, hi = span[j], span[j + 1]
            if lo < hi:
                through = self.cost[first[lo:hi]] + self.seconds[lo:hi]
                k = int(through.argmin())
                if through[k] < self.cost[j]:
                    self.cost[j], self.via[j] = through[k], lo + k
            if self.wanted:
                self._end_reservations(j)
                self._reserve(j)
        return self._trace() if np.isfinite(self.cost[-1]) else None

    # -- reservations

    def _growing_edges(self) -> dict[int, list[tuple[int, Grow]]]:
        """Edges that grow, by their end."""
        found: dict[int, list[tuple[int, Grow]]] = {}
        for row in np.nonzero((self.modes == GROW) & (self.space.peak <= self.budget))[0].tolist():
            candidates = self.space.candidates[self.space.which[row, 0]]
            grow = candidates.grows[self.space.start[row]]
            assert grow is not None
            found.setdefault(candidates.end, []).append((row, grow))
        return found

    def _wanted_reservations(self) -> dict[int, set[int]]:
        """The buffers over which results grow, and those from which they may be taken over."""
        found: dict[int, set[int]] = {}
        for edges in self.grows.values():
            for _, grow in edges:
                found.setdefault(grow.extra, set()).add(id(self.problem.buffer[grow.source]))
        for buffers in found.values():
            stack = list(buffers)
            while stack:
                before = self.space.taken_from.get(stack.pop(), set()) - buffers
                buffers |= before
                stack.extend(before)
        return found

    def _rich_edges(self, extra: int) -> _Rich:
        """For each end, start and placement of results, the cheapest edge that leaves room for ``extra``."""
        space = self.space
        rows = space.by_seconds[(space.peak + extra <= self.budget)[space.by_seconds]]
        _, cheapest = np.unique(space.kind[rows], return_index=True)
        rows = rows[np.sort(cheapest)]
        ends = space.end[rows]
        order = np.argsort(ends, kind="stable")
        rows = rows[order]
        begins = np.zeros(space.n_kinds, dtype=bool)
        for buffer in self.wanted[extra]:
            begins[space.kinds_of_fresh.get(buffer, [])] = True
        span = np.searchsorted(ends[order], np.arange(self.problem.n + 2))
        reserved = np.zeros(self.problem.n + 1, dtype=bool)
        return _Rich(rows, space.first[rows], begins[space.kind[rows]], span, reserved)

    def _edge(self, row: int) -> _Edge:
        if row not in self.edges:
            space = self.space
            candidates, start = space.candidates[space.which[row, 0]], int(space.start[row])
            placement = candidates.placements[start][space.which[row, 1]]
            first, peak, seconds = candidates.firsts[start], float(space.peak[row]), float(space.seconds[row])
            self.edges[row] = _Edge(row, first, peak, seconds, dict(placement.taken), placement.fresh)
        return self.edges[row]

    def _end_reservations(self, j: int) -> None:
        for row, grow in self.grows.get(j, ()):
            key = (grow.extra, id(self.problem.buffer[grow.source]))
            state = self.states[self.space.first[row]].get(key)
            if state is None:
                continue
            cost = state.cost + float(self.space.seconds[row])
            if cost < self.cost[j]:
                self.cost[j], self.via[j] = cost, row
                self.ended[j] = key

    def _reserve(self, j: int) -> None:
        """States at boundary j: through an unsliced op, through an edge, or newly reserved in its result."""
        for (extra, buffer), state in self.states[j - 1].items():
            if self.problem.plain_peak[j - 1] + extra <= self.budget and self.problem.last[buffer] >= j:
                self._improve(j, (extra, buffer), state.cost + self.problem.seconds[j - 1], j - 1, (extra, buffer), -1)
        for extra, rich in self.rich.items():
            here = slice(rich.span[j], rich.span[j + 1])
            worth = rich.begins[here] | rich.reserved[rich.first[here]]
            for row in rich.rows[here][worth].tolist():
                self._through(j, self._edge(row), extra)

    def _through(self, j: int, edge: _Edge, extra: int) -> None:
        for key, state in self.states[edge.first].items():
            after = self._handed_on(edge, key, j) if key[0] == extra else None
            if after is not None and after[1] in self.wanted[extra]:
                self._improve(j, after, state.cost + edge.seconds, edge.first, key, edge.row)
        for buffer in edge.fresh:
            if buffer in self.wanted[extra]:
                cost = float(self.cost[edge.first]) + edge.seconds
                self._improve(j, (extra, buffer), cost, edge.first, None, edge.row)

    def _handed_on(self, edge: _Edge, key: _Key, j: int) -> _Key | None:
        """Where the reservation lies after an edge; None if the edge loses it."""
        extra, buffer = key
        if buffer in edge.taken:
            return extra, edge.taken[buffer]
        if buffer in edge.fresh or buffer in edge.taken.values():
            return None  # from here on that name stands for other memory
        return key if self.problem.last[buffer] >= j else None

    def _improve(self, j: int, key: _Key, cost: float, before: int, old: _Key | None, edge: int) -> None:
        known = self.states[j].get(key)
        if np.isfinite(cost) and (known is None or cost < known.cost):
            self.rich[key[0]].reserved[j] = True
            self.states[j][key] = _State(cost, before, old, edge)

    # -- the path

    def _trace(self) -> Plan:
        choices: list[Choice] = []
        peak, j = 0, self.problem.n
        key: _Key | None = None
        while j > 0:
            state = self.states[j][key] if key is not None else None
            edge = int(self.via[j]) if state is None else state.edge
            extra = key[0] if key is not None else 0
            if edge < 0:
                peak = max(peak, int(self.problem.plain_peak[j - 1]) + extra)
                j -= 1
                key = state.key if state is not None else None
                continue
            choice = self.space.choice(edge)
            if state is not None:
                reserve = (key[1], self.space.sizes[key[1]] + extra) if state.key is None and key else None
                choice = replace(choice, peak=choice.peak + extra, extra=extra, reserve=reserve)
            choices.append(choice)
            peak = max(peak, choice.peak)
            key = state.key if state is not None else (self.ended[j] if choice.grow else None)
            j = choice.first
        return Plan(tuple(reversed(choices)), peak, float(self.cost[-1]))
