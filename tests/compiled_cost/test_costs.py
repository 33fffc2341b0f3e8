"""Costs of candidates: those linked of pieces are those of the whole compiler; the look-up table and its trends."""

import functools
import json
import math
from dataclasses import astuple, replace

import pytest

from vgcomp import models
from vgcomp.compiled_cost.costs import CompiledCosts
from vgcomp.compiled_cost.cuts import NotLocal, Walk, find_cuts
from vgcomp.compiled_cost.lookup import Row, look_up
from vgcomp.compiled_cost.pipeline import FullCosts
from vgcomp.compiled_cost.trace import latency_s, trace_of
from vgcomp.cost_models import AnalyticModel
from vgcomp.errors import UsageError
from vgcomp.simulate import Setup
from vgcomp.space import Choice, Space
from vgcomp.targets import load_target

#: An early place and the late one whose skip it makes, with kinds that leave their results in three layouts.
SPACE = Space(
    "two-places",
    "snapgen-v-small",
    (
        Choice("temporal.down.1.0", ("none", "conv1d", "selfattention3d")),
        Choice("temporal.up.1.0", ("none", "conv1d", "crossattention1d")),
    ),
    (("temporal", "none+none+none+conv3d+none+none+none+none+none"),),
)


@pytest.fixture(scope="module")
def phone():
    costs = CompiledCosts(SPACE, "a18pro", "3GB")
    costs.prepare()
    return costs


@pytest.mark.parametrize("candidate", [("conv1d", "crossattention1d"), ("selfattention3d", "conv1d")])
def test_a_candidate_linked_of_others_costs_what_the_whole_compiler_says(phone, candidate):
    assert phone.is_local
    full = FullCosts(SPACE, "a18pro", "3GB").cost(candidate)
    linked = phone.cost(candidate)
    assert astuple(linked) == pytest.approx(astuple(full), rel=1e-12)
    assert full.feasible


def test_what_was_met_is_not_built_again(phone):
    for candidate in SPACE.every():
        phone.cost(candidate)
    before = phone.counts.built
    fresh = CompiledCosts(SPACE, "a18pro", None)
    fresh._memos, fresh._inputs, fresh._local = phone._memos, phone._inputs, True
    costs = [fresh.cost(candidate) for candidate in SPACE.every()]
    assert fresh.counts.linked == len(costs) == SPACE.size
    assert phone.counts.built == before
    assert min(cost.latency_s for cost in costs) == costs[0].latency_s


def test_a_cpu_counts_what_is_live():
    space = Space("one-place", SPACE.network, SPACE.choices[:1], SPACE.settings)
    costs = CompiledCosts(space, "cpu")
    costs.prepare()
    assert astuple(costs.cost(("conv1d",))) == pytest.approx(astuple(FullCosts(space, "cpu").cost(("conv1d",))))
    assert costs.counts.full == 0


