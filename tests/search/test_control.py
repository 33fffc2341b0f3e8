"""A twentieth of a space of compiled costs is enough to find its front, and chance finds less; see the benchmark."""

import pytest

from tests.benchmarks.search_control import COSTS, GOAL, LATENCY, SEEDS, TIGHT, Contest, costs_of
from vgcomp.search.problem import NO_LIMITS, Limits


@pytest.fixture(scope="module")
def costs():
    return costs_of(COSTS)


@pytest.mark.parametrize(
    ("limits", "seeds"), [(NO_LIMITS, SEEDS[:2]), (Limits(LATENCY, TIGHT), SEEDS)], ids=["no limits", "limits"]
)
def test_the_default_engine_finds_nearly_all_with_a_twentieth_and_beats_chance(costs, limits, seeds):
    contest = Contest(costs, 0, "", limits)
    for seed in seeds:
        ours, chance = (contest.row(engine, seed).shares[-1] for engine in ("surrogate", "random"))
        assert ours >= GOAL
        assert ours > chance


def test_algorithm_a1_reaches_its_limits(costs):
    for quality in range(3):
        found = Contest(costs, quality, "", Limits(LATENCY, TIGHT)).a1()
        assert found["reached"]
        assert found["actions"][0].startswith("T not satisfied: A⁻ ")
        assert found["found"] > 0.98 * found["best"]
