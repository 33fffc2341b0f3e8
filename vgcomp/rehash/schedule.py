"""When to run the full program and when to reuse: schedules of a given number of full steps.

A schedule has an entry a step, True where the step is full. The first always is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vgcomp.errors import UsageError

Schedule = tuple[bool, ...]
Matrix = NDArray[np.float64]


def uniform(steps: int, full: int) -> Schedule:
    """``full`` steps as evenly apart as they come, the first and the last among them."""
    _check(steps, full)
    if full == 1:
        return _from_steps(steps, [0])
    return _from_steps(steps, [round(k * (steps - 1) / (full - 1)) for k in range(full)])


def thresholded(similarity: Matrix, least: float) -> Schedule:
    """Streamlined Inference's Algorithm 1. ``similarity[i, j]`` is between the features of steps i and j.

    From a full step j on, each step reuses j's feature while it is at least ``least`` similar to it; the first that is
    not becomes the next full step, as does one of which nothing is known (not a number). The first and the last step
    are full.
    """
    steps = len(similarity)
    full, j = [0], 0
    for i in range(1, steps - 1):
        if not similarity[i, j] >= least:
            full.append(i)
            j = i
    return _from_steps(steps, [*full, steps - 1])


def algorithm1(similarity: Matrix, full: int) -> Schedule:
    """:func:`thresholded` at the threshold that gives ``full`` full steps, or the most that does not exceed it.

    The number of full steps does not fall evenly with the threshold, so that some numbers cannot be had.
    """
    _check(len(similarity), full)
    levels = np.unique(similarity[~np.isnan(similarity)])[::-1]
    found = [thresholded(similarity, float(level)) for level in [math.inf, *levels, -math.inf]]
    fitting = [schedule for schedule in found if sum(schedule) <= full]
    if not fitting:
        raise UsageError(f"{full} full steps: the algorithm makes the first and the last step full, so at least 2")
    return max(fitting, key=sum)


@dataclass(frozen=True)
class Stretches:
    """What reuse between two full steps does to the clip, for every such stretch that was calibrated.

    ``index[j, k]``: the stretch that reuses what full step j left, in steps j + 1 to k - 1, k being the next full step
    or the number of steps; :data:`NONE` where k is j + 1 (nothing is reused), :data:`UNKNOWN` where that was not
    calibrated.
    ``products[c, a, b]``: for each clip c, the mean over its elements of the product of what stretches a and b change.
    """

    index: NDArray[np.int64]
    products: Matrix

    @property
    def steps(self) -> int:
        """Of the sampler."""
        return len(self.index)

    def of(self, schedule: Schedule) -> list[int]:
        """The stretches of a schedule that reuse. Raises UsageError where one was not calibrated."""
        ends = [i for i, is_full in enumerate(schedule) if is_full] + [self.steps]
        found = [int(self.index[j, k]) for j, k in pairwise(ends)]
        if UNKNOWN in found:
            raise UsageError("the schedule has a longer stretch of reuse than was calibrated")
        return [stretch for stretch in found if stretch != NONE]

    def squared_errors(self, schedule: Schedule) -> Matrix:
        """Each clip's mean squared error, predicted: what stretches change adds up, and may cancel or reinforce."""
        chosen = self.of(schedule)
        return np.maximum(0.0, self.products[:, chosen][:, :, chosen].sum(axis=(1, 2)))

    def known(self, similarity: Matrix) -> Matrix:
        """``similarity`` where the stretch from step j over step i was calibrated; elsewhere not a number."""
        return np.where(np.tril(self.index[:, 1:].T == UNKNOWN), math.nan, similarity)


NONE, UNKNOWN = -1, -2
#: Mean squared errors below this are as good as none.
LEAST_ERROR = 1e-12