def test_a_budget_that_asks_for_slices_takes_the_whole_compiler(phone):
    free = phone.cost(("selfattention3d", "none"))
    activations = free.peak_bytes - free.weight_bytes
    tight = CompiledCosts(SPACE, "a18pro", free.weight_bytes + activations * 7 // 10)
    tight._memos, tight._inputs = phone._memos, phone._inputs
    sliced = tight.cost(("selfattention3d", "none"))
    assert tight.counts.full == 1
    assert sliced.feasible
    assert sliced.peak_bytes <= free.weight_bytes + activations * 7 // 10
    assert tight.is_sliced(("selfattention3d", "none"))


def test_no_program_within_the_budget_is_not_feasible(phone):
    hopeless = CompiledCosts(SPACE, "a18pro", phone.cost(("none", "none")).weight_bytes)
    hopeless._memos, hopeless._inputs = phone._memos, phone._inputs
    cost = hopeless.cost(("none", "none"))
    assert not cost.feasible
    assert cost.peak_bytes > phone.cost(("none", "none")).weight_bytes


def test_a_caching_allocator_is_replayed_whole():
    costs = CompiledCosts(SPACE, "rtx3060")
    assert not costs.is_local
    assert costs.cost(("none", "none")).feasible
    assert costs.counts.full == 1


def test_a_candidate_of_another_space_is_refused(phone):
    with pytest.raises(UsageError, match=r"temporal\.down\.1\.0"):
        phone.cost(("conv2d", "none"))


def _walk(names: str) -> Walk:
    return Walk(tuple(range(len(names))), tuple((name, (f"{name}.weight",), (1,)) for name in names))


def test_a_choice_s_place_is_where_programs_differ():
    inserted, _, resumed = find_cuts(_walk("abcdef"), {0: [_walk("abxcdef")]})
    assert (inserted.anchor[0], inserted.choices, resumed.anchor[0]) == ("b", (0,), "c")
    exchanged = find_cuts(_walk("abxcdyzf"), {0: [_walk("abvwcdyzf")], 1: [_walk("abxcdf")]})
    assert [(cut.anchor[0], cut.choices) for cut in exchanged] == [
        ("b", (0,)),
        ("c", ()),
        ("c", ()),
        ("d", (1,)),
    ]


def test_choices_that_change_everything_have_no_place():
    with pytest.raises(NotLocal, match="overlap"):
        find_cuts(_walk("abcdef"), {0: [_walk("aBCDEf")], 1: [_walk("abCDeF")]})
    with pytest.raises(NotLocal, match="nothing before"):
        find_cuts(_walk("abc"), {0: [_walk("Abc")]})


def test_the_table_has_each_state_and_takes_out_those_out_of_memory(phone):
    table = look_up(phone)
    assert [(row.choice, row.option) for row in table.rows] == [
        (choice.name, option) for choice in SPACE.choices for option in choice.options
    ]
    assert table.rows[0].latency_s == 0.0
    assert table.rows[2].place == (3, 24, 64)
    assert {row.state for row in table.rows} == {"fits"}
    assert table.kept() == SPACE
    data = json.loads(table.to_json())
    assert len(data["rows"]) == 6
    assert table.markdown().count("\n| temporal.") == 6


def test_states_out_of_memory_leave_the_space(phone):
    free = phone.cost(("none", "none"))
    table = look_up(phone)
    within = replace(table, memory=free.peak_bytes, rows=tuple(_judged(row, free.peak_bytes) for row in table.rows))
    kept = within.kept()
    assert kept.choices[0].options[0] == "none"
    assert "selfattention3d" not in kept.choices[0].options
    with pytest.raises(UsageError, match="every option is out of memory"):
        replace(within, rows=tuple(_judged(row, 0) for row in table.rows)).kept()


def _judged(row: Row, memory: int) -> Row:
    return replace(row, state="fits" if row.cost.peak_bytes <= memory else "out of memory")


@functools.cache
def _traced(kind: str, side: int) -> tuple[float, int]:
    """Seconds of the full-size denoiser with this kind at its finest level; bytes of its first attention's scores."""
    target = load_target("a18pro")
    setup = Setup(target, AnalyticModel(target))
    program = models.build("snapgen-v", temporal="+".join([kind, *["none"] * 8]), height=side, width=side)
    trace = trace_of(program, setup)
    seconds = latency_s([each for call in trace.calls for each in call.seconds], setup, len(trace.weights))
    return seconds, next(call.scores for call in trace.calls if call.scores)


@pytest.mark.parametrize(
    ("kind", "seconds", "scores"), [("selfattention3d", (1.8, 2.1), 2.0), ("selfattention1d", (0.9, 1.1), 1.0)]
)
def test_attention_over_the_clip_grows_with_the_square_of_its_places(kind, seconds, scores):
    """SnapGen-V's Figure 3: quadratic in T·H·W over the clip, linear over time alone; memory where scores are whole."""
    small, large = ([_traced(k, side) for k in ("none", kind)] for side in (512, 1024))
    places = math.log(4.0)  # 15·64·64 and 15·128·128
    added = [layer[0] - nothing[0] for nothing, layer in (small, large)]
    assert seconds[0] < math.log(added[1] / added[0]) / places < seconds[1]
    assert math.log(large[1][1] / small[1][1]) / places == pytest.approx(scores)
