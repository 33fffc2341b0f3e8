"""Regions that slice cheaply but not small enough, as hopes: see :mod:`vgcomp.slicing.nested`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from vgcomp.slicing.growth import Limits
from vgcomp.slicing.problem import Bools, Floats, Problem
from vgcomp.slicing.regions import Candidates

#: A region's outer slices may cost this much more than its cheapest way of slicing.
_OUTER = 1.1


def hopes_of(
    problem: Problem, limits: Limits, found: Candidates, low: int, sizes: Mapping[int, int]
) -> Iterator[Candidates]:
    """Of each start the cheap way with the smallest slices, where even those take more than ``low`` bytes in all.

    ``sizes``: bytes of each buffer, by id. A hope's peak is what it would be if slicing the slices again took away
    all but ``1 / limits.hope`` of them. Only starts at which less lives than at those beside them are worth a hope.
    """
    starts, modes, options = found.peak.shape
    each = np.arange(starts)
    cheap = found.seconds <= _OUTER * found.seconds.min(axis=(1, 2), keepdims=True)
    peak = np.where(cheap, found.peak, np.inf).reshape(starts, -1)
    best = peak.argmin(axis=1)
    least = peak[each, best]
    modes_of_best = (best // options).tolist()
    fresh = [sum(sizes[b] for b in found.placements[s][mode].fresh) for s, mode in enumerate(modes_of_best)]
    outside = (problem.crossing[list(found.firsts)] + np.array(fresh)).astype(np.float64)
    hoped = outside + (least - outside) / limits.hope
    useful = (least > low) & (hoped < limits.threshold) & _low_points(outside)
    for which in np.unique(best[useful]):
        mode, k = divmod(int(which), options)
        rows = np.nonzero(useful & (best == which))[0]
        peaks, seconds = np.full((len(rows), modes, 1), np.inf), np.full((len(rows), modes, 1), np.inf)
        peaks[:, mode, 0], seconds[:, mode, 0] = hoped[rows], found.seconds[rows, mode, k]
        yield Candidates(
            found.end, found.axis, (found.options[k],), tuple(found.firsts[s] for s in rows), peaks, seconds,
            tuple(found.placements[s] for s in rows), (None,) * len(rows), (least - outside)[rows],
        )  # fmt: skip


def _low_points(outside: Floats) -> Bools:
    """True where a figure is no higher than those beside it."""
    padded = np.concatenate(([np.inf], outside, [np.inf]))
    return (outside <= padded[:-2]) & (outside <= padded[2:])  # type: ignore[no-any-return]
