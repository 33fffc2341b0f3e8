"""All candidate regions of one end and one axis."""

from __future__ import annotations

import numpy as np

from vgcomp.ir import Axis
from vgcomp.slicing.growth import FINAL, Figures, Growth, Limits, Pending, slice_counts
from vgcomp.slicing.problem import Problem
from vgcomp.slicing.regions import Candidates, Region


def grow_regions(problem: Problem, limits: Limits, end: int, axis: Axis, stop: int = 0) -> Candidates | None:
    """Candidates that end before op ``end``, slice its last op's result along ``axis``, from ``stop`` on."""
    growth = _begin(problem, limits, end, axis)
    if growth is None:
        return None
    firsts: list[int] = []
    figures: list[Figures] = []
    for i in range(end - 1, stop - 1, -1):
        if not growth.add(i):
            break
        hot = limits.hot_before[end] > limits.hot_before[i]
        if (not hot and end - i > limits.reach) or (end - i > limits.longest and end not in limits.waists):
            break
        if i % 16 == 0 and growth.inner_peak(i).min() > limits.threshold:
            break  # it only grows from here
        if not hot or i not in limits.starts:
            continue
        found = growth.figures(i)
        if found is not None:
            firsts.append(i)
            figures.append(found)
    if not firsts:
        return None
    peak, seconds = np.stack([f.peak for f in figures]), np.stack([f.seconds for f in figures])
    placements, grows = tuple(f.placements for f in figures), tuple(f.grow for f in figures)
    return Candidates(end, axis, growth.options, tuple(firsts), peak, seconds, placements, grows)


def region_at(problem: Problem, limits: Limits, end: int, axis: Axis, first: int) -> Region:
    """One candidate in full, grown again."""
    growth = _begin(problem, limits, end, axis)
    assert growth is not None
    for i in range(end - 1, first - 1, -1):
        assert growth.add(i)
    return growth.region(first)


def _begin(problem: Problem, limits: Limits, end: int, axis: Axis) -> Growth | None:
    options = slice_counts(axis.extent)
    if not options:
        return None
    growth = Growth(problem, limits, end, axis, options)
    growth.pending[problem.nodes[end - 1]] = Pending(axis, phases=FINAL)
    return growth
