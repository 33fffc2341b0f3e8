"""The work of every op: against counts by hand, PyTorch's own counter, and the dialect's list."""

import operator

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vgcomp import ir
from vgcomp.cost_models import work_of
from vgcomp.cost_models.work import _RULES
from vgcomp.errors import InternalError
from vgcomp.infer import evaluate_fake, fake_tensor
from vgcomp.ir import aten, own, prims

F16, F32 = torch.float16, torch.float32
CONV2D = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)


def t(*shape, dtype=F32):
    return fake_tensor(shape, dtype)


def work(target, *args, **kwargs):
    return work_of(target, args, kwargs, evaluate_fake(target, args, kwargs))


def test_every_op_of_the_dialect_has_a_rule():
    assert _RULES.keys() >= ir.DIALECT


def test_what_is_outside_has_none():
    with pytest.raises(InternalError, match="not in the dialect"):
        work_of(aten.fft_fft.default, (t(4),), {}, t(4))


CONTRACTIONS = {
    "conv1d": (aten.convolution.default, (t(2, 6, 20), t(8, 6, 3), None, [2], [1], [1], False, [0], 1)),
    "conv2d": (aten.convolution.default, (t(2, 6, 9, 11), t(8, 6, 3, 3), t(8), *CONV2D)),
    "conv3d": (
        aten.convolution.default,
        (t(1, 4, 5, 6, 7), t(8, 4, 3, 1, 1), None, [1, 1, 1], [1, 0, 0], [1, 1, 1], False, [0, 0, 0], 1),
    ),
    "transposed": (
        aten.convolution.default,
        (t(2, 6, 9, 11), t(6, 8, 4, 4), None, [2, 2], [1, 1], [1, 1], True, [0, 0], 1),
    ),
    "linear": (aten.linear.default, (t(3, 5, 7), t(9, 7))),
    "matmul": (aten.matmul.default, (t(4, 3, 5, 7), t(4, 3, 7, 9))),
    "matmul, one right side": (aten.matmul.default, (t(4, 5, 7), t(7, 9))),
    "matmul, vectors": (aten.matmul.default, (t(7), t(7))),
    "attention": (aten.scaled_dot_product_attention.default, (t(2, 3, 5, 8), t(2, 3, 7, 8), t(2, 3, 7, 8))),
}


#: PyTorch's counter knows neither `dot` nor the CPU's fused attention.
UNCOUNTED = {"matmul, vectors": 2 * 7, "attention": 2 * 6 * 5 * 7 * (8 + 8)}


@pytest.mark.parametrize("case", CONTRACTIONS)
def test_contractions_count_as_pytorch_does(case):
    target, args = CONTRACTIONS[case]
    real = [torch.randn(a.shape) if isinstance(a, torch.Tensor) else a for a in args]
    with FlopCounterMode(display=False) as counter:
        target(*real)
    expected = UNCOUNTED.get(case, counter.get_total_flops())
    assert work(target, *args).matrix_flops == expected


def test_grouped_convolution_by_hand():
    w = work(aten.convolution.default, t(2, 8, 5, 5), t(12, 2, 3, 3), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 4)
    assert w.matrix_flops == 2 * (2 * 12 * 5 * 5) * 2 * 9
    assert (w.batch, w.m, w.n, w.k) == (4, 50, 3, 18)


@pytest.mark.parametrize("case", CONTRACTIONS)
def test_dims_make_the_flops(case):
    target, args = CONTRACTIONS[case]
    w = work(target, *args)
    if w.kind == "attention":
        assert w.matrix_flops == 2 * w.batch * w.m * w.k * (8 + 8)
    else:
        assert w.matrix_flops == 2 * w.batch * w.m * w.n * w.k


def test_bytes_of_a_convolution():
    w = work(aten.convolution.default, t(2, 6, 9, 11, dtype=F16), t(8, 6, 3, 3, dtype=F16), t(8, dtype=F16), *CONV2D)
    x, weight, out = 2 * 6 * 9 * 11, 8 * 6 * 9, 2 * 8 * 9 * 11
    assert w.shared_bytes == 2 * (weight + 8)
    assert w.bytes_read == 2 * (x + weight + 8)
    assert w.bytes_written == 2 * out
    assert w.flops == w.matrix_flops + out, "one addition of the bias an output"


def test_causal_attention_makes_half():
    q = t(1, 2, 8, 4)
    full = work(aten.scaled_dot_product_attention.default, q, q, q)
    causal = work(aten.scaled_dot_product_attention.default, q, q, q, None, 0.0, True)
    assert causal.matrix_flops / full.matrix_flops == pytest.approx((8 * 9 / 2) / 64)


def test_attention_in_halves_is_the_work_of_the_whole():
    q, k = t(1, 2, 16, 4), t(1, 2, 32, 4)
    whole = work(aten.scaled_dot_product_attention.default, q, k, k)
    half = work(own.attention_partial.default, q, t(1, 2, 16, 4), t(1, 2, 16, 4), 0.5)
    assert 2 * half.matrix_flops == whole.matrix_flops
    assert work(own.attention_finish.default, t(1, 2, 16, 6), F32).kind == "pointwise"


