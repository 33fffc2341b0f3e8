"""The measured model: looked up, interpolated, analytic, and never silent about which."""

import numpy as np
import pytest

from tests import sliced_examples
from tests.cost_models import measured_support as support
from vgcomp.cost_models import AnalyticModel, CostModel, MeasuredModel, named_model, work_of
from vgcomp.cost_models.base import OpWork
from vgcomp.cost_models.boosting import Options, fit_bagged
from vgcomp.errors import InternalError, UsageError
from vgcomp.ir import aten
from vgcomp.program import Program, Source
from vgcomp.simulate import simulate
from vgcomp.targets import load_target

CPU = load_target("cpu")
ANALYTIC = AnalyticModel(CPU)
CALL_S = 2e-6


def made_up(work: OpWork) -> float:
    """Seconds unlike the analytic model's: slower by a factor of the op, more so where few columns are computed."""
    if work.is_free:
        return 1.5e-6
    factor = 3.0 if work.kind == "pointwise" else 1.4 + 16.0 / work.n
    return factor * ANALYTIC.op_seconds(work, CPU).seconds


@pytest.fixture(scope="module")
def model() -> MeasuredModel:
    return MeasuredModel(CPU, support.table(made_up))


def test_a_measured_call_is_looked_up(model):
    work = support.linear(64, 200, 24)
    cost = model.op_seconds(work, CPU)
    assert cost.source == "measured:cpu"
    assert cost.seconds == pytest.approx(made_up(work) + CALL_S, rel=1e-3)


@pytest.mark.parametrize(
    "work", [support.linear(100, 96, 160), support.linear(300, 48, 300), support.silu(500, 100), support.silu(77, 77)]
)
def test_another_size_is_interpolated(model, work):
    cost = model.op_seconds(work, CPU)
    assert cost.source == "interpolated:cpu"
    assert cost.seconds - CALL_S == pytest.approx(made_up(work), rel=0.15)
    assert 0.0 <= cost.spread < 0.2


def test_what_was_never_measured_or_is_far_from_it_is_analytic(model):
    x = (support.t(64, 64),)
    exp = work_of(aten.exp.default, x, {}, x[0])
    for work in (exp, support.linear(100_000, 4096, 4096)):
        cost = model.op_seconds(work, CPU)
        assert cost.source == "analytic:cpu"
        assert cost.seconds == pytest.approx(ANALYTIC.op_seconds(work, CPU).seconds + CALL_S)


def test_a_view_costs_what_other_views_cost(model):
    cost = model.op_seconds(support.permute(3, 7), CPU)
    assert cost.source == "interpolated:cpu"
    assert cost.seconds == pytest.approx(1.5e-6 + CALL_S)


def test_planners_get_parts(model):
    work = support.linear(512, 512, 512)
    parts = [model.seconds_at(work, fraction) for fraction in (0.02, 0.1, 0.3, 0.7, 1.0)]
    assert parts[-1] == model.op_seconds(work, CPU).seconds
    assert parts == sorted(parts)
    # A tenth takes about a tenth, the weight and the call whole.
    assert parts[1] < 0.4 * parts[-1]


def test_a_slice_of_an_op_is_found_by_its_strides(model):
    x = support.t(64, 400)[:, :200]
    work = work_of(aten.silu.default, (x,), {}, support.t(64, 200))
    assert model.op_seconds(work, CPU).source == "interpolated:cpu"


def test_another_target_is_refused(model):
    with pytest.raises(InternalError, match="asked about a100"):
        model.op_seconds(support.silu(8, 8), load_target("a100"))
    with pytest.raises(UsageError, match="target is 'cpu', not 'a100'"):
        MeasuredModel(load_target("a100"), support.table(made_up))


def test_models_have_names():
    measured: CostModel = named_model("analytic", CPU)
    assert measured.name == "analytic"
    with pytest.raises(UsageError, match="no cost model is called 'magic'"):
        named_model("magic", CPU)
    with pytest.raises(UsageError, match="no measured table for 'a18'"):
        named_model("measured", load_target("a18"))


def programs() -> list[Program]:
    return [Program("x", graph, {}, ("y",), Source("torch", "x")) for graph in sliced_examples.frames()]


def test_a_timeline_says_where_its_seconds_come_from(model):
    plain, sliced = programs()
    for program in (plain, sliced):
        timeline = simulate(program, CPU, model)
        assert sum(timeline.sources.values()) == pytest.approx(timeline.latency_s)
        assert timeline.sources["overhead"] > 0.0
    loops = [entry for entry in simulate(sliced, CPU, model).entries if entry.op == "slicing"]
    # 1 µs a step, 3 µs each slice read or written.
    steps = sum(entry.slices for entry in loops)
    assert sum(entry.duration_s for entry in loops) == pytest.approx(steps * (1e-6 + 2 * 3e-6))


def test_without_overheads_nothing_is_added():
    plain, _ = programs()
    timeline = simulate(plain, CPU, ANALYTIC)
    assert set(timeline.sources) == {"analytic"}
    assert timeline.startup_s == 0.0


def test_trees_learn_steps_and_know_their_error():
    generator = np.random.default_rng(0)
    x = generator.uniform(-1.0, 1.0, (600, 4))
    y = np.where(x[:, 1] > 0.2, 2.0, 0.0) + (x[:, 3] > 0.0)
    trees, unseen = fit_bagged(x, y, Options())
    fresh = generator.uniform(-1.0, 1.0, (200, 4))
    wanted = np.where(fresh[:, 1] > 0.2, 2.0, 0.0) + (fresh[:, 3] > 0.0)
    assert np.sqrt(np.mean((trees.predict(fresh) - wanted) ** 2)) < 0.4
    known = ~np.isnan(unseen)
    assert known.mean() > 0.8
    assert np.sqrt(np.mean((unseen - y)[known] ** 2)) < 0.4
