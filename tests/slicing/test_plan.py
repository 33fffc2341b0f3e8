"""Plans: the least latency of all paths, within the budget; corrections leave no prediction below what was built."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from torch import fx

from tests.graph_builder import Builder, aten
from tests.test_simulate import program_of
from vgcomp.cost_models import AnalyticModel
from vgcomp.memory import analyse
from vgcomp.slicing.plan import PlanSpace, plan_space
from vgcomp.slicing.prepare import assign_reuse, split_group_norms
from vgcomp.slicing.problem import Problem, make_problem
from vgcomp.slicing.rewrite import drop_dead, rewrite
from vgcomp.targets import load_target
from vgcomp.verify import verify

TARGET = load_target("a100")
RECOMPUTE_OR_CARRY = 2  # modes below this one need no reservation


def chain(kinds: str, *, frames: int = 4, side: int = 32) -> fx.Graph:
    """2 channels to 16 and back; between, a letter an op.

    c(onvolution), n(orm), s(ilu), a(dd of where it began), m(ean over frames, multiplied).
    """
    b = Builder()
    x = b.input("x", (frames, 2, side, side))
    up, w, down = b.weight("up", (16, 2, 3, 3)), b.weight("w", (16, 16, 3, 3)), b.weight("down", (2, 16, 3, 3))
    scale, shift = b.weight("scale", (16,)), b.weight("shift", (16,))
    y = begin = b.conv(x, up, (1, 1))
    for kind in kinds:
        if kind == "c":
            y = b.conv(y, w, (1, 1))
        elif kind == "n":
            y = b.call(aten.group_norm.default, y, 4, scale, shift, 1e-5)
        elif kind == "s":
            y = b.call(aten.silu.default, y)
        elif kind == "a":
            y = b.call(aten.add.Tensor, y, begin)
        else:
            y = b.call(aten.mul.Tensor, y, b.call(aten.mean.dim, y, [0], True))
    graph = b.done(b.conv(y, down, (1, 1)))
    drop_dead(graph)
    return graph


def problem_of(graph: fx.Graph) -> Problem:
    split_group_norms(graph)
    assign_reuse(graph)
    return make_problem(graph, TARGET, AnalyticModel(TARGET), analyse(graph))


def space_of(kinds: str, low: float, high: float) -> PlanSpace:
    """The plan space of a chain for budgets given as shares of its unsliced peak."""
    problem = problem_of(chain(kinds))
    peak = int(problem.plain_peak.max())
    return plan_space(problem, int(low * peak), int(high * peak))


def paths(space: PlanSpace, budget: int, start: int = 0) -> Iterator[float]:
    """Seconds of every way to the end whose parts all fit, one after the other."""
    problem = space.problem
    if start == problem.n:
        yield 0.0
        return
    steps = [(start + 1, float(problem.seconds[start]))] if problem.plain_peak[start] <= budget else []
    for end in range(start + 1, problem.n + 1):
        rows = np.arange(space.span[end], space.span[end + 1])
        rows = rows[(space.first[rows] == start) & (space.peak[rows] <= budget)]
        rows = rows[space.which[rows, 1] < RECOMPUTE_OR_CARRY]
        if len(rows):
            # Of parallel edges any but the fastest only makes the same path slower.
            steps.append((end, float(space.seconds[rows].min())))
    for end, seconds in steps:
        yield from (seconds + rest for rest in paths(space, budget, end))


CHAINS = ["c", "cs", "csc", "ns", "cnsc", "cam", "cscsa", "ncsnc"]


@pytest.mark.parametrize("kinds", CHAINS)
@pytest.mark.parametrize("share", [0.35, 0.5, 0.65, 0.8, 1.0])
def test_no_path_is_faster(kinds: str, share: float) -> None:
    space = space_of(kinds, share, share)
    budget = int(share * int(space.problem.plain_peak.max()))
    best = min(paths(space, budget), default=math.inf)
    plan = space.best(budget)
    if plan is None:
        assert best == math.inf
        return
    assert plan.peak <= budget
    # A reservation may do better than any path without one.
    assert plan.seconds <= best * (1 + 1e-9)
    if not any(choice.extra or choice.reserve for choice in plan.choices):
        assert plan.seconds == pytest.approx(best)


@pytest.mark.parametrize("kinds", CHAINS)
def test_less_memory_never_takes_less_time(kinds: str) -> None:
    space = space_of(kinds, 0.3, 1.0)
    peak = int(space.problem.plain_peak.max())
    plans = [space.best(int(share * peak)) for share in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)]
    seconds = [plan.seconds if plan is not None else math.inf for plan in plans]
    assert seconds == sorted(seconds)
    assert plans[0] is not None
    assert plans[0].choices == () or plans[0].seconds <= float(space.problem.seconds.sum())


@pytest.mark.parametrize("kinds", CHAINS)
def test_regions_are_disjoint_and_in_order(kinds: str) -> None:
    space = space_of(kinds, 0.4, 0.6)
    plan = space.best(int(0.6 * int(space.problem.plain_peak.max())))
    assert plan is not None
    edges = [0, *(edge for choice in plan.choices for edge in (choice.first, choice.end)), space.problem.n]
    assert edges == sorted(edges)
    assert all(choice.first < choice.end and choice.n_slices > 1 for choice in plan.choices)


@pytest.mark.parametrize("kinds", CHAINS)
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8])
def test_corrected_predictions_hold_what_was_built(kinds: str, share: float) -> None:
    space = space_of(kinds, share, share)
    budget = int(share * int(space.problem.plain_peak.max()))
    for _ in range(10):
        plan = space.best(budget)
        if plan is None:
            return
        written = rewrite(space, plan)
        verify(program_of(written.graph))
        at = dict(zip(written.graph.nodes, analyse(written.graph).at, strict=True))
        exact = {choice: max(at[node] for node in nodes) for choice, nodes in written.nodes_of}
        wrong = {choice: peak for choice, peak in exact.items() if peak > choice.peak}
        for choice, peak in wrong.items():
            space.correct(choice, peak)
            assert space.choice(choice.edge).peak + choice.extra >= peak
        if not wrong:
            break
    assert all(choice.peak >= peak for choice, peak in exact.items())


def test_a_correction_scales_the_same_region_in_other_slices() -> None:
    space = space_of("csc", 0.5, 0.5)
    plan = space.best(int(0.5 * int(space.problem.plain_peak.max())))
    assert plan is not None
    choice = plan.choices[0]
    before = space.peak.copy()
    space.correct(choice, choice.peak + 1000)
    assert space.peak[choice.edge] == choice.peak + 1000
    changed = np.nonzero(space.peak != before)[0]
    assert all(space.first[row] == choice.first for row in changed)
    assert (space.peak >= before).all()


def test_a_graph_that_fits_is_left_alone() -> None:
    space = space_of("csc", 1.0, 1.0)
    plan = space.best(int(space.problem.plain_peak.max()))
    assert plan is not None
    assert plan.choices == ()
    assert plan.seconds == pytest.approx(float(space.problem.seconds.sum()))
