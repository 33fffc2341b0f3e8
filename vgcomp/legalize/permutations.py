"""Transpositions of many dimensions as a few of at most ``limit``.

Dimensions of 1 do not matter, and those that stay neighbours are one. What is left over the limit is taken apart: each
step moves whole blocks of neighbours, so that it has no more than ``limit`` dimensions, and the fewest steps are
searched for (each reads and writes the whole tensor).

    steps((1, 32, 3, 2, 3, 2, 4, 2), (0, 1, 5, 2, 6, 3, 7, 4), 5)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

Order = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """Seen as ``shape``, the dimensions come in the order ``dims``."""

    shape: tuple[int, ...]
    dims: tuple[int, ...]


def steps(shape: Sequence[int], dims: Sequence[int], limit: int) -> list[Step]:
    """The steps that together permute row-major data of ``shape`` by ``dims``; none where nothing moves."""
    sizes, order = _reduced(shape, dims)
    if order == tuple(range(len(order))):
        return []
    found = []
    for blocks, moved in _plan(order, limit):
        groups = _groups(sizes, blocks)
        found.append(Step(tuple(math.prod(group) for group in groups), moved))
        sizes = tuple(itertools.chain.from_iterable(groups[d] for d in moved))
    return found


def _reduced(shape: Sequence[int], dims: Sequence[int]) -> tuple[tuple[int, ...], Order]:
    """Sizes and order without dimensions of 1, neighbours that stay neighbours merged."""
    kept = [d for d in range(len(shape)) if shape[d] != 1]
    order = [kept.index(d) for d in dims if shape[d] != 1]
    sizes = [shape[d] for d in kept]
    # runs[i]: consecutive source dimensions that follow each other in the result.
    runs: list[list[int]] = []
    for d in order:
        if runs and runs[-1][-1] + 1 == d:
            runs[-1].append(d)
        else:
            runs.append([d])
    by_source = sorted(range(len(runs)), key=lambda i: runs[i][0])
    merged = tuple(math.prod(sizes[d] for d in runs[i]) for i in by_source)
    return merged, tuple(by_source.index(i) for i in range(len(runs)))


def _groups(sizes: Sequence[int], blocks: Sequence[int]) -> list[tuple[int, ...]]:
    """``sizes`` cut into blocks of so many."""
    ends = list(itertools.accumulate(blocks))
    return [tuple(sizes[end - n : end]) for n, end in zip(blocks, ends, strict=True)]


@cache
def _plan(order: Order, limit: int) -> tuple[tuple[tuple[int, ...], Order], ...]:
    """(block lengths, order of the blocks) of each step; breadth first, so the fewest."""
    n = len(order)
    if n <= limit:
        return (((1,) * n, order),)
    start = tuple(range(n))
    frontier: dict[Order, tuple[tuple[tuple[int, ...], Order], ...]] = {start: ()}
    seen = {start}
    while True:
        following: dict[Order, tuple[tuple[tuple[int, ...], Order], ...]] = {}
        for state, path in frontier.items():
            for blocks, moved, after in _moves(state, limit):
                if after in seen:
                    continue
                seen.add(after)
                following[after] = (*path, (blocks, moved))
                last = _last(after, order, limit)
                if last is not None:
                    return (*following[after], last)
        frontier = following


def _last(state: Order, order: Order, limit: int) -> tuple[tuple[int, ...], Order] | None:
    """The one step from ``state`` to ``order``, where there is one."""
    position = {d: i for i, d in enumerate(state)}
    runs: list[list[int]] = []
    for d in order:
        at = position[d]
        if runs and runs[-1][-1] + 1 == at:
            runs[-1].append(at)
        else:
            runs.append([at])
    if len(runs) > limit:
        return None
    by_source = sorted(range(len(runs)), key=lambda i: runs[i][0])
    return tuple(len(runs[i]) for i in by_source), tuple(by_source.index(i) for i in range(len(runs)))


def _moves(state: Order, limit: int) -> Iterator[tuple[tuple[int, ...], Order, Order]]:
    """Every way to cut into ``limit`` blocks and reorder them: (lengths, order, what results)."""
    n = len(state)
    for cuts in itertools.combinations(range(1, n), limit - 1):
        ends = (*cuts, n)
        blocks = tuple(b - a for a, b in zip((0, *cuts), ends, strict=True))
        groups = _groups(state, blocks)
        for moved in itertools.permutations(range(limit)):
            yield blocks, moved, tuple(itertools.chain.from_iterable(groups[d] for d in moved))
