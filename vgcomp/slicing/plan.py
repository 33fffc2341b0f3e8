"""The least-latency plan under a budget: a shortest path over boundaries.

An edge is one unsliced op, or one region with a way to slice it. The bytes live while an edge runs depend
on that edge and nothing else in the plan, so a budget only removes edges, and the front of
memory against latency comes from the same edges again and again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import fx

from vgcomp.ir import Axis
from vgcomp.slicing.emit import BuiltLoop
from vgcomp.slicing.problem import Floats, Ints, Problem
from vgcomp.slicing.regions import CARRY, Candidates, Limits, Region, grow_regions, region_at
from vgcomp.slicing.seeds import seed_axes


#: A boundary that at most this share of the budget crosses is a waist.
_WAIST = 0.1


@dataclass(frozen=True)
class Choice:
    """An edge taken: ops ``[first, end)`` in ``n_slices`` slices of ``axis``."""

    edge: int
    first: int
    end: int
    axis: Axis
    n_slices: int
    carry: bool
    peak: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """Disjoint regions in order; everything else runs as it is. Predictions, not measurements."""

    choices: tuple[Choice, ...]
    peak: int
    seconds: float


class PlanSpace:
    """All edges of a problem above a threshold of interest, and the exact peaks of those that were built."""

    def __init__(self, problem: Problem, limits: Limits, candidates: Sequence[Candidates]) -> None:
        self.problem = problem
        self.limits = limits
        self.candidates = sorted(candidates, key=lambda c: c.end)
        grids = [_grid(c, k) for k, c in enumerate(self.candidates)]
        table = np.concatenate(grids) if grids else np.zeros((0, 6))
        self.first = table[:, 0].astype(np.int64)
        self.peak, self.seconds = table[:, 1].copy(), table[:, 2]
        #: Loops written so far, by edge and statistics node (None: the results' loop).
        self.built: dict[tuple[int, fx.Node | None], BuiltLoop] = {}
        #: (candidates, mode, option) of each edge.
        self.which = table[:, 3:].astype(np.int64)
        ends = np.repeat([c.end for c in self.candidates], [len(g) for g in grids]) if grids else np.zeros(0)
        #: Edges ``span[j]:span[j + 1]`` end at boundary j.
        self.span = np.searchsorted(ends, np.arange(problem.n + 2))

    def best(self, budget: int) -> Plan | None:
        """The least-latency plan whose every edge stays within ``budget`` bytes; None if there is none."""
        n = self.problem.n
        cost = np.full(n + 1, np.inf)
        cost[0] = 0.0
        via = np.full(n + 1, -1, dtype=np.int64)
        plain, fine = self.problem.seconds, self.problem.plain_peak <= budget
        seconds = np.where(self.peak <= budget, self.seconds, np.inf)
        for j in range(1, n + 1):
            if fine[j - 1]:
                cost[j] = cost[j - 1] + plain[j - 1]
            lo, hi = self.span[j], self.span[j + 1]
            if lo == hi:
                continue
            through = cost[self.first[lo:hi]] + seconds[lo:hi]
            k = int(through.argmin())
            if through[k] < cost[j]:
                cost[j], via[j] = through[k], lo + k
        return self._trace(via, float(cost[n])) if np.isfinite(cost[n]) else None

    def _trace(self, via: Ints, seconds: float) -> Plan:
        choices: list[Choice] = []
        peak, j = 0, self.problem.n
        while j > 0:
            edge = int(via[j])
            if edge < 0:
                peak = max(peak, int(self.problem.plain_peak[j - 1]))
                j -= 1
                continue
            choices.append(self._choice(edge))
            peak = max(peak, choices[-1].peak)
            j = int(self.first[edge])
        return Plan(tuple(reversed(choices)), peak, seconds)

    def _choice(self, edge: int) -> Choice:
        index, mode, k = (int(v) for v in self.which[edge])
        found = self.candidates[index]
        first = int(self.first[edge])
        n_slices, peak = found.options[k], int(self.peak[edge])
        return Choice(edge, first, found.end, found.axis, n_slices, mode == CARRY, peak, float(self.seconds[edge]))

    def region(self, choice: Choice) -> Region:
        """The chosen region in full."""
        return region_at(self.problem, self.limits, choice.end, choice.axis, choice.first)

    def correct(self, choice: Choice, actual: int) -> None:
        """Replaces an edge's predicted peak by what the built loop takes, and scales its kin alike."""
        index, mode, _ = self.which[choice.edge]
        lo, hi = self.span[choice.end], self.span[choice.end + 1]
        kin = (self.which[lo:hi, 0] == index) & (self.which[lo:hi, 1] == mode) & (self.first[lo:hi] == choice.first)
        outside = float(self.problem.crossing[choice.first])
        inside = np.maximum(self.peak[lo:hi] - outside, 0.0)
        ratio = max(1.0, (actual - outside) / max(1.0, choice.peak - outside))
        self.peak[lo:hi] = np.where(kin, outside + inside * ratio, self.peak[lo:hi])
        self.peak[choice.edge] = actual


