"""Points that no other dominates, and the volume that they dominate. All coordinates are to be made small."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vector = Sequence[float]


def nondominated(points: Sequence[Vector]) -> list[int]:
    """Numbers of the points that no other is as good as in every coordinate; of equal points the first alone."""
    if not points:
        return []
    table = np.asarray(points, dtype=float)
    # In lexicographic order a point is dominated by points before it alone.
    order = np.lexsort((np.arange(len(table)), *table.T[::-1]))
    kept: list[int] = []
    front = np.empty((0, table.shape[1]))
    for i in order:
        if not (front <= table[i]).all(axis=1).any():
            kept.append(int(i))
            front = np.vstack((front, table[i]))
    return sorted(kept)


def hypervolume(points: Sequence[Vector], reference: Vector) -> float:
    """Volume between the points and the reference, exactly, for two or three coordinates.

    In the product of the coordinates' units. Points that are not better than the reference everywhere add nothing.
    """
    corner = np.asarray(reference, dtype=float)
    if corner.shape not in ((2,), (3,)):
        raise ValueError(f"two or three coordinates, not {len(corner)}")
    table = np.asarray(points, dtype=float).reshape(-1, len(corner))
    table = table[(table < corner).all(axis=1)]
    if not len(table):
        return 0.0
    return _area(table, corner) if len(corner) == 2 else _volume(table, corner)


def _volume(table: NDArray[np.float64], corner: NDArray[np.float64]) -> float:
    """Slices along the last coordinate, each with the area of the points that have come by then."""
    table = table[nondominated(table.tolist())]
    table = table[np.argsort(table[:, 2], kind="stable")]
    depths = np.diff(np.append(table[:, 2], corner[2]))
    return float(sum(depth * _area(table[: i + 1, :2], corner[:2]) for i, depth in enumerate(depths) if depth > 0))


def _area(table: NDArray[np.float64], corner: NDArray[np.float64]) -> float:
    table = table[np.argsort(table[:, 0], kind="stable")]
    widths = np.diff(np.append(table[:, 0], corner[0]))
    heights = corner[1] - np.minimum.accumulate(table[:, 1])
    return float(widths @ heights)
