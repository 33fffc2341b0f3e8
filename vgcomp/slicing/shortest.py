"""The shortest path over boundaries, and over what is reserved at them.

Without reservations a state is a boundary: the bytes live on an edge depend on the edge alone. A *reservation* adds
one fact: a certain live buffer was allocated with ``extra`` bytes to spare, because a later region will lay its
result over it (:class:`~vgcomp.slicing.regions.Grow`). From where the buffer is born to where it grows, every edge
costs ``extra`` more bytes; a region that works in place hands the reservation on to its result. The decoder of a
video network ends so: the frames at half resolution lie in the buffer that the full resolution will fill.

Reservations are dear to follow and seldom on the best path. So two cheap passes come first, one without them and one in
which results grow as though room were always there: costs between which the best plan's lies. Only edges that could be
on a path better than the first are looked at with reservations, most often none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vgcomp.slicing.choices import Choice, Plan
from vgcomp.slicing.problem import Bools, Floats, Ints
from vgcomp.slicing.regions import GROW, Grow
from vgcomp.slicing.reserve import Reservations

if TYPE_CHECKING:
    from vgcomp.slicing.plan import PlanSpace

#: (extra bytes, buffer by id).
_Key = tuple[int, int]

#: Relative difference of two sums of seconds that is rounding.
_SAME = 1e-12


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
        self.modes = space.which[:, 1]
        self.plain = np.where(self.problem.plain_peak <= budget, self.problem.seconds, np.inf).tolist()
        fits = space.peak <= budget
        self.seconds = np.where(fits & (self.modes != GROW), space.seconds, np.inf)
        useful = _useful(self, np.where(fits, space.seconds, np.inf)) if (fits & (self.modes == GROW)).any() else fits
        self.grows = self._growing_edges(useful)
        #: By extra bytes: the buffers that are worth reserving with as much to spare.
        wanted = self._wanted_reservations()
        ordered = {extra: [b for b in space.sizes if b in buffers] for extra, buffers in sorted(wanted.items())}
        self.reserved = {extra: Reservations(space, budget, extra, bs, useful) for extra, bs in ordered.items()}

    def run(self) -> Plan | None:
        span, first = self.space.span.tolist(), self.space.first
        for j in range(1, self.problem.n + 1):
            self.cost[j] = self.cost[j - 1] + self.plain[j - 1]
            lo, hi = span[j], span[j + 1]
            if lo < hi:
                through = self.cost[first[lo:hi]] + self.seconds[lo:hi]
                k = int(through.argmin())
                if through[k] < self.cost[j]:
                    self.cost[j], self.via[j] = through[k], lo + k
            self._end_reservations(j)
            for reservations in self.reserved.values():
                reservations.reach(j, self.cost)
        return self._trace() if np.isfinite(self.cost[-1]) else None

    # -- reservations

    def _growing_edges(self, useful: Bools) -> dict[int, list[tuple[int, Grow]]]:
        """Edges that grow, by their end."""
        found: dict[int, list[tuple[int, Grow]]] = {}
        for row in np.nonzero((self.modes == GROW) & useful)[0].tolist():
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
                before = self.space.sources.get(stack.pop(), set()) - buffers
                buffers |= before
                stack.extend(before)
        return found

    def _end_reservations(self, j: int) -> None:
        for row, grow in self.grows.get(j, ()):
            key = (grow.extra, id(self.problem.buffer[grow.source]))
            reserved = self.reserved[grow.extra]
            cost = float(reserved.cost[self.space.first[row], reserved.number[key[1]]] + self.space.seconds[row])
            if cost < self.cost[j]:
                self.cost[j], self.via[j] = cost, row
                self.ended[j] = key

    # -- the path

    def _trace(self) -> Plan:
        choices: list[Choice] = []
        peak, j = 0, self.problem.n
        key: _Key | None = None
        while j > 0:
            step = self.reserved[key[0]].step(j, key[1]) if key is not None else None
            edge = int(self.via[j]) if step is None else step.edge
            extra = key[0] if key is not None else 0
            before = (extra, step.buffer) if step is not None and step.buffer is not None else None
            if edge < 0:
                peak = max(peak, int(self.problem.plain_peak[j - 1]) + extra)
                j, key = j - 1, before
                continue
            choice = self.space.choice(edge)
            if key is not None:
                reserve = (key[1], self.space.sizes[key[1]] + extra) if before is None else None
                choice = replace(choice, peak=choice.peak + extra, extra=extra, reserve=reserve)
            choices.append(choice)
            peak = max(peak, choice.peak)
            key = before if key is not None else (self.ended[j] if choice.grow else None)
            j = choice.first
        return Plan(tuple(reversed(choices)), peak, float(self.cost[-1]))


def _useful(search: _Search, seconds: Floats) -> Bools:
    """Edges that may be on a path better than the best without reservations; ``seconds``: of each edge that fits."""
    space, n = search.space, search.problem.n
    span, first = space.span.tolist(), space.first
    without = _forward(search.plain, span, first, search.seconds)[n]
    least = _forward(search.plain, span, first, seconds)
    rest = np.full(n + 1, np.inf)
    rest[n] = 0.0
    for j in range(n, 0, -1):
        rest[j - 1] = min(rest[j - 1], rest[j] + search.plain[j - 1])
        lo, hi = span[j], span[j + 1]
        if lo < hi and np.isfinite(rest[j]):
            np.minimum.at(rest, first[lo:hi], seconds[lo:hi] + rest[j])
    through = least[first] + seconds + rest[space.end]
    return np.asarray(through < without * (1.0 - _SAME))


def _forward(plain: Sequence[float], span: Sequence[int], first: Ints, seconds: Floats) -> Floats:
    """The least cost of each boundary, by unsliced ops and edges of these seconds."""
    cost = np.full(len(plain) + 1, np.inf)
    cost[0] = 0.0
    for j in range(1, len(cost)):
        best = cost[j - 1] + plain[j - 1]
        lo, hi = span[j], span[j + 1]
        if lo < hi:
            best = min(best, (cost[first[lo:hi]] + seconds[lo:hi]).min())
        cost[j] = best
    return cost
