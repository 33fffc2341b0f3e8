"""Schedules: counts, the published algorithm by hand, and the shortest path against all schedules there are."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vgcomp.errors import UsageError
from vgcomp.rehash.schedule import (
    NONE,
    UNKNOWN,
    Schedule,
    Stretches,
    algorithm1,
    by_effect,
    least_error,
    sources,
    text,
    thresholded,
    uniform,
)


def stretches(n: int, seed: int, *, coupled: bool, longest: int = 99) -> Stretches:
    """Random errors; ``coupled``: with products between stretches, as vectors have them."""
    rng = np.random.default_rng(seed)
    index = np.full((n, n + 1), UNKNOWN)
    count = 0
    for j in range(n):
        index[j, j + 1] = NONE
        for k in range(j + 2, min(n, j + longest) + 1):
            index[j, k], count = count, count + 1
    vectors = rng.random((count, 5)) if coupled else np.diag(rng.random(count))
    return Stretches(index, np.stack([vectors @ vectors.T]))


def every(n: int, full: int) -> list[Schedule]:
    """All schedules of ``full`` full steps."""
    return [tuple(i in (0, *chosen) for i in range(n)) for chosen in combinations(range(1, n), full - 1)]


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 8), data=st.data(), seed=st.integers(0, 99), coupled=st.booleans())
def test_no_schedule_is_predicted_better_than_the_shortest_path(n: int, data: st.DataObject, seed: int, coupled: bool):
    full = data.draw(st.integers(1, n))
    found = stretches(n, seed, coupled=coupled)
    chosen = least_error(found, full)
    assert sum(chosen) == full and chosen[0]
    least = min(found.squared_errors(schedule)[0] for schedule in every(n, full))
    # With every path followed the search is exact; 256 a state are all there are at these sizes.
    assert found.squared_errors(chosen)[0] == pytest.approx(least)


@given(n=st.integers(2, 60), data=st.data())
def test_uniform_has_the_number_asked_for_and_both_ends(n: int, data: st.DataObject) -> None:
    full = data.draw(st.integers(2, n))
    chosen = uniform(n, full)
    assert sum(chosen) == full and chosen[0] and chosen[-1]
    gaps = np.diff(np.flatnonzero(chosen))
    assert gaps.max() - gaps.min() <= 1


def test_algorithm_1_by_hand() -> None:
    # Steps 0-2 alike, 3 differs from them, 4 is like 3; the last is full whatever it is like.
    similarity = np.array(
        [
            [1.0, 0.9, 0.9, 0.2, 0.2, 0.2],
            [0.9, 1.0, 0.9, 0.2, 0.2, 0.2],
            [0.9, 0.9, 1.0, 0.2, 0.2, 0.2],
            [0.2, 0.2, 0.2, 1.0, 0.8, 0.8],
            [0.2, 0.2, 0.2, 0.8, 1.0, 0.8],
            [0.2, 0.2, 0.2, 0.8, 0.8, 1.0],
        ]
    )
    assert text(thresholded(similarity, 0.7)) == "F..F.F"
    assert text(thresholded(similarity, 0.85)) == "F..FFF"
    assert text(algorithm1(similarity, 3)) == "F..F.F"
    assert sources(thresholded(similarity, 0.7)) == [0, 0, 0, 3, 3, 5]
    assert sum(algorithm1(similarity, 5)) == 4, "five cannot be had: steps 1 and 2 fall together"


def test_algorithm_1_by_effect_walks_on_while_the_clip_changes_little() -> None:
    found = stretches(6, 0, coupled=False)
    similarity = by_effect(found)
    assert np.all(np.diag(similarity) == 0) and np.isnan(similarity[0, 3])
    schedule = thresholded(similarity, -0.5)
    for j, i in ((a, b) for b, a in enumerate(sources(schedule)) if a != b):
        assert found.products[0, found.index[j, i + 1], found.index[j, i + 1]] ** 0.5 <= 0.5


def test_a_stretch_that_was_not_calibrated_is_never_taken() -> None:
    found = stretches(8, 0, coupled=False, longest=3)
    with pytest.raises(UsageError, match="longer than was calibrated"):
        least_error(found, 2)
    assert sum(least_error(found, 3)) == 3
    alike = np.ones((8, 8))
    assert text(algorithm1(alike, 7)) == "F......F"
    assert text(algorithm1(found.known(alike), 7)) == "F..F..FF", "what is not known is not reused"
    with pytest.raises(UsageError, match="longer stretch"):
        found.squared_errors(uniform(8, 2))


@pytest.mark.parametrize("full", [0, 9])
def test_numbers_that_cannot_be(full: int) -> None:
    with pytest.raises(UsageError, match="full steps of 8"):
        uniform(8, full)
