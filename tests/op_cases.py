"""One small call of every op of the dialect, in each of the ways that an axis may run through it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from tests.graph_builder import Builder, aten, own
from vgcomp import infer, ir
from vgcomp.axes import operands
from vgcomp.ir import Axis, prims

Build = Callable[[Builder], fx.Node]

#: Double precision, so that a different order of operations stays far below a wrong element.
DTYPE = torch.float64


@dataclass(frozen=True)
class Case:
    """A graph whose only op is the one in question, and real operands for it."""

    node: fx.Node
    inputs: tuple[fx.Node, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(ir.val(self.node).shape)

    def values(self, seed: int = 0) -> list[Tensor]:
        """Random operands, parallel to ``axes.operands(node)``, laid out as their fake values are."""
        generator = torch.Generator().manual_seed(seed)
        known = {x: _random(ir.val(x), generator) for x in self.inputs}
        return [known[x] for x in operands(self.node)]

    def run(self, values: Sequence[Tensor]) -> Tensor:
        """The op on operands parallel to ``axes.operands(node)``."""
        fresh = iter(values)
        args, kwargs = fx.node.map_arg((self.node.args, self.node.kwargs), lambda _: next(fresh))
        found: Tensor = self.node.target(*args, **kwargs)  # type: ignore[operator]
        return found

    def axes(self) -> Iterator[Axis]:
        """Every axis of the output with more than one element, factors of its dimensions included."""
        for dim, size in enumerate(self.shape):
            for extent in range(2, size + 1):
                if size % extent:
                    continue
                for outer in range(1, size // extent + 1):
                    inner, rest = divmod(size // extent, outer)
                    if not rest:
                        yield Axis(dim, extent, outer, inner)


def make_case(name: str) -> Case:
    """The case of this name, built anew."""
    b = Builder()
    node = CASES[name](b)
    graph = b.done(node)
    return Case(node, tuple(n for n in graph.nodes if n.op == "placeholder"))


def _random(like: Tensor, generator: torch.Generator) -> Tensor:
    if like.dtype == torch.bool:
        return torch.rand(like.shape, generator=generator) > 0.5
    if not like.is_floating_point():
        return torch.randint(0, 3, tuple(like.shape), generator=generator, dtype=like.dtype)
    laid_out = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)
    return laid_out.copy_(torch.randn(like.shape, generator=generator, dtype=like.dtype))


def _x(b: Builder, *shape: int, name: str = "x", dtype: torch.dtype = DTYPE) -> fx.Node:
    return b.input(name, shape, dtype)


def _xs(b: Builder, *shapes: Sequence[int]) -> list[fx.Node]:
    return [_x(b, *shape, name=f"x{i}") for i, shape in enumerate(shapes)]


def _last(b: Builder, *shape: int) -> fx.Node:
    """An input whose first dimension after the batch lies innermost, as channels last."""
    order = [0, *range(2, len(shape)), 1]
    strides, step = [0] * len(shape), 1
    for dim in reversed(order):
        strides[dim], step = step, step * shape[dim]
    return b.value("x", infer.fake_tensor(shape, DTYPE, strides))


def _conv(
    x: Sequence[int],
    w: Sequence[int],
    *,
    stride: Sequence[int] | None = None,
    padding: Sequence[int] | None = None,
    dilation: Sequence[int] | None = None,
    groups: int = 1,
    bias: bool = True,
) -> Build:
    n = len(w) - 2

    def build(b: Builder) -> fx.Node:
        args = _xs(b, x, w, *([w[:1]] if bias else []))
        return b.call(
            aten.convolution.default, args[0], args[1], args[2] if bias else None, list(stride or [1] * n),
            list(padding or [0] * n), list(dilation or [1] * n), False, [0] * n, groups,
        )  # fmt: skip

    return build


def _unary(target: Any, *args: Any, shape: Sequence[int] = (2, 6)) -> Build:
    return lambda b: b.call(target, _x(b, *shape), *args)


def _many(target: Any, shapes: Sequence[Sequence[int]], *args: Any, **kwargs: Any) -> Build:
    return lambda b: b.call(target, *_xs(b, *shapes), *args, **kwargs)


def _cat(shapes: Sequence[Sequence[int]], dim: int) -> Build:
    return lambda b: b.call(aten.cat.default, _xs(b, *shapes), dim)


def _where(b: Builder) -> fx.Node:
    return b.call(aten.where.self, _x(b, 4, 1, name="c", dtype=torch.bool), *_xs(b, (4, 6), (6,)))


def _embedding(b: Builder) -> fx.Node:
    return b.call(aten.embedding.default, _x(b, 3, 5), _x(b, 2, 6, name="i", dtype=torch.int64))


def _index_select(b: Builder) -> fx.Node:
    return b.call(aten.index_select.default, _x(b, 4, 3, 2), 1, _x(b, 6, name="i", dtype=torch.int64))


def _group_norm_apply(b: Builder) -> fx.Node:
    x, moments, weight, bias = _xs(b, (4, 6, 3, 2), (3, 4, 2), (6,), (6,))
    return b.call(own.group_norm_apply.default, x, moments, 2, weight, bias, 1e-5)


def _transposed(b: Builder) -> fx.Node:
    x, w = _xs(b, (2, 3, 4), (3, 5, 3))
    return b.call(aten.convolution.default, x, w, None, [2], [1], [1], True, [0], 1)


def _merged_of_permuted(b: Builder) -> fx.Node:
    return b.call(aten.reshape.default, _last(b, 2, 6, 4), [12, 4])


_QKV = [(4, 2, 6, 3), (4, 2, 5, 3), (4, 2, 5, 4)]
_SDPA = aten.scaled_dot_product_attention.default

#: Pointwise ops of more than one operand, or with arguments that matter.
WITH_ARGUMENTS = {
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.maximum.default,
    aten.minimum.default,
    aten.where.self,
    aten.pow.Tensor_Scalar,
    aten.hardtanh.default,
    aten.leaky_relu.default,
    aten.clamp.default,
    aten.eq.Scalar,
    aten.gt.Scalar,
    aten.lt.Scalar,
    prims.convert_element_type.default,
}

CASES: dict[str, Build] = {
    # views
    "reshape: merge": _unary(aten.reshape.default, [8, 6], shape=(2, 4, 6)),
    "reshape: split": _unary(aten.reshape.default, [2, 4, 3, 2], shape=(8, 6)),
    "reshape: tear": _unary(aten.reshape.default, [6, 4], shape=(4, 6)),
    "reshape: ones": _unary(aten.reshape.default, [1, 4, 1, 6], shape=(4, 6, 1)),
    "reshape: pixel shuffle": _unary(aten.reshape.default, [2, 8, 6], shape=(2, 4, 2, 3, 2)),
    "reshape: of permuted": _merged_of_permuted,
    "permute": _unary(aten.permute.default, [2, 0, 1], shape=(2, 3, 4)),
    "permute: negative": _unary(aten.permute.default, [-1, 0, -2], shape=(2, 4, 3)),
    "expand": _unary(aten.expand.default, [4, 3, 2, 6], shape=(3, 1, 6)),
    "slice": _unary(aten.slice.Tensor, 1, 2, 8, shape=(4, 12, 2)),
    "slice: defaults": _unary(aten.slice.Tensor, 1, 2, shape=(4, 6)),
    "slice: step": _unary(aten.slice.Tensor, 1, 1, 11, 3, shape=(4, 12, 2)),
    # pointwise
    **{f"pointwise: {target}": _unary(target) for target in sorted(ir.POINTWISE_OPS - WITH_ARGUMENTS, key=str)},
    "pow": _unary(aten.pow.Tensor_Scalar, 2),
    "hardtanh": _unary(aten.hardtanh.default, -1.0, 1.0),
    "leaky_relu": _unary(aten.leaky_relu.default, 0.1),
    "clamp": _unary(aten.clamp.default, -0.5),
    "eq": _unary(aten.eq.Scalar, 0.0),
    "gt": _unary(aten.gt.Scalar, 0.0),
    "lt": _unary(aten.lt.Scalar, 0.0),
    "convert": _unary(prims.convert_element_type.default, torch.float32),
    "add: same": _many(aten.add.Tensor, [(4, 6), (4, 6)]),
    "add: one operand twice": lambda b: (lambda x: b.call(aten.add.Tensor, x, x))(_x(b, 4, 6)),
    "add: scalar": _unary(aten.add.Tensor, 1.0),
    "sub: broadcast right": _many(aten.sub.Tensor, [(2, 3, 4), (3, 1)]),
    "mul: broadcast both": _many(aten.mul.Tensor, [(2, 1, 4), (6, 1)]),
    "div: broadcast left": _many(aten.div.Tensor, [(4,), (2, 4)]),
    "maximum": _many(aten.maximum.default, [(4, 6), (6,)]),
    "minimum": _many(aten.minimum.default, [(4, 6), (4, 1)]),
    "where": _where,
    # windows
    "conv1d": _conv((2, 3, 8), (4, 3, 3), padding=[1]),
    "conv1d: valid": _conv((2, 3, 8), (4, 3, 3)),
    "conv1d: stride": _conv((2, 3, 9), (4, 3, 3), stride=[2], padding=[1]),
    "conv1d: stride over kernel": _conv((2, 3, 11), (4, 3, 2), stride=[3]),
    "conv1d: even kernel": _conv((2, 3, 8), (4, 3, 4), padding=[2]),
    "conv1d: dilation": _conv((2, 3, 10), (4, 3, 3), padding=[2], dilation=[2]),
    "conv1d: stride and dilation": _conv((2, 3, 12), (4, 3, 3), stride=[2], padding=[3], dilation=[2]),
    "conv1d: padding over kernel": _conv((2, 3, 4), (4, 3, 3), padding=[4]),
    "conv1d: stride and wide padding": _conv((2, 3, 6), (4, 3, 3), stride=[3], padding=[4]),
    "conv2d": _conv((2, 2, 6, 4), (3, 2, 3, 3), padding=[1, 1]),
    "conv2d: uneven": _conv((2, 2, 6, 5), (3, 2, 3, 5), stride=[1, 2], padding=[0, 2], bias=False),
    "conv2d: one number": _conv((2, 2, 6, 4), (3, 2, 3, 3), stride=[2], padding=[1], dilation=[1]),
    "conv2d: groups": _conv((2, 4, 5, 4), (4, 1, 3, 3), padding=[1, 1], groups=4),
    "conv3d: time only": _conv((2, 2, 6, 2, 3), (2, 2, 3, 1, 1), padding=[1, 0, 0]),
    "conv: transposed": _transposed,
    "upsample1d": _unary(aten.upsample_nearest1d.vec, [8], None, shape=(2, 3, 4)),
    "upsample2d": _unary(aten.upsample_nearest2d.vec, [6, 4], None, shape=(2, 2, 2, 4)),
    "upsample3d": _unary(aten.upsample_nearest3d.vec, [6, 4, 3], None, shape=(1, 2, 3, 2, 3)),
    "upsample: not a multiple": _unary(aten.upsample_nearest1d.vec, [6], None, shape=(2, 3, 4)),
    "avg_pool2d": _unary(aten.avg_pool2d.default, [2, 2], [2, 2], shape=(2, 2, 6, 4)),
    "avg_pool2d: defaults": _unary(aten.avg_pool2d.default, [2, 3], shape=(2, 2, 6, 6)),
    "avg_pool2d: padding": _unary(aten.avg_pool2d.default, [3, 3], [2, 1], [1, 1], shape=(2, 2, 6, 4)),
    "avg_pool2d: padding not counted": _unary(
        aten.avg_pool2d.default, [3, 3], [1, 1], [1, 0], False, False, shape=(2, 2, 6, 4)
    ),
    "avg_pool2d: ceil": _unary(aten.avg_pool2d.default, [2, 2], [2, 2], [0, 0], True, shape=(2, 2, 5, 4)),
    "avg_pool2d: no batch": _unary(aten.avg_pool2d.default, [2, 2], shape=(2, 6, 4)),
    "avg_pool3d": _unary(aten.avg_pool3d.default, [2, 1, 1], [1, 1, 1], shape=(1, 2, 6, 2, 2)),
    "max_pool2d": _unary(aten.max_pool2d.default, [3, 3], [2, 2], [1, 1], shape=(2, 2, 6, 5)),
    "max_pool2d: dilation": _unary(aten.max_pool2d.default, [2, 2], [1, 1], [0, 0], [2, 1], shape=(2, 2, 6, 5)),
    "max_pool2d: dilation of one": _unary(
        aten.max_pool2d.default, [2, 2], [2, 2], [0, 0], [1, 1], False, shape=(2, 2, 6, 4)
    ),
    "max_pool2d: ceil": _unary(aten.max_pool2d.default, [2, 2], [2, 2], [0, 0], [1, 1], True, shape=(2, 2, 5, 4)),
    "constant_pad": _unary(aten.constant_pad_nd.default, [1, 2, 0, 1], 0.5, shape=(3, 4, 6)),
    "constant_pad: crop": _unary(aten.constant_pad_nd.default, [-1, 2, 3, -2], shape=(2, 5, 6)),
    "pad: replicate": _unary(aten.pad.default, [1, 2], "replicate", shape=(2, 4, 6)),
    "pad: reflect": _unary(aten.pad.default, [1, 2, 0, 0], "reflect", shape=(1, 2, 4, 6)),
    # joined, looked up, made
    "cat: along": _cat([(2, 3), (2, 1), (2, 4)], 1),
    "cat: across": _cat([(4, 3), (4, 1)], -1),
    "cat: first": _cat([(4, 3), (2, 3)], 0),
    "embedding": _embedding,
    "index_select": _index_select,
    "full": lambda b: b.call(aten.full.default, [4, 6], 2.0, dtype=DTYPE),
    # contractions
    "linear": _many(aten.linear.default, [(4, 6, 3), (5, 3), (5,)]),
    "linear: no bias": _many(aten.linear.default, [(6, 3), (4, 3)]),
    "matmul": _many(aten.matmul.default, [(4, 3), (3, 6)]),
    "matmul: batches": _many(aten.matmul.default, [(2, 1, 4, 3), (6, 3, 4)]),
    "matmul: shared right": _many(aten.matmul.default, [(2, 4, 3), (3, 6)]),
    "matmul: shared left": _many(aten.matmul.default, [(4, 3), (2, 3, 6)]),
    "matmul: vector": _many(aten.matmul.default, [(4, 3), (3,)]),
    "attention": _many(_SDPA, _QKV),
    "attention: causal": _many(_SDPA, [(4, 2, 6, 3)] * 3, None, 0.0, True, scale=0.3),
    "attention: mask a head": _many(_SDPA, [*_QKV, (2, 6, 5)]),
    "attention: mask shared": _many(_SDPA, [*_QKV, (4, 1, 1, 5)]),
    "attention: rank 3": _many(_SDPA, [(4, 6, 3), (4, 5, 3), (4, 5, 3)]),
    "attention_partial": _many(own.attention_partial.default, _QKV, 0.4),
    "attention_finish": _unary(own.attention_finish.default, DTYPE, shape=(2, 4, 6, 5)),
    # along a row
    "softmax": _unary(aten.softmax.int, -1, shape=(2, 4, 6)),
    "softmax: middle": _unary(aten.softmax.int, 1, shape=(2, 4, 6)),
    "layer_norm": _many(aten.layer_norm.default, [(2, 4, 6)], [6], None, None, 1e-5),
    "layer_norm: two dims": lambda b: (lambda x, w, s: b.call(aten.layer_norm.default, x, [4, 6], w, s))(
        *_xs(b, (6, 4, 6), (4, 6), (4, 6))
    ),
    "rms_norm": lambda b: (lambda x, w: b.call(aten.rms_norm.default, x, [6], w, 1e-6))(*_xs(b, (2, 4, 6), (6,))),
    "group_norm": lambda b: (lambda x, w, s: b.call(aten.group_norm.default, x, 2, w, s, 1e-5))(
        *_xs(b, (6, 4, 3, 2), (4,), (4,))
    ),
    "group_moments": _unary(own.group_moments.default, 2, shape=(6, 4, 3)),
    "group_norm_apply": _group_norm_apply,
    "sum: kept": _unary(aten.sum.dim_IntList, [1], True, shape=(4, 3, 6)),
    "sum: dropped": _unary(aten.sum.dim_IntList, [0, 2], False, shape=(2, 6, 3, 4)),
    "mean": _unary(aten.mean.dim, [1, 3], True, shape=(4, 3, 6, 2)),
    "mean: dropped": _unary(aten.mean.dim, [0], shape=(3, 4, 6)),
    "mean: all": _unary(aten.mean.dim, [], True, shape=(3, 4)),
    "amax": _unary(aten.amax.default, [-1], shape=(4, 6, 3)),
    "norm: kept": _unary(aten.linalg_vector_norm.default, 2, [1], True, shape=(4, 3, 6)),
    "norm: dropped": _unary(aten.linalg_vector_norm.default, 2, [0], shape=(3, 4, 6)),
    "norm: all": _unary(aten.linalg_vector_norm.default, 2, shape=(3, 4)),
}


def covered_ops() -> set[Any]:
    """The ops that some case calls."""
    return {make_case(name).node.target for name in CASES} - {operator.getitem}
