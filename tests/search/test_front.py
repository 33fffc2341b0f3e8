"""Fronts and hypervolumes, against what follows from their definitions and against pymoo."""

import itertools
import random

import pytest

from vgcomp.search.front import hypervolume, nondominated


def dominates(one, other):
    return all(a <= b for a, b in zip(one, other)) and one != other


@pytest.mark.parametrize("size", [2, 3])
def test_the_front_is_what_no_point_dominates(size):
    rng = random.Random(size)
    points = [tuple(rng.randrange(6) for _ in range(size)) for _ in range(60)]
    expected = [i for i, p in enumerate(points) if not any(dominates(q, p) for q in points) and points.index(p) == i]
    assert nondominated(points) == expected


def test_nothing_has_no_front_and_no_volume():
    assert nondominated([]) == []
    assert hypervolume([], (1.0, 1.0)) == 0.0


def test_known_areas():
    assert hypervolume([(0, 0)], (2, 3)) == 6
    assert hypervolume([(0, 2), (1, 1), (2, 0)], (3, 3)) == 6
    assert hypervolume([(4, 0)], (3, 3)) == 0  # beyond the reference


@pytest.mark.parametrize("size", [2, 3])
def test_the_volume_is_that_of_the_cells_below_the_points(size):
    rng = random.Random(size)
    points = [tuple(rng.randrange(7) for _ in range(size)) for _ in range(12)]
    cells = itertools.product(range(7), repeat=size)
    covered = sum(any(all(p <= c for p, c in zip(point, cell)) for point in points) for cell in cells)
    assert hypervolume(points, (7,) * size) == covered


@pytest.mark.parametrize("size", [2, 3])
def test_the_volume_is_pymoo_s(size):
    hv = pytest.importorskip("pymoo.indicators.hv", reason="pymoo is not installed")
    import numpy as np

    points = np.random.default_rng(0).random((200, size))
    assert hypervolume(points.tolist(), (0.9,) * size) == pytest.approx(hv.HV(ref_point=np.full(size, 0.9))(points))


def test_other_numbers_of_objectives_are_refused():
    with pytest.raises(ValueError, match="two or three"):
        hypervolume([(1,)], (2,))
