"""``legalize-coreml``: Before and Expected, the same numbers, and nothing left that the engine refuses."""

# ruff: noqa: E501 (expected text)
from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import fx

from tests.graph_builder import Builder, aten
from tests.passes.engine import a18
from tests.passes.support import body, body_of, program, run_pass
from vgcomp import ir
from vgcomp.errors import ModelError
from vgcomp.parts import constants
from vgcomp.passes.legalize_coreml import LegalizeCoreml
from vgcomp.program import Program

Build = Callable[[Builder], fx.Node]


def legal(make: Build) -> Program:
    """The result of the pass, held to equal outputs, legal ranks and no 3-D window."""
    b = Builder()
    result = run_pass(LegalizeCoreml(), program(b.done(make(b))), a18(), "reassociated")
    graph = result.program.graph
    fixed = constants(graph)
    calls = [node for node in graph.nodes if node.op == "call_function" and node not in fixed]
    assert max(ir.val(node).dim() for node in calls) <= 5
    convolutions = [node for node in calls if node.target is aten.convolution.default and not node.args[6]]
    assert all(ir.val(node.args[1]).dim() == 4 for node in convolutions)
    return result.program


def conv(
    x: Sequence[int],
    w: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] = (1, 1, 1),
    groups: int = 1,
) -> Build:
    def build(b: Builder) -> fx.Node:
        given, weight, bias = b.input("x", x), b.weight("w", w), b.weight("b", w[:1])
        zeros = [0] * len(stride)
        lists = (list(stride), list(padding), list(dilation)[: len(stride)])
        return b.call(aten.convolution.default, given, weight, bias, *lists, False, zeros, groups)

    return build


def test_a_temporal_convolution_is_one_over_a_plane() -> None:
    made = legal(conv((2, 4, 5, 3, 2), (6, 4, 3, 1, 1), (1, 1, 1), (1, 0, 0)))
    assert body_of(made) == body(
        """
        %x : f32[2, 4, 5, 3, 2] = input
        %w : f32[6, 4, 3, 1, 1] = weight 'w'
        %b : f32[6] = weight 'b'
        %reshape_default : f32[2, 4, 5, 6] = reshape(%x, [2, 4, 5, 6])
        %reshape_default_1 : f32[6, 4, 3, 1] = reshape(%w, [6, 4, 3, 1])
        %convolution_default_1 : f32[2, 6, 5, 6] = convolution(%reshape_default, %reshape_default_1, %b, [1, 1], [1, 0], [1, 1], False, [0, 0], 1)
        %reshape_default_2 : f32[2, 6, 5, 3, 2] = reshape(%convolution_default_1, [2, 6, 5, 3, 2])
        return [%reshape_default_2]
        """
    )


