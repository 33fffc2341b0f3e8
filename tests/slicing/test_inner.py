"""What ops hold inside themselves on slices: predicted before a loop is written as it is counted after."""

from __future__ import annotations

import pytest

from tests.graph_builder import Builder, aten
from vgcomp.cost_models import AnalyticModel
from vgcomp.ir import Axis
from vgcomp.memory import analyse
from vgcomp.slicing.choices import Choice
from vgcomp.slicing.inner import slice_inner
from vgcomp.slicing.plan import PlanSpace, plan_space
from vgcomp.slicing.problem import Problem, make_problem
from vgcomp.slicing.rewrite import rewrite
from vgcomp.targets import load_target

TARGET = load_target("a100")
CHANNELS, SIDE = 64, 32
#: Of a filter, and of an image, in fp32.
FILTER, IMAGE = 4 * 9 * CHANNELS**2, 4 * CHANNELS * SIDE**2


def problem_of(*, upsampled: bool) -> Problem:
    """Convolutions with filters as large as a slice of their images; the second reads one that may be upsampled."""
    b = Builder()
    x = b.conv(b.input("x", (1, 2, SIDE, SIDE)), b.weight("up", (CHANNELS, 2, 3, 3)), (1, 1))
    if upsampled:
        x = b.call(aten.upsample_nearest2d.vec, x, None, [2.0, 2.0])
    y = b.conv(b.call(aten.silu.default, x) if not upsampled else x, b.weight("w", (CHANNELS, CHANNELS, 3, 3)), (1, 1))
    graph = b.done(b.conv(y, b.weight("down", (2, CHANNELS, 3, 3)), (1, 1)))
    return make_problem(graph, TARGET, AnalyticModel(TARGET), analyse(graph, workspace="cuda"), "cuda")


def test_a_filter_is_held_whole_by_every_slice() -> None:
    always, scaled = slice_inner(problem_of(upsampled=False), 2, Axis(2, SIDE))
    assert always == FILTER
    assert scaled == 2 * IMAGE  # input and output in another layout


def test_a_part_of_an_upsampled_image_is_copied() -> None:
    always, scaled = slice_inner(problem_of(upsampled=True), 2, Axis(3, 2 * SIDE))
    assert always == FILTER
    assert scaled == 3 * 4 * IMAGE


def true_peak(space: PlanSpace, plan_budget: float) -> tuple[Choice, int]:
    plan = space.best(int(plan_budget))
    assert plan is not None
    written = rewrite(space, plan)
    live = dict(zip(written.graph.nodes, analyse(written.graph, workspace="cuda").at, strict=True))
    (choice, nodes), *_ = written.nodes_of
    return choice, max(live[node] for node in nodes)


@pytest.mark.parametrize("upsampled", [False, True])
@pytest.mark.parametrize("share", [0.5, 0.6, 0.8])
def test_peaks_are_predicted_with_them(upsampled: bool, share: float) -> None:
    problem = problem_of(upsampled=upsampled)
    budget = share * float(problem.plain_peak.max())
    space = plan_space(problem, int(0.4 * problem.plain_peak.max()), int(budget))
    choice, actual = true_peak(space, budget)
    assert 0.9 * actual <= choice.peak <= 1.1 * actual
