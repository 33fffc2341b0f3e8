"""Capture: the canonical spelling of each family of ops, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.node_by_node import run
from vgcomp import ir
from vgcomp.capture import capture
from vgcomp.errors import ModelError
from vgcomp.program import Program
from vgcomp.verify import verify
from vgcomp.weights import Absent

aten = torch.ops.aten


class Fn(nn.Module):
    """A function as a module."""

    def __init__(self, fn, **parameters):
        super().__init__()
        self.fn = fn
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, *args):
        return self.fn(*args, **dict(self.named_parameters()))


def captured(fn, *inputs, tolerance=1e-5, **parameters) -> Program:
    """The Program of a function, verified and compared with it."""
    module = Fn(fn, **parameters).eval()
    program = capture(module, inputs)
    verify(program)
    with torch.no_grad():
        wanted = module(*inputs)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    for got, expected in zip(run(program, inputs), wanted, strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    return program


def ops(program):
    return [str(n.target).removeprefix("aten.").removesuffix(".default") for n in calls(program)]


def calls(program):
    return [node for node in program.graph.nodes if node.op == "call_function"]


X = torch.randn(2, 4, 6, 8)


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (lambda x: x.flatten(2).unsqueeze(1).squeeze(1), ["reshape"]),
        (lambda x: x.transpose(1, 2).movedim(-1, 0), ["permute"]),
        (lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2) + 1, ["add.Tensor"]),
        (lambda x: x[:, 1:3, ..., ::2], ["slice.Tensor", "slice.Tensor"]),
        (lambda x: x[:, -1], ["slice.Tensor", "reshape"]),
        (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), ["slice.Tensor", "slice.Tensor", "cat"]),
        (lambda x: torch.stack(x.unbind(1)[:2], 1), ["slice.Tensor", "slice.Tensor", "cat"]),
        (lambda x: x.repeat(1, 1, 2, 1), ["reshape", "expand", "reshape"]),
        (lambda x: x.repeat_interleave(3, dim=1), ["reshape", "expand", "reshape"]),
        (lambda x: torch.roll(x, (1, -2), (2, 3)), ["slice.Tensor", "slice.Tensor", "cat"] * 2),
        (lambda x: F.pixel_shuffle(x, 2), ["reshape", "permute", "reshape"]),
        (lambda x: x.permute(0, 2, 3, 1).contiguous(), ["permute", "clone"]),
        (lambda x: x.contiguous().clone() * 2, ["mul.Tensor"]),
        (lambda x: 1 - x, ["sub.Tensor"]),
        (lambda x: torch.add(x, x, alpha=2), ["mul.Tensor", "add.Tensor"]),
        (lambda x: F.normalize(x, dim=1), ["linalg_vector_norm", "clamp", "div.Tensor"]),
        (lambda x: x.half().float().float(), ["prims.convert_element_type"] * 2),
        (lambda x: F.glu(x, 1), ["slice.Tensor", "sigmoid", "slice.Tensor", "mul.Tensor"]),
        (lambda x: x.softmax(-1), ["softmax.int"]),
        (lambda x: x.mean((-1, 1), keepdim=True), ["mean.dim"]),
        (lambda x: x.sum(), ["sum.dim_IntList"]),
        (lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"), ["upsample_nearest2d.vec"]),
        (lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest-exact"), ["upsample_nearest2d.vec"]),
        (lambda x: F.pad(x, (1, 2, 0, 0)), ["constant_pad_nd"]),
        (lambda x: F.pad(x, (-1, 0, 1, 1), value=2.0), ["slice.Tensor", "constant_pad_nd"]),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"), ["pad"]),
        (lambda x: F.avg_pool2d(x, 2), ["avg_pool2d"]),
        (lambda x: F.dropout(x, 0.5, False) + 1, ["add.Tensor"]),
        (lambda x: x.square().clamp_min(0.5), ["pow.Tensor_Scalar", "clamp"]),
        (lambda x: F.scaled_dot_product_attention(x, x, x, scale=0.5), ["scaled_dot_product_attention"]),
        (lambda x: x @ x.transpose(-1, -2), ["permute", "matmul"]),
        (lambda x: torch.einsum("bchw,bdhw->bcd", x, x), None),
        (F.instance_norm, ["group_norm"]),
        (lambda x: F.hardswish(F.mish(x)), None),
        (lambda x: F.adaptive_avg_pool2d(x, 1), ["mean.dim"]),
        (lambda x: x[:, torch.tensor([2, 0])], ["index_select"]),
        (lambda x: torch.baddbmm(x[0], x[0], x[0].transpose(1, 2) @ x[0], alpha=2), None),
    ],
)
def test_spelling(fn, expected):
    program = captured(fn, X)
    if expected is not None:
        assert ops(program) == expected


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions_have_one_spelling(rank):
    conv = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    x, w = torch.randn(2, 4, *(6,) * rank), torch.randn(4, 4, *(3,) * rank)
    (call,) = calls(captured(lambda x, w: conv(x, w, padding="same"), x, w=w))
    assert call.target is aten.convolution.default
    ones = [1] * rank
    assert call.args[2:] == (None, ones, ones, ones, False, [0] * rank, 1)


def test_an_odd_same_padding_is_padded_before():
    program = captured(lambda x, w: F.conv2d(x, w, padding="same"), X, w=torch.randn(4, 4, 2, 3))
    assert ops(program) == ["constant_pad_nd", "convolution"]


def test_a_transposed_convolution_keeps_its_direction():
    program = captured(lambda x, w: F.conv_transpose2d(x, w, stride=2, output_padding=1), X, w=torch.randn(4, 3, 3, 3))
    assert calls(program)[0].args[6:8] == (True, [1, 1])


def test_a_linear_layer_written_as_addmm_is_linear():
    x, w, b = torch.randn(5, 4), torch.randn(3, 4), torch.randn(3)
    assert ops(captured(lambda x, w, b: torch.addmm(b, x, w.t()), x, w=w, b=b)) == ["linear"]


def test_attention_leaves_out_defaults_and_expands_shared_heads():
    q, k = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8)
    program = captured(lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True), q, k)
    call = calls(program)[-1]
    assert len(call.args) == 3
    assert not call.kwargs
    causal = captured(lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True), q)
    assert calls(causal)[0].args[3:] == (None, 0.0, True)


@pytest.mark.parametrize("affine", [False, True])
def test_batch_norm_becomes_a_scale_and_a_shift(affine):
    module = nn.BatchNorm2d(4, affine=affine).eval()
    module.running_mean.normal_()
    program = capture(module, (X,))
    torch.testing.assert_close(run(program, (X,))[0], module(X))
    assert ops(program)[-1] == "add.Tensor"
    assert affine or ops(program) == ["mul.Tensor", "add.Tensor"]


def test_a_broadcast_is_left_to_the_pointwise_op():
    program = captured(lambda x, w: x * w[None, :, None, None].expand_as(x), X, w=torch.randn(4))
    assert ops(program) == ["reshape", "mul.Tensor"]


def test_constants_are_computed_and_stored_once():
    def fn(x):
        table = torch.sin(torch.arange(8.0))
        return x * table + torch.sin(torch.arange(8.0))

    program = captured(fn, X)
    assert ops(program) == ["mul.Tensor", "add.Tensor"]
    assert list(program.weights) == ["const_0"]
    assert program.parameters() == 0


def test_a_choice_that_is_known_is_made():
    def fn(x, w):
        return torch.where(torch.zeros(4, dtype=torch.bool), torch.ones(4), w.sigmoid())[:, None, None] * x

    assert ops(captured(fn, X, w=torch.randn(4))) == ["sigmoid", "reshape", "mul.Tensor"]


def test_a_scalar_constant_is_a_number():
    assert calls(captured(lambda x: x * torch.tensor(2.5), X))[0].args[1] == 2.5


def test_a_large_fill_is_a_scalar_spread_out():
    program = captured(lambda x: torch.cat([torch.zeros(9, 512, 1024), x]), torch.randn(1, 512, 1024))
    assert program.weight_bytes() == 4
    assert ops(program) == ["expand", "cat"]


def test_strided_writes_become_a_stack():
    def rope(x):
        out = torch.empty_like(x)
        out[..., 0::2] = x[..., 1::2] * -1
        out[..., 1::2] = x[..., 0::2]
        return out

    program = captured(rope, X)
    assert "cat" in ops(program)
    assert not any("copy" in op for op in ops(program))
    assert "expand" not in ops(program), "the uninitialised tensor is still there"


def test_writes_into_parts_become_values():
    def fn(x):
        y = x * 2
        view = y[:, 1]
        y[:, :2] = 1.0
        y[..., 2:4].mul_(3)
        y.transpose(1, 2)[:, 0].add_(x[:, :, 0])
        return y, view + 0

    captured(fn, X)


def test_a_view_taken_before_a_write_shows_it():
    def fn(x):
        y = x + 0
        flat = y.view(-1)
        y += 1
        flat.mul_(2)
        return y * flat.view(x.shape)

    captured(fn, X)


def test_a_constant_that_changes_is_stored_as_it_was_and_the_buffer_is_left_alone():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(8))

        def forward(self, x):
            table = torch.arange(8.0)
            before = x * table
            table += 1
            self.count += 1
            return before + table, x + self.count

    module = Counting()
    program = capture(module, (X,))
    assert not module.count.any()
    first, second = run(program, (X,))
    torch.testing.assert_close(first, X * torch.arange(8.0) + torch.arange(8.0) + 1)
    torch.testing.assert_close(second, X + 1)


def test_absent_parameters_stay_absent():
    with FakeTensorMode():
        module = nn.Sequential(nn.Linear(4, 4), nn.GELU()).eval()
        x = torch.empty(2, 4)
    program = capture(module, (x,))
    verify(program)
    assert all(isinstance(weight.data, Absent) for weight in program.weights.values())
    assert list(program.weights) == ["0.weight", "0.bias"]


def test_parameters_that_are_one_tensor_are_one_weight():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    program = capture(module, (torch.randn(2, 4),))
    assert list(program.weights) == ["0.weight", "0.bias", "1.bias"]


def test_real_parameters_are_shared_and_not_copied():
    module = nn.Linear(4, 4)
    program = capture(module, (torch.randn(2, 4),))
    assert program.weights["weight"].load().data_ptr() == module.weight.data_ptr()


def test_input_strides_are_kept():
    x = X.permute(0, 2, 3, 1)
    program = captured(lambda x: x * 2, x)
    assert ir.val(program.inputs[0]).stride() == x.stride()


def test_names_of_inputs_and_outputs():
    module = Fn(lambda a, b: (a + b, a))
    program = capture(module, (X, X), input_names=["left", "right"], output_names=["sum", "same"])
    assert program.input_names == ("left", "right")
    assert program.output_names == ("sum", "same")


def test_an_unsupported_operator_is_named_with_its_node():
    with pytest.raises(ModelError, match=r"aten.cumsum.default at node 'cumsum'.*not supported"):
        capture(Fn(lambda x: x.cumsum(1)), (X,))


def test_a_module_in_training_is_refused():
    with pytest.raises(ModelError, match="eval"):
        capture(nn.Sequential(nn.Dropout(0.5)).train(), (X,))


def test_a_module_that_depends_on_data_is_refused_in_one_line():
    with pytest.raises(ModelError, match=r"torch\.export failed") as error:
        capture(Fn(lambda x: x if x.sum() > 0 else -x), (X,), name="picky")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("picky")