def test_group_norm_in_two_phases_is_the_work_of_one():
    x, weight = t(2, 8, 4, 4), t(8)
    whole = work(aten.group_norm.default, x, 4, weight, weight, 1e-5)
    moments = work(own.group_moments.default, x, 4)
    apply = work(own.group_norm_apply.default, x, t(3, 2, 4), 4, weight, weight, 1e-5)
    assert moments.flops + apply.flops == whole.flops == 8 * x.numel()
    assert whole.reads == 2


@pytest.mark.parametrize(
    ("target", "args"),
    [
        (aten.permute.default, (t(2, 3, 4), [2, 0, 1])),
        (aten.reshape.default, (t(2, 3, 4), [6, 4])),
        (aten.expand.default, (t(2, 1, 4), [2, 3, 4])),
        (aten.slice.Tensor, (t(2, 3, 4), 1, 0, 2)),
    ],
)
def test_views_are_free(target, args):
    w = work(target, *args)
    assert w.is_free
    assert (w.flops, w.bytes_moved) == (0, 0)


def test_a_result_of_a_loop_is_free():
    assert work_of(operator.getitem, ((t(2), t(3)), 1), {}, t(3)).is_free


def test_a_reshape_that_must_copy_is_not_free():
    x = evaluate_fake(aten.permute.default, (t(2, 3, 4), [0, 2, 1]))
    w = work(aten.reshape.default, x, [2, 12])
    assert (w.kind, w.bytes_moved, w.strided) == ("copy", 2 * 24 * 4, True)


def test_clone_of_a_permuted_tensor_is_strided_and_a_plain_one_is_not():
    x = t(2, 3, 4)
    permuted = evaluate_fake(aten.permute.default, (x, [0, 2, 1]))
    args = {"memory_format": torch.contiguous_format}
    assert work(aten.clone.default, permuted, **args).strided
    assert not work(aten.clone.default, x, **args).strided


def test_pointwise_on_equally_permuted_inputs_is_not_strided():
    x = evaluate_fake(aten.permute.default, (t(2, 3, 4), [0, 2, 1]))
    assert not work(aten.add.Tensor, x, x).strided
    assert work(aten.add.Tensor, t(2, 4, 3), x).strided


def test_broadcast_inputs_are_read_once_and_shared():
    x, bias = t(2, 8, 16), t(16)
    w = work(aten.add.Tensor, x, bias)
    assert (w.bytes_read, w.shared_bytes, w.flops) == (4 * (256 + 16), 4 * 16, 256)
    expanded = evaluate_fake(aten.expand.default, (t(1, 1, 16), [2, 8, 16]))
    assert work(aten.add.Tensor, x, expanded).bytes_read == w.bytes_read


def test_scalars_read_nothing():
    assert work(aten.mul.Tensor, t(4, 4), 2.0).bytes_read == 64


def test_casts_count_both_sizes():
    w = work(prims.convert_element_type.default, t(10), F16)
    assert (w.bytes_read, w.bytes_written, w.dtype) == (40, 20, F32)


def test_moves():
    assert work(aten.cat.default, [t(2, 3), t(2, 5)], 1).bytes_moved == 2 * 16 * 4
    assert work(aten.constant_pad_nd.default, t(2, 3), [1, 1], 0.0).bytes_moved == 4 * (6 + 10)
    assert work(aten.upsample_nearest2d.vec, t(1, 2, 3, 3), [6, 6], None).bytes_moved == 4 * (18 + 72)
    assert work(aten.full.default, [3, 4], 0.0).bytes_moved == 48


def test_a_gather_reads_what_it_takes():
    index = t(5, dtype=torch.int64)
    w = work(aten.embedding.default, t(1000, 8), index)
    assert w.bytes_read == 5 * 8 * 4 + 5 * 8
    assert work(aten.index_select.default, t(1000, 8), 0, index).bytes_read == w.bytes_read


def test_reductions():
    assert work(aten.mean.dim, t(4, 8), [1], False).flops == 32
    assert work(aten.softmax.int, t(4, 8), 1).flops == 5 * 32
    assert work(aten.layer_norm.default, t(4, 8), [8]).flops == 6 * 32
    assert work(aten.layer_norm.default, t(4, 8), [8], t(8), t(8), 1e-5).flops == 8 * 32
    assert work(aten.avg_pool2d.default, t(1, 2, 4, 4), [2, 2], [2, 2]).flops == 2 * 4 * 4


def test_equal_structure_gives_one_object():
    first = work(aten.add.Tensor, t(2, 3), 1.0)
    assert work(aten.add.Tensor, torch.empty(2, 3, device="meta"), 1.0) is first
    assert work(aten.add.Tensor, t(2, 3), 1) is not first
    assert work(aten.add.Tensor, t(3, 2), 1.0) is not first


def test_empty_tensors():
    assert work(aten.add.Tensor, t(0, 3), 1.0).flops == 0
    assert work(aten.matmul.default, t(0, 3), t(3, 4)).matrix_flops == 0
