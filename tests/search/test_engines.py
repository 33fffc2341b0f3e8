"""What the engines do: A1 by the paper's rules, the genetic ones against chance, predictions of the default one."""

import itertools

import numpy as np
import pytest

from tests.search.support import SPACE, as_cost, evaluator, points, run
from vgcomp.errors import UsageError
from vgcomp.search.engines.a1 import AlgorithmA1
from vgcomp.search.engines.named import named_engine
from vgcomp.search.engines.predictor import balanced, fit
from vgcomp.search.front import hypervolume
from vgcomp.search.problem import Evaluation, Limits, Problem
from vgcomp.space import Choice, Space

SEEDS = range(5)


@pytest.fixture(scope="module")
def truth():
    opened = evaluator().open()
    return {candidate: opened.evaluate(candidate) for candidate in SPACE.every()}


# -- Algorithm A1 ------------------------------------------------------------------------------------

LATENCY, MEMORY = (
    {"none": 0.0, "fast": 1.0, "large": 2.0, "best": 4.0},
    {"none": 0, "fast": 10, "large": 80, "best": 50},
)
WORTH = {"none": 0.0, "fast": 1.0, "large": 3.0, "best": 5.0}
SMALL = Space("a1", "net", tuple(Choice(f"temporal.{place}", tuple(LATENCY)) for place in "abc"))


def judged(candidate):
    """Latencies add up, the largest layer is the memory, and a later layer is worth a little more."""
    latency, memory = sum(LATENCY[o] for o in candidate), max(MEMORY[o] for o in candidate)
    quality = sum(WORTH[o] * (1 + 0.1 * i) for i, o in enumerate(candidate))
    return Evaluation(candidate, as_cost(10 + latency, 100 + memory), quality)


def a1(limits, generations):
    engine = AlgorithmA1(Problem(SMALL, limits), seed=0)
    asked = []
    for _ in range(generations):
        asked.append(list(engine.ask()))
        engine.tell([judged(candidate) for candidate in asked[-1]])
    return engine, asked


def test_a1_removes_what_loses_least_for_a_second_until_the_limit_is_met():
    engine, asked = a1(Limits(latency_s=16.0), 3)
    assert len(asked[0]) == 1 + 3 * 3  # the barest network, and each layer alone in it: the table
    assert asked[1] == [("best",) * 3]
    # 22 s: the first place's layer is worth 5 for 4 s, the least.
    (step,) = engine.trace
    assert (step.condition, step.action, step.quality, step.latency_s) == ("T not satisfied", "A⁻ best[a]", -5.0, -4.0)
    assert step.per_second == pytest.approx(1.25)


def test_a1_removes_what_loses_least_for_a_byte_where_only_memory_is_missed():
    engine = AlgorithmA1(Problem(SMALL, Limits(memory_bytes=149)), seed=0)
    engine.tell([judged(candidate) for candidate in engine.ask()])
    assert "large[a]" in engine.eliminated and "best[c]" in engine.eliminated and "fast[a]" not in engine.eliminated
    assert engine.ask() == [("fast",) * 3]  # the best that is left at each place, which fits


def test_a1_adds_what_wins_most_for_its_share_of_a_limit():
    engine, _ = a1(Limits(latency_s=16.0, memory_bytes=200), 6)
    assert [step.condition for step in engine.trace[:3]] == ["T not satisfied", "T not satisfied", "satisfied"]
    # Two layers of 4 s are too many for 5 s beside the others: the table says so, and they are not evaluated.
    added = engine.trace[2]
    assert added.action in {"A⁺ large[b]", "A⁺ large[a]", "A⁺ fast[a]", "A⁺ fast[b]"}
    assert added.after.cost is not None and added.after.cost.latency_s <= 16.0


@pytest.mark.parametrize("limits", [Limits(16.0), Limits(15.0, 150), Limits(None, 180), Limits(13.0, 110)])
def test_a1_ends_within_the_limits_and_no_action_is_left(limits):
    engine = AlgorithmA1(Problem(SMALL, limits), seed=3)
    while not any(step.descent for step in engine.trace):
        engine.tell([judged(candidate) for candidate in engine.ask()])
    first = [step for step in engine.trace if not step.descent]
    last = first[-1].after if first else None
    if last is not None:
        assert limits.met(last.cost)
        for place, kind in itertools.product(range(3), LATENCY):
            if last.candidate[place] == "none" and kind != "none":
                more = judged((*last.candidate[:place], kind, *last.candidate[place + 1 :]))
                assert not limits.met(more.cost)


def test_a1_wants_a_limit():
    with pytest.raises(UsageError, match="give --latency or --mem"):
        AlgorithmA1(Problem(SMALL))


def test_a1_goes_down_and_up_in_a_choice_of_sizes():
    space = Space("sizes", "net", (Choice("width", (32, 48, 64)), Choice("temporal.a", ("none", "conv1d"))))
    engine = AlgorithmA1(Problem(space, Limits(latency_s=6.5)), seed=0)

    def sized(candidate):
        layer = candidate[1] != "none"
        return Evaluation(candidate, as_cost(candidate[0] / 8 + layer, 1), candidate[0] / 100 + layer)

    while not engine.trace:
        engine.tell([sized(candidate) for candidate in engine.ask()])
    assert engine.eliminated == ["width 32→64"]
    assert (engine.trace[0].action, engine.trace[0].after.candidate) == ("A⁻ width 48→32", (32, "conv1d"))


def test_a1_is_killed_and_resumed_like_the_others():
    limits = Limits(0.8, 1_150_000_000)
    assert points(run("a1", 60, limits=limits)) == points(run("a1", 60, limits=limits))


# -- the others --------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["nsga2", "unsga3"])
def test_genetic_engines_learn(truth, engine):
    pytest.importorskip("pymoo", reason="pymoo is not installed")
    problem = Problem(SPACE)
    corner = np.array([problem.vector(e) for e in truth.values()]).max(axis=0).tolist()

    def volume(name, seed):
        return hypervolume([problem.vector(e) for e in run(name, 120, seed=seed).front], corner)

    assert np.mean([volume(engine, s) for s in SEEDS]) > np.mean([volume("random", s) for s in SEEDS])


def test_an_unknown_engine_is_refused():
    with pytest.raises(UsageError, match="there are surrogate, a1"):
        named_engine("genius", Problem(SPACE), 0)


def test_a_sum_and_a_maximum_are_predicted():
    rng = np.random.default_rng(0)
    parts, genes = rng.random((5, 4)), balanced([4] * 5, 40, rng)
    every = np.indices([4] * 5).reshape(5, -1).T
    for figure in (np.sum, np.max):
        values, truth = (figure(parts[np.arange(5), g], axis=1) for g in (genes, every))
        mean, deviation = fit(genes, values, 4).predict(every)
        assert np.sqrt(((mean - truth) ** 2).mean()) < 0.25 * truth.std()
        assert (deviation >= 0).all()


def test_a_balanced_design_has_each_option_as_often():
    genes = balanced([2, 3, 6], 12, np.random.default_rng(1))
    assert [np.bincount(genes[:, i]).tolist() for i in range(3)] == [[6, 6], [4, 4, 4], [2] * 6]