def by_effect(stretches: Stretches) -> Matrix:
    """A similarity for :func:`thresholded` that knows what matters: less the change in the clip if step i reuses too.

    Features of late steps differ most and matter least, or the other way round, as the sampler has it: a threshold on
    their cosine cannot know. Here ``[i, j]`` is minus the root mean square change that the stretch from j over i makes;
    not a number where that was not calibrated.
    """
    alone = np.sqrt(np.maximum(0.0, np.diagonal(stretches.products, axis1=1, axis2=2))).mean(axis=0)
    stretch = stretches.index[:, 1:].T
    return np.where(stretch >= 0, -alone[stretch], np.where(stretch == NONE, 0.0, math.nan))


def least_error(stretches: Stretches, full: int, *, width: int = 256) -> Schedule:
    """The schedule of ``full`` full steps of least predicted error: a shortest path over full and reuse decisions.

    A path's state is (step, full steps so far). Errors are vectors that add up, so what is best until a step need not
    be best in the end: the ``width`` best paths of each state are followed. Paths compare by the mean over clips of the
    logarithm of their errors, as clips' mean PSNR has it. Raises UsageError where every path of ``full`` full steps has
    a stretch that was not calibrated.
    """
    n = stretches.steps
    _check(n, full)
    clips, count = stretches.products.shape[:2]
    states = {0: _Paths(np.zeros((1, n), dtype=bool), np.zeros((1, count)), np.zeros((1, clips)))}
    for left in range(full, 0, -1):
        reached: dict[int, list[_Paths]] = {}
        for j, paths in states.items():
            ends = [k for k in range(j + 1, n + 1) if (k == n) == (left == 1) and stretches.index[j, k] != UNKNOWN]
            for k in ends:
                reached.setdefault(k, []).append(_extended(paths, j, int(stretches.index[j, k]), stretches))
        states = {k: _best(pieces, width) for k, pieces in reached.items()}
    if n not in states:
        raise UsageError(f"{full} full steps of {n} leave a stretch longer than was calibrated: ask for more of them")
    return tuple(bool(is_full) for is_full in states[n].full[0])


@dataclass(frozen=True)
class _Paths:
    """Paths to one step, a row each: full steps (P, n), stretches taken (P, S), clips' squared errors (P, C)."""

    full: NDArray[np.bool_]
    taken: Matrix
    squared: Matrix


def _extended(paths: _Paths, j: int, stretch: int, stretches: Stretches) -> _Paths:
    """The paths with step ``j`` full, and the stretch after it."""
    full = paths.full.copy()
    full[:, j] = True
    if stretch == NONE:
        return _Paths(full, paths.taken, paths.squared)
    products = stretches.products[:, stretch]
    squared = paths.squared + products[:, stretch] + 2 * paths.taken @ products.T
    taken = paths.taken.copy()
    taken[:, stretch] = 1.0
    return _Paths(full, taken, squared)


def _best(pieces: Sequence[_Paths], width: int) -> _Paths:
    full, taken, squared = (
        np.concatenate(parts) for parts in zip(*((p.full, p.taken, p.squared) for p in pieces), strict=True)
    )
    measure = np.log(np.maximum(squared, LEAST_ERROR)).mean(axis=1)
    order = np.argsort(measure, kind="stable")[:width]
    return _Paths(full[order], taken[order], squared[order])


def sources(schedule: Schedule) -> list[int]:
    """For each step the full step whose feature it uses (itself, where it is full)."""
    found: list[int] = []
    for i, is_full in enumerate(schedule):
        found.append(i if is_full else found[-1])
    return found


def text(schedule: Sequence[bool]) -> str:
    """``F..F.``: a letter a step."""
    return "".join("F" if is_full else "." for is_full in schedule)


def _from_steps(steps: int, full: Sequence[int]) -> Schedule:
    chosen = set(full)
    return tuple(i in chosen for i in range(steps))


def _check(steps: int, full: int) -> None:
    if not 1 <= full <= steps:
        raise UsageError(f"{full} full steps of {steps}: it takes at least 1 and at most all")
