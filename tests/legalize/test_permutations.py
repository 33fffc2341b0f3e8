"""Transpositions taken apart: each step legal, together the same, and no more steps than needed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vgcomp.legalize.permutations import steps


def apply(shape: list[int], dims: list[int], limit: int) -> tuple[np.ndarray, int]:
    value = np.arange(math.prod(shape))
    found = steps(shape, dims, limit)
    for step in found:
        assert len(step.shape) <= limit
        value = value.reshape(step.shape).transpose(step.dims)
    return value.reshape(-1), len(found)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_steps_do_what_the_permutation_does(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 7))
    shape = data.draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    dims = data.draw(st.permutations(range(rank)))
    limit = data.draw(st.integers(3, 5))
    found, _ = apply(shape, dims, limit)
    wanted = np.arange(math.prod(shape)).reshape(shape).transpose(dims).reshape(-1)
    assert (found == wanted).all()


@pytest.mark.parametrize(
    ("shape", "dims", "count"),
    [
        ([2, 3, 4], [0, 1, 2], 0),
        ([2, 1, 4, 1], [1, 0, 3, 2], 0),
        ([2, 3, 4, 5, 6], [4, 3, 2, 1, 0], 1),
        ([1, 2, 3, 1, 4, 5, 6, 1], [7, 0, 6, 5, 4, 2, 1, 3], 1),
        ([1, 32, 3, 2, 3, 2, 4, 2], [0, 1, 5, 2, 6, 3, 7, 4], 2),
        ([2] * 6, [5, 4, 3, 2, 1, 0], 2),
    ],
)
def test_no_more_steps_than_needed(shape: list[int], dims: list[int], count: int) -> None:
    assert apply(shape, dims, 5)[1] == count