def test_a_plane_that_is_too_long_is_summed_over_frames() -> None:
    made = legal(conv((1, 2, 3, 300, 300), (2, 2, 3, 1, 1), (1, 1, 1), (1, 0, 0)))
    shapes = [tuple(ir.val(n).shape) for n in made.graph.nodes if n.target is aten.convolution.default]
    assert shapes == [(3, 2, 300, 300)] * 3


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [
        ((1, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1), 1),
        ((1, 3, 3), (2, 2, 1), (0, 1, 0), (1, 1, 1), 1),
        ((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), 1),
        ((3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1), 1),
        ((2, 3, 1), (1, 2, 1), (0, 1, 0), (2, 1, 1), 2),
        ((3, 1, 1), (2, 1, 1), (2, 0, 0), (2, 1, 1), 4),
        ((1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1), 1),
        ((1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1), 1),
        ((3, 1, 1), (1, 1, 2), (1, 0, 0), (1, 1, 1), 1),
    ],
)
def test_every_window_over_three_dimensions_is_exact(
    kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...], groups: int
) -> None:
    legal(conv((2, 4, 7, 6, 5), (8, 4 // groups, *kernel), stride, padding, dilation, groups))


def test_a_convolution_over_a_row_has_a_row_of_its_own() -> None:
    made = legal(conv((2, 4, 9), (6, 4, 3), (2,), (1,)))
    (node,) = [n for n in made.graph.nodes if n.target is aten.convolution.default]
    assert tuple(ir.val(node).shape) == (2, 6, 1, 5)


def pixel_shuffle(b: Builder) -> fx.Node:
    """Over three dimensions: rank 8."""
    x = b.call(aten.neg.default, b.input("x", (1, 24, 3, 4, 5)))
    x = b.call(aten.reshape.default, x, [1, 3, 2, 2, 2, 3, 4, 5])
    x = b.call(aten.permute.default, x, [0, 1, 5, 2, 6, 3, 7, 4])
    return b.call(aten.reshape.default, x, [1, 3, 6, 8, 10])


def test_a_pixel_shuffle_is_two_transpositions() -> None:
    made = legal(pixel_shuffle)
    permutes = [node for node in made.graph.nodes if node.target is aten.permute.default]
    assert len(permutes) == 2
    assert all(ir.val(node).dim() <= 5 for node in permutes)


SIX = (2, 3, 2, 2, 3, 2)


def _six(b: Builder, x: fx.Node, shape: Sequence[int] = SIX) -> fx.Node:
    """Elements of ``x`` in six dimensions."""
    flat = b.call(aten.slice.Tensor, b.call(aten.neg.default, x), 0, 0, math.prod(shape))
    return b.call(aten.reshape.default, flat, list(shape))


def high(
    make: Callable[..., fx.Node],
    *shapes: Sequence[int],
    inputs: Sequence[Sequence[int]] = (),
    weight: Sequence[int] = (),
) -> Build:
    """``make`` of six-dimensional values, then of further inputs, then of a weight."""

    def build(b: Builder) -> fx.Node:
        given = [b.input(f"x{i}", (144,)) for i in range(len(shapes or (SIX,)))]
        given += [b.input(f"y{i}", shape) for i, shape in enumerate(inputs)]
        given += [b.weight("w", weight)] if weight else []
        values = [_six(b, x, shape) for x, shape in zip(given, shapes or (SIX,), strict=False)]
        out = make(b, *values, *given[len(values) :])
        return b.call(aten.reshape.default, out, [math.prod(ir.val(out).shape)])

    return build


def op(target: Any, *args: Any) -> Callable[..., fx.Node]:
    """A call of the values given, and then of ``args``."""
    return lambda b, *values: b.call(target, *values, *args)


#: Ops on more dimensions than five.
HIGH: dict[str, Build] = {
    "pointwise": high(op(aten.exp.default)),
    "add broadcast": high(op(aten.add.Tensor), inputs=[(2, 1, 2)]),
    "mul broadcast everywhere": high(op(aten.mul.Tensor), (2, 1, 2, 1, 3, 1), (1, 3, 1, 2, 1, 2)),
    "permute": high(op(aten.permute.default, [5, 3, 1, 0, 2, 4])),
    "slice": high(op(aten.slice.Tensor, 4, 1, 3)),
    "cat": high(lambda b, x, y: b.call(aten.cat.default, [x, y], 2), SIX, SIX),
    "cat last": high(lambda b, x, y: b.call(aten.cat.default, [x, y], -1), SIX, SIX),
    "mean": high(op(aten.mean.dim, [1, 3, 5], False)),
    "amax kept": high(op(aten.amax.default, [0, -2], True)),
    "softmax": high(op(aten.softmax.int, 2)),
    "linear": high(op(aten.linear.default), weight=(5, 2)),
    "layer_norm": high(op(aten.layer_norm.default, [3, 2], None, None, 1e-5)),
    "matmul": high(op(aten.matmul.default), inputs=[(2, 4)]),
    "pad": high(op(aten.constant_pad_nd.default, [1, 0, 0, 2], 0.5)),
    "expand": high(op(aten.expand.default, list(SIX)), (2, 1, 2, 1, 3, 1)),
    "attention": high(op(aten.scaled_dot_product_attention.default), SIX, SIX, SIX),
    "a constant": high(op(aten.mul.Tensor), weight=SIX),
}


@pytest.mark.parametrize("name", sorted(HIGH))
def test_ops_of_many_dimensions_have_legal_forms(name: str) -> None:
    legal(HIGH[name])


@pytest.mark.parametrize(
    ("size", "out"), [((3, 2, 2), (6, 4, 2)), ((3, 2, 2), (5, 4, 6)), ((2, 2, 2), (2, 4, 4)), ((4, 2, 2), (2, 2, 2))]
)
def test_upsampling_in_time(size: tuple[int, ...], out: tuple[int, ...]) -> None:
    made = legal(lambda b: b.call(aten.upsample_nearest3d.vec, b.input("x", (2, 3, *size)), list(out), None))
    assert not any(node.target is aten.upsample_nearest3d.vec for node in made.graph.nodes)


def test_average_pooling_in_time() -> None:
    made = legal(lambda b: b.call(aten.avg_pool3d.default, b.input("x", (2, 3, 4, 6, 4)), [2, 3, 2], [2, 3, 2]))
    assert not any(node.target is aten.avg_pool3d.default for node in made.graph.nodes)


def test_inputs_and_outputs_of_many_dimensions_are_refused() -> None:
    b = Builder()
    with pytest.raises(ModelError, match="input 'x' has 6 dimensions and the device takes 5"):
        LegalizeCoreml().run(program(b.done(b.call(aten.neg.default, b.input("x", (1, 2, 1, 2, 1, 2))))), a18())
    b = Builder()
    with pytest.raises(ModelError, match="output 'reshape_default' has 6 dimensions"):
        LegalizeCoreml().run(
            program(b.done(b.call(aten.reshape.default, b.input("x", (8,)), [1, 2, 1, 2, 1, 2]))), a18()
        )


def test_what_stays_on_the_cpu_is_told() -> None:
    b = Builder()
    index = b.input("i", (2, 6), torch.int64)
    given = program(b.done(b.call(aten.embedding.default, b.weight("w", (9, 4)), index)))
    result = LegalizeCoreml().run(given, a18())
    assert not result.changed
    (told,) = result.explanations
    assert told.reason.startswith("aten.embedding runs on the CPU")


def test_rank_is_an_option() -> None:
    b = Builder()
    x = b.call(aten.neg.default, b.input("x", (8, 2)))
    x = b.call(aten.reshape.default, x, [2, 2, 2, 2])
    x = b.call(aten.permute.default, x, [3, 1, 2, 0])
    given = program(b.done(b.call(aten.reshape.default, x, [16])))
    result = run_pass(LegalizeCoreml(max_rank=3), given, a18(), "exact")
    assert max(ir.val(n).dim() for n in result.program.graph.nodes if n.op == "call_function") == 3
    assert result.stats["high_rank"] == len(list(itertools.islice(given.graph.nodes, 2, 5)))
