"""The analytic model: never under the roofline, and slicing costs and gains where it should."""

import itertools

import pytest
import torch

from vgcomp.cost_models import AnalyticModel, CostModel, work_of
from vgcomp.cost_models.kernels import efficiency
from vgcomp.errors import InternalError
from vgcomp.infer import evaluate_fake, fake_tensor
from vgcomp.ir import aten, own
from vgcomp.targets import load_target, target_names

A100 = load_target("a100")
F16 = torch.float16


def t(*shape, dtype=F16):
    return fake_tensor(shape, dtype)


def work(target, *args):
    return work_of(target, args, {}, evaluate_fake(target, args))


def conv(x, out_channels, groups=1):
    weight = t(out_channels, x.shape[1] // groups, 3, 3)
    return work(aten.convolution.default, x, weight, t(out_channels), [1, 1], [1, 1], [1, 1], False, [0, 0], groups)


def attention(batch, queries, keys, depth):
    q, k = t(batch, queries, depth), t(batch, keys, depth)
    return work(aten.scaled_dot_product_attention.default, q, k, k)


WORKS = {
    "conv, large": conv(t(14, 128, 576, 1024), 128),
    "conv, deep": conv(t(28, 1280, 9, 16), 1280),
    "conv, to rgb": conv(t(14, 128, 576, 1024), 3),
    "conv, depthwise": conv(t(14, 128, 72, 128), 128, 128),
    "linear, large": work(aten.linear.default, t(28 * 9216, 320), t(2560, 320), t(2560)),
    "linear, one row": work(aten.linear.default, t(1, 1280), t(1280, 1280), t(1280)),
    "attention, space": attention(140, 9216, 9216, 64),
    "attention, time": attention(92160, 14, 14, 64),
    "group norm": work(aten.group_norm.default, t(14, 128, 576, 1024), 32, t(128), t(128), 1e-6),
    "silu": work(aten.silu.default, t(14, 128, 576, 1024)),
    "add, tiny": work(aten.add.Tensor, t(2, 8), t(2, 8)),
    "cat": work(aten.cat.default, [t(28, 320, 72, 128), t(28, 320, 72, 128)], 1),
    "moments": work(own.group_moments.default, t(14, 128, 576, 1024), 32),
    "empty": work(aten.add.Tensor, t(0, 8), 1.0),
}


def test_is_a_cost_model():
    model: CostModel = AnalyticModel()
    cost = model.op_seconds(WORKS["silu"], A100)
    assert cost.source == "analytic:a100"


@pytest.mark.parametrize("target", target_names())
@pytest.mark.parametrize("case", WORKS)
def test_never_under_the_roofline(case, target):
    device, w = load_target(target), WORKS[case]
    cost = AnalyticModel().op_seconds(w, device)
    compute = w.matrix_flops / device.matrix_flops_per_s(w.dtype)
    traffic = w.bytes_moved / device.cache_bytes_per_s
    assert cost.seconds >= max(compute, device.launch_s)
    if device.kind == "ane":
        return  # pointwise ops find their input on the chip
    assert cost.seconds >= traffic
    if w.bytes_moved - w.shared_bytes > device.cache_bytes:
        assert cost.seconds >= w.bytes_moved / device.memory_bytes_per_s


@pytest.mark.parametrize(
    ("case", "bound"),
    [
        ("conv, large", "compute"),
        ("linear, large", "compute"),
        ("attention, space", "compute"),
        ("silu", "memory"),
        ("group norm", "memory"),
        ("cat", "memory"),
        ("add, tiny", "launch"),
    ],
)
def test_bounds(case, bound):
    assert AnalyticModel().op_seconds(WORKS[case], A100).bound == bound


@pytest.mark.parametrize(
    ("case", "least", "most"),
    [("conv, large", 0.2, 0.5), ("linear, large", 0.5, 0.75), ("attention, space", 0.3, 0.7)],
)
def test_large_ops_reach_a_usual_share_of_the_peak(case, least, most):
    w = WORKS[case]
    share = w.matrix_flops / AnalyticModel().op_seconds(w, A100).seconds / 312e12
    assert least < share < most


def test_views_cost_nothing():
    view = work(aten.permute.default, t(4, 8), [1, 0])
    model = AnalyticModel(A100)
    assert model.op_seconds(view, A100).seconds == model.seconds_at(view, 0.5) == 0.0


@pytest.mark.parametrize("case", WORKS)
def test_the_whole_at_once_is_op_seconds(case):
    model = AnalyticModel(A100)
    assert model.seconds_at(WORKS[case], 1.0) == model.op_seconds(WORKS[case], A100).seconds


@pytest.mark.parametrize("case", WORKS)
@pytest.mark.parametrize("target", ["a100", "a18", "cpu"])
def test_a_larger_slice_never_takes_less(case, target):
    model = AnalyticModel(load_target(target))
    seconds = [model.seconds_at(WORKS[case], n / 64) for n in range(1, 65)]
    for small, large in itertools.pairwise(seconds):
        assert small <= large * (1 + 1e-12)


def test_without_a_target_there_is_no_seconds_at():
    with pytest.raises(InternalError, match="AnalyticModel\\(target\\)"):
        AnalyticModel().seconds_at(WORKS["silu"], 0.5)


def sliced_ratio(case, n, target=A100):
    model, w = AnalyticModel(target), WORKS[case]
    return n * model.seconds_at(w, 1 / n) / model.seconds_at(w, 1.0)


SLICED = {
    "conv, frames": (conv(t(28, 320, 72, 128), 320), conv(t(2, 320, 72, 128), 320), 14),
    "linear, rows": (
        work(aten.linear.default, t(14 * 9216, 320), t(2560, 320), t(2560)),
        work(aten.linear.default, t(9216, 320), t(2560, 320), t(2560)),
        14,
    ),
    "attention, batch": (attention(140, 2304, 2304, 64), attention(5, 2304, 2304, 64), 28),
    "silu": (work(aten.silu.default, t(14, 128, 72, 128)), work(aten.silu.default, t(1, 128, 72, 128)), 14),
    "group norm": (
        work(aten.group_norm.default, t(14, 128, 72, 128), 32, t(128), t(128), 1e-6),
        work(aten.group_norm.default, t(1, 128, 72, 128), 32, t(128), t(128), 1e-6),
        14,
    ),
}


@pytest.mark.parametrize("case", SLICED)
@pytest.mark.parametrize("target", target_names())
def test_a_fraction_costs_what_the_slice_itself_does(case, target):
    """A planner's estimate is the simulator's figure for the loop's body."""
    whole, piece, n = SLICED[case]
    model = AnalyticModel(load_target(target))
    assert model.seconds_at(whole, 1 / n) == pytest.approx(model.seconds_at(piece, 1.0), rel=1e-6)


def test_large_ops_slice_for_nothing():
    assert sliced_ratio("conv, large", 14) < 1.02
    assert sliced_ratio("silu", 14) < 1.02


def test_slices_that_do_not_fill_the_device_cost():
    assert sliced_ratio("conv, deep", 28) > 2
    assert sliced_ratio("add, tiny", 16) > 15


def test_a_wave_with_one_tile_too_many_costs():
    # 109 tiles of the largest size on 108 units; smaller tiles soften it, none undoes it.
    rows = 128
    full = work(aten.linear.default, t(108 * rows, 4096), t(128, 4096))
    over = work(aten.linear.default, t(109 * rows, 4096), t(128, 4096))
    model = AnalyticModel()
    assert model.op_seconds(over, A100).seconds > 1.05 * model.op_seconds(full, A100).seconds


def test_a_slice_that_stays_in_cache_gains():
    assert sliced_ratio("silu", 256) < 0.9
    assert sliced_ratio("silu", 256, load_target("rtx4090")) < 0.6


def test_weights_are_not_sliced():
    # One row of a large weight: each slice must read all of it.
    w = work(aten.linear.default, t(64, 16384), t(16384, 16384))
    model = AnalyticModel(A100)
    assert model.seconds_at(w, 1 / 2) > 0.95 * model.seconds_at(w, 1.0)


def test_statistics_and_apply_together_cost_what_the_norm_costs():
    x = t(14, 128, 576, 1024)
    apply = work(own.group_norm_apply.default, x, t(3, 14, 32, dtype=torch.float32), 32, t(128), t(128), 1e-6)
    model = AnalyticModel()
    phases = sum(model.op_seconds(w, A100).seconds for w in (WORKS["moments"], apply))
    assert phases == pytest.approx(model.op_seconds(WORKS["group norm"], A100).seconds, rel=0.02)


def test_faster_devices_are_faster():
    def total(name):
        return sum(AnalyticModel().op_seconds(w, load_target(name)).seconds for w in WORKS.values())

    assert total("h200") < total("a100") < total("rtx3090") < total("rtx3060") < total("a18") < total("cpu")


def test_a_measured_efficiency_is_used():
    slow = A100.model_copy(update={"name": "slow", "efficiency": {"matmul": 0.25}})
    w = WORKS["linear, large"]
    model = AnalyticModel()
    times = efficiency(A100, "matmul") / 0.25
    assert model.op_seconds(w, slow).seconds == pytest.approx(times * model.op_seconds(w, A100).seconds, rel=0.05)