def _grid(found: Candidates, index: int) -> Floats:
    """One row an edge: first, peak, seconds, index, mode, option; dominated ways of slicing left out."""
    starts, modes, options = found.peak.shape
    peak, seconds = found.peak.reshape(starts, -1), found.seconds.reshape(starts, -1)
    order = np.argsort(seconds, axis=1, kind="stable")
    sorted_peak = np.take_along_axis(peak, order, axis=1)
    lowest = np.minimum.accumulate(sorted_peak, axis=1)
    keep = np.ones_like(order, dtype=bool)
    keep[:, 1:] = sorted_peak[:, 1:] < lowest[:, :-1]
    row, column = np.nonzero(keep)
    which = order[row, column]
    firsts = np.asarray(found.firsts)[row]
    return np.column_stack(
        (firsts, peak[row, which], seconds[row, which], np.full(len(row), index), which // options, which % options)
    )


def plan_space(problem: Problem, low: int, high: int) -> PlanSpace:
    """The edges that plans for budgets from ``low`` to ``high`` bytes may want.

    A region must hold an op whose unsliced peak is above ``low``, and at most ``high`` bytes may cross
    its ends.
    """
    hot = problem.plain_peak > low
    small = max(low // 400, 1 << 12)
    starts = frozenset(_cuts(problem, high))
    ends = frozenset(_end_before(problem, j) for j in starts if j > 0)
    waists = frozenset(j for j in ends if problem.crossing[j] <= _WAIST * high)
    limits = Limits(high, small, [0, *np.cumsum(hot).tolist()], waists=waists, starts=starts)
    seeds = seed_axes(problem)
    found = []
    for end in sorted(ends):
        if limits.hot_before[end] == limits.hot_before[max(0, end - limits.reach)]:
            continue  # nothing hot lies close before
        for axis in seeds[problem.nodes[end - 1]]:
            candidates = grow_regions(problem, limits, end, axis)
            if candidates is not None:
                found.append(candidates)
    return PlanSpace(problem, limits, found)


def _end_before(problem: Problem, start: int) -> int:
    """The same cut as an end: right after the last op with a storage of its own, before any views."""
    while start > 1 and problem.is_view[start - 1]:
        start -= 1
    return start


def _cuts(problem: Problem, threshold: int) -> Iterator[int]:
    """Boundaries worth cutting at: few enough bytes cross, and not amid a run where as many cross all along.

    Along such a run (an elementwise chain, say) a cut in the middle materialises as much as one at either end.
    """
    crossing = problem.crossing
    solid = [j for j in range(problem.n) if not problem.is_view[j]]
    for before, j, after in zip([0, *solid], solid, [*solid[1:], problem.n], strict=False):
        if crossing[j] <= threshold and not crossing[before] == crossing[j] == crossing[after]:
            yield j
    yield problem.n
