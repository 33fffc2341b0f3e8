"""Which elements of an axis are kept: all of them (None), or those where a mask is true."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: None: all of them. A mask is never all true.
Kept = NDArray[np.bool_] | None


def normal(mask: NDArray[np.bool_]) -> Kept:
    """The mask, or None where it keeps everything."""
    return None if mask.all() else mask


def dense(kept: Kept, size: int) -> NDArray[np.bool_]:
    """The mask of an axis of that size."""
    return np.ones(size, dtype=bool) if kept is None else kept


def count(kept: Kept, size: int) -> int:
    """Elements that are kept."""
    return size if kept is None else int(kept.sum())


def same(a: Kept, b: Kept) -> bool:
    """Whether two axes keep the same."""
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def first_of_each(size: int, extent: int, repeat: int) -> Kept:
    """The first ``extent`` elements of each of ``repeat`` equal parts."""
    return normal(np.tile(np.arange(size // repeat) < extent, repeat))


def merged(parts: Sequence[Kept], sizes: Sequence[int]) -> Kept:
    """A row-major merge of axes: an element is kept where each of its coordinates is."""
    if all(part is None for part in parts):
        return None
    out: NDArray[np.bool_] = np.ones(1, dtype=bool)
    for part, size in zip(parts, sizes, strict=True):
        out = np.logical_and(out[:, None], dense(part, size)).reshape(-1)
    return normal(out)


def split(whole: Kept, sizes: Sequence[int]) -> list[Kept] | None:
    """What a row-major split into axes keeps of each; None where it is not a block of them."""
    if whole is None:
        return [None] * len(sizes)
    grid = whole.reshape(tuple(sizes))
    axes = range(len(sizes))
    parts = [normal(np.atleast_1d(grid.any(axis=tuple(a for a in axes if a != axis)))) for axis in axes]
    return parts if same(merged(parts, sizes), whole) else None


def joined(parts: Sequence[Kept], sizes: Sequence[int]) -> Kept:
    """Axes one after the other."""
    if all(part is None for part in parts):
        return None
    return normal(np.concatenate([dense(part, size) for part, size in zip(parts, sizes, strict=True)]))


def window(whole: Kept, start: int, end: int, step: int = 1) -> Kept:
    """Elements ``start:end:step`` of an axis."""
    return None if whole is None else normal(whole[start:end:step].copy())


def moved(position: int, kept: Kept) -> int:
    """Where a position lies once what is not kept is gone."""
    return position if kept is None else int(kept[:position].sum())


def spans(kept: Kept) -> tuple[tuple[int, int], ...] | None:
    """The runs of kept elements as half-open spans; None for all."""
    if kept is None:
        return None
    edges = np.flatnonzero(np.diff(np.concatenate(([False], kept, [False]))))
    return tuple((int(a), int(b)) for a, b in edges.reshape(-1, 2))
