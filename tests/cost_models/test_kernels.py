"""Algorithms of convolutions and attention, layouts, statistics: each costs where it should."""

import pytest
import torch

from tests.cost_models.test_analytic import A100, attention, conv, t, work
from vgcomp.cost_models import AnalyticModel
from vgcomp.cost_models.kernels import efficiency
from vgcomp.ir import aten, own
from vgcomp.targets import load_target

F32 = torch.float32
MODEL = AnalyticModel()


def seconds(w, target=A100):
    return MODEL.op_seconds(w, target).seconds


def rate(w, target=A100):
    return w.matrix_flops / seconds(w, target)


def convolution(x, weight, rank=2):
    pad = [k // 2 for k in weight.shape[2:]]
    return work(aten.convolution.default, x, weight, None, [1] * rank, pad, [1] * rank, False, [0] * rank, 1)


def test_channels_last_saves_the_copies():
    x, weight = t(14, 320, 72, 128), t(320, 320, 3, 3)
    last = {"memory_format": torch.channels_last}
    plain = convolution(x, weight)
    kept = convolution(x.contiguous(**last), weight.contiguous(**last))
    assert plain.relayout_bytes == plain.bytes_moved - plain.shared_bytes
    assert kept.relayout_bytes == 0.0
    assert seconds(kept) < seconds(plain)


def test_a_window_in_time_is_slower_and_one_by_one_is_a_product():
    clip = t(1, 320, 14, 72, 128)
    space = convolution(clip, t(320, 320, 1, 3, 3), 3)
    time = convolution(clip, t(320, 320, 9, 1, 1), 3)
    assert (space.form, time.form) == ("2d", "3d")
    assert space.matrix_flops == time.matrix_flops
    slow = A100.model_copy(update={"name": "slow", "efficiency": {**A100.efficiency, "conv3d": 0.1}})
    assert seconds(time, slow) > 2 * seconds(space, slow)
    assert convolution(t(1, 320, 72, 128), t(320, 320, 1, 1)).form == "1x1"


def test_fp32_convolutions_round_on_matrix_units_where_there_are_some():
    x, weight = t(4, 512, 64, 64, dtype=F32), t(512, 512, 3, 3, dtype=F32)
    assert rate(convolution(x, weight)) > A100.fp32_flops_per_s


def test_winograd_where_there_are_none():
    plain = A100.model_copy(update={"name": "plain", "tf32_flops_per_s": None})
    deep = convolution(t(4, 512, 64, 64, dtype=F32), t(512, 512, 3, 3, dtype=F32))
    tall = convolution(t(4, 512, 64, 64, dtype=F32), t(512, 512, 5, 5, dtype=F32))
    assert rate(deep, plain) > 1.5 * rate(tall, plain)
    # Where channels are few the transforms cost more than they save.
    thin = convolution(t(4, 8, 512, 512, dtype=F32), t(8, 8, 3, 3, dtype=F32))
    assert rate(thin, plain) < efficiency(plain, "conv") * plain.fp32_flops_per_s


@pytest.mark.parametrize(("small", "large"), [(64, 128), (40, 64), (512, 256)])
def test_heads_that_kernels_are_made_for_are_faster(small, large):
    assert rate(attention(16, 4096, 4096, small)) < rate(attention(16, 4096, 4096, large))


def test_short_sequences_fill_their_blocks_badly():
    short, long = attention(9216, 14, 14, 64), attention(16, 4096, 4096, 64)
    assert rate(short) < 0.1 * rate(long)


def test_a_block_of_an_online_softmax_is_materialised():
    q = t(8, 1024, 64)
    flash = attention(8, 1024, 1024, 64)
    partial = work(own.attention_partial.default, q, q, q, 0.125)
    assert partial.dtype == F32
    assert partial.scratch_bytes > 8 * 1024 * 1024 * 4
    assert seconds(partial) > 5 * seconds(flash)


def test_few_groups_leave_the_memory_idle():
    def norm(*shape):
        return work(aten.group_norm.default, t(*shape), 32, t(shape[1]), t(shape[1]), 1e-6)

    frames, clip = norm(14, 128, 288, 512), norm(1, 128, 14, 288, 512)
    assert (frames.rows, clip.rows) == (14 * 32, 32)
    assert frames.bytes_moved == clip.bytes_moved
    assert seconds(clip) > 1.5 * seconds(frames)


def test_short_rows_cost_a_block_each():
    def norm(rows, width):
        return work(aten.layer_norm.default, t(rows, width), [width], t(width), t(width), 1e-5)

    assert seconds(norm(1 << 20, 64)) > 3 * seconds(norm(1 << 16, 1024))


def test_broadcasting_and_copies_of_layouts_cost():
    x = t(28 * 9216, 320)
    assert seconds(work(aten.mul.Tensor, x, t(1, 320))) > 1.3 * seconds(work(aten.mul.Tensor, x, 2.0))
    turned = t(14, 9, 128, 64, 64).transpose(1, 2)
    args = (32, t(128), t(128), 1e-6)
    plain = work(aten.group_norm.default, t(14, 128, 9, 64, 64), *args)
    assert seconds(work(aten.group_norm.default, turned, *args)) > 1.5 * seconds(plain)


def test_small_slices_are_not_free():
    model = AnalyticModel(A100)
    for w in (conv(t(14, 320, 72, 128), 320), attention(140, 2304, 2304, 64)):
        assert model.seconds_at(w, 1e-6) >= A100.host_issue_s


def test_other_devices_pay_no_gpu_effects():
    cpu = load_target("cpu")
    w = convolution(t(1, 320, 72, 128, dtype=F32), t(320, 320, 3, 3, dtype=F32))
    assert AnalyticModel().curve(w, cpu).copied == 0.0
