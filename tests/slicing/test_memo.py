"""Growths remembered: equal blocks are grown once, and what is found is what growing anew finds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.slicing.test_plan import CHAINS, chain, problem_of
from vgcomp.slicing.memo import memo_of
from vgcomp.slicing.plan import PlanSpace, plan_space
from vgcomp.slicing.problem import Problem
from vgcomp.slicing.structure import Structure


def space_at(problem: Problem, low: float, high: float) -> PlanSpace:
    peak = int(problem.plain_peak.max())
    return plan_space(problem, int(low * peak), int(high * peak))


def assert_equal(one: PlanSpace, other: PlanSpace) -> None:
    assert np.array_equal(one.first, other.first)
    assert np.array_equal(one.end, other.end)
    assert np.array_equal(one.peak, other.peak)
    assert np.array_equal(one.seconds, other.seconds)
    placements = [(c.end, c.axis, c.firsts, c.placements, c.grows) for c in one.candidates]
    assert placements == [(c.end, c.axis, c.firsts, c.placements, c.grows) for c in other.candidates]


@pytest.mark.parametrize("kinds", [*CHAINS, "cnsa" * 4, "nscns" * 3, "csam" * 3])
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_what_is_remembered_is_what_would_be_grown(kinds: str, share: float) -> None:
    problem = problem_of(chain(kinds))
    space_at(problem, 0.5, 0.9)  # fills the memo at other limits
    known = len(memo_of(problem).least)
    remembered = space_at(problem, share, share)
    assert_equal(remembered, space_at(replace(problem, memo=None), share, share))
    assert known > 0 or not remembered.candidates


def test_a_memo_tells_ops_apart_by_what_they_are_connected_to() -> None:
    """The same calls in the same order, once on the result before and once on an earlier one."""
    tokens = []
    for kinds in ("csc", "csa"):
        problem = problem_of(chain(kinds))
        structure = Structure(problem)
        tokens.append([structure.token(i, problem.n - 1 - i) for i in range(problem.n)])
    assert tokens[0] != tokens[1]


def test_equal_blocks_are_grown_once() -> None:
    """Regions here reach back to the beginning: grown one by one, twice the blocks would take four times the steps."""
    steps = []
    for blocks in (3, 6):
        problem = problem_of(chain("cns" * blocks))
        space_at(problem, 0.5, 0.6)
        steps.append(len(memo_of(problem).least))
    assert steps[1] < 2.5 * steps[0]
