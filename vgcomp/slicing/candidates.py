"""All candidate regions of one end and one axis."""

from __future__ import annotations

import numpy as np

from vgcomp.ir import Axis
from vgcomp.slicing.growth import Growth, Limits, slice_counts
from vgcomp.slicing.memo import Relative, Walk, memo_of
from vgcomp.slicing.problem import Problem
from vgcomp.slicing.regions import Candidates, Region


def grow_regions(problem: Problem, limits: Limits, end: int, axis: Axis, stop: int = 0) -> Candidates | None:
    """Candidates that end before op ``end``, slice its last op's result along ``axis``, from ``stop`` on."""
    starts = limits.starts_of(end, stop)
    if not starts or not slice_counts(axis.extent):
        return None
    crossing = problem.crossing[list(starts)]
    #: At each start, the bytes that cross the best one from there on.
    rest = np.minimum.accumulate(crossing[::-1])[::-1].tolist()
    firsts: list[int] = []
    figures: list[Relative] = []
    walk = Walk(problem, limits, end, axis)
    k = 0
    for i in range(end - 1, starts[-1] - 1, -1):
        least = walk.take(i) / limits.hope
        if least + rest[k] > limits.threshold:
            break  # it cannot start here, or is too much wherever it starts, since it only grows
        if i != starts[k]:
            continue
        if least + crossing[k] <= limits.threshold:  # wherever the results may lie
            firsts.append(i)
            figures.append(walk.figures(i))
        k += 1
    return _candidates(problem, walk, firsts, figures) if firsts else None


def _candidates(problem: Problem, walk: Walk, firsts: list[int], figures: list[Relative]) -> Candidates:
    outside = problem.crossing[firsts][:, None] + np.array([f.fresh for f in figures])
    peak = np.stack([f.inner for f in figures]) + outside[:, :, None].astype(np.float64)
    seconds = np.stack([f.seconds for f in figures])
    placements = tuple((walk.placement(f.placements[0]), walk.placement(f.placements[1])) for f in figures)
    grows = tuple(walk.grow(f) for f in figures)
    options = slice_counts(walk.axis.extent)
    return Candidates(walk.end, walk.axis, options, tuple(firsts), peak, seconds, placements, grows)


def region_at(problem: Problem, limits: Limits, end: int, axis: Axis, first: int) -> Region:
    """One candidate in full, grown again."""
    growth = Growth(problem, limits, end, axis, memo_of(problem).tables_of(slice_counts(axis.extent)))
    for i in range(end - 1, first - 1, -1):
        assert growth.add(i)
    return growth.region()
