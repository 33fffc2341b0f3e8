"""The least-latency plan under a budget: a shortest path over boundaries.

An edge is one unsliced op, or one region with a way to slice it. The bytes live while an edge runs depend
on that edge and nothing else in the plan, so a budget only removes edges, and the front of
memory against latency comes from the same edges again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vgcomp.slicing.problem import Problem
from vgcomp.slicing.regions import CARRY, Limits, Region, grow_regions
from vgcomp.slicing.seeds import seed_axes


@dataclass(frozen=True)
class Choice:
    """A region with its way of slicing chosen."""

    region: Region
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


@dataclass
class PlanSpace:
    """All edges of a problem above a threshold of interest."""

    problem: Problem
    regions: list[Region]
    first: np.ndarray = field(init=False)
    peak: np.ndarray = field(init=False)
    seconds: np.ndarray = field(init=False)
    which: np.ndarray = field(init=False)
    #: Edges ``span[j]:span[j + 1]`` end at boundary j.
    span: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rows = [
            (r.end, r.first, float(r.peak[m, k]), float(r.seconds[m, k]), index, m, k)
            for index, r in enumerate(self.regions)
            for m in (0, 1)
            for k in range(len(r.options))
        ]
        rows.sort(key=lambda row: row[0])
        table = np.array(rows, dtype=np.float64).reshape(-1, 7)
        self.first = table[:, 1].astype(np.int64)
        self.peak, self.seconds = table[:, 2], table[:, 3]
        self.which = table[:, 4:].astype(np.int64)
        self.span = np.searchsorted(table[:, 0], np.arange(self.problem.n + 2))

    def best(self, budget: int) -> Plan | None:
        """The least-latency plan whose every edge stays within ``budget`` bytes; None if there is none."""
        n = self.problem.n
        cost = np.full(n + 1, np.inf)
        cost[0] = 0.0
        via = np.full(n + 1, -1, dtype=np.int64)
        plain, fits = self.problem.seconds, self.peak <= budget
        fine = self.problem.plain_peak <= budget
        for j in range(1, n + 1):
            if fine[j - 1]:
                cost[j] = cost[j - 1] + plain[j - 1]
            lo, hi = self.span[j], self.span[j + 1]
            if lo == hi:
                continue
            through = np.where(fits[lo:hi], cost[self.first[lo:hi]] + self.seconds[lo:hi], np.inf)
            k = int(through.argmin())
            if through[k] < cost[j]:
                cost[j], via[j] = through[k], lo + k
        return self._trace(via, float(cost[n])) if np.isfinite(cost[n]) else None

    def _trace(self, via: np.ndarray, seconds: float) -> Plan:
        choices: list[Choice] = []
        peak, j = 0, self.problem.n
        while j > 0:
            edge = int(via[j])
            if edge < 0:
                peak = max(peak, int(self.problem.plain_peak[j - 1]))
                j -= 1
                continue
            index, mode, k = (int(v) for v in self.which[edge])
            region = self.regions[index]
            choices.append(
                Choice(region, region.options[k], mode == CARRY, int(self.peak[edge]), float(self.seconds[edge]))
            )
            peak = max(peak, int(self.peak[edge]))
            j = region.first
        return Plan(tuple(reversed(choices)), peak, seconds)

    def smallest(self, low: int, tolerance: float = 0.002) -> int | None:
        """The smallest budget for which a plan exists, by bisection between ``low`` and the unsliced peak."""
        high = int(self.problem.plain_peak.max(initial=0))
        if self.best(high) is None:
            return None
        while high - low > tolerance * high:
            middle = (low + high) // 2
            plan = self.best(middle)
            if plan is None:
                low = middle
            else:
                high = max(plan.peak, low + 1)
        return high


def plan_space(problem: Problem, threshold: int) -> PlanSpace:
    """All candidate regions that hold an op whose unsliced peak is above ``threshold`` bytes."""
    hot = problem.plain_peak > threshold
    limits = Limits(threshold, max(threshold // 400, 1 << 16), [0, *np.cumsum(hot).tolist()])
    seeds = seed_axes(problem)
    regions: list[Region] = []
    for end in _ends(problem, limits):
        for axis in seeds[problem.nodes[end - 1]]:
            regions.extend(grow_regions(problem, limits, end, axis))
    return PlanSpace(problem, regions)


def _ends(problem: Problem, limits: Limits) -> Sequence[int]:
    """Boundaries at which a region may end: little enough crosses, and something hot lies behind."""
    found = []
    for j in range(1, problem.n + 1):
        if problem.is_view[j - 1] or problem.crossing[j] > limits.threshold:
            continue
        if limits.hot_before[j] > 0:
            found.append(j)
    return found
