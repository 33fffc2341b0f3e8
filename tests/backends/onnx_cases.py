"""One small graph (or a few) for every op of the dialect."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from tests.graph_builder import Builder, aten, own

prims = torch.ops.prims

Make = Callable[[Builder], fx.Node]


def _unary(target: object, *args: object, positive: bool = False, **kwargs: object) -> Make:
    def make(b: Builder) -> fx.Node:
        x = b.input("x", (2, 3, 4, 5))
        x = b.call(aten.add.Tensor, b.call(aten.abs.default, x), 0.1) if positive else x
        return b.call(target, x, *args, **kwargs)

    return make


def _binary(target: object) -> Make:
    return lambda b: b.call(target, b.input("x", (2, 3, 4)), b.input("y", (3, 1)))


def _conv(rank: int, *, transposed: bool = False, bias: bool = True, groups: int = 1) -> Make:
    def make(b: Builder) -> fx.Node:
        x = b.input("x", (2, 4, 7, 6, 5)[: rank + 2])
        w = b.weight("w", (4, 6 // groups, *([3] * rank)) if transposed else (6, 4 // groups, *([3] * rank)))
        c = b.weight("c", (6,)) if bias else None
        stride, padding, dilation = [2] * rank, [1] * rank, [1] * rank
        output_padding = [1 if transposed else 0] * rank
        call = (stride, padding, dilation, transposed, output_padding, groups)
        return b.call(aten.convolution.default, x, w, c, *call)

    return make


def _pool(target: object, *args: object) -> Make:
    return lambda b: b.call(
        target, b.input("x", (1, 3, 6, 9, 7)[: 5 if target is aten.avg_pool3d.default else 4]), *args
    )


def _upsample(rank: int, size: list[int]) -> Make:
    target = getattr(aten, f"upsample_nearest{rank}d").vec
    return lambda b: b.call(target, b.input("x", (2, 3, 4, 5, 6)[: rank + 2]), size, None)


def _norm(target: object, shape: tuple[int, ...], first: object, parameters: tuple[int, ...] | None) -> Make:
    def make(b: Builder) -> fx.Node:
        x = b.input("x", shape)
        affine = [b.weight(f"p{i}", parameters) for i in range(2)] if parameters else [None, None]
        return b.call(target, x, first, *affine, 1e-4)

    return make


def _rms(affine: bool) -> Make:
    def make(b: Builder) -> fx.Node:
        x = b.input("x", (2, 5, 8))
        return b.call(aten.rms_norm.default, x, [8], b.weight("w", (8,)) if affine else None, 1e-5 if affine else None)

    return make


def _attention(mask: str = "", causal: bool = False, scale: float | None = None) -> Make:
    def make(b: Builder) -> fx.Node:
        q, k, v = b.input("q", (2, 3, 5, 8)), b.input("k", (2, 3, 6, 8)), b.input("v", (2, 3, 6, 4))
        m = b.input("m", (5, 6)) if mask else None
        # Column 0 stays visible: a row without keys has no softmax.
        m = b.call(aten.lt.Scalar, m, 3.0) if mask == "bool" else m
        kwargs = {} if scale is None else {"scale": scale}
        return b.call(aten.scaled_dot_product_attention.default, q, k, v, m, 0.0, causal, **kwargs)

    return make


def _linear(shape: tuple[int, ...], bias: bool) -> Make:
    def make(b: Builder) -> fx.Node:
        x, w = b.input("x", shape), b.weight("w", (6, 4))
        return b.call(aten.linear.default, x, w, *([b.weight("c", (6,))] if bias else []))

    return make


def _look_up(target: object) -> Make:
    def make(b: Builder) -> fx.Node:
        w = b.weight("w", (5, 3))
        indices = b.call(aten.full.default, [4], 3, dtype=torch.int64)
        return b.call(target, w, indices) if target is aten.embedding.default else b.call(target, w, 0, indices)

    return make


def _moments(b: Builder) -> fx.Node:
    return b.call(own.group_moments.default, b.input("x", (2, 6, 4, 5)), 3)


def _norm_apply(affine: bool) -> Make:
    def make(b: Builder) -> fx.Node:
        x = b.input("x", (2, 6, 4, 5))
        moments = b.call(own.group_moments.default, b.call(aten.mul.Tensor, x, 0.5), 3)
        weight, bias = (b.weight("w", (6,)), b.weight("c", (6,))) if affine else (None, None)
        return b.call(own.group_norm_apply.default, x, moments, 3, weight, bias, 1e-5)

    return make


def _partial(b: Builder) -> fx.Node:
    q, k, v = b.input("q", (2, 5, 8)), b.input("k", (2, 6, 8)), b.input("v", (2, 6, 4))
    return b.call(own.attention_partial.default, q, k, v, 0.3)


def _finish(b: Builder) -> fx.Node:
    return b.call(own.attention_finish.default, _partial(b), torch.float32)


_PLAIN_UNARY = (aten.neg, aten.abs, aten.exp, aten.sin, aten.cos, aten.erf, aten.tanh, aten.sigmoid)
_MORE_UNARY = (aten.relu, aten.leaky_relu, aten.hardtanh, aten.silu, aten.gelu, aten.softplus, aten.floor, aten.round)
_POSITIVE = (aten.log, aten.sqrt, aten.rsqrt, aten.reciprocal)

CASES: dict[str, Make] = {
    **{f"{op.__name__}": _unary(op.default) for op in (*_PLAIN_UNARY, *_MORE_UNARY)},
    **{f"{op.__name__}": _unary(op.default, positive=True) for op in _POSITIVE},
    **{
        str(op): _binary(op)
        for op in (
            aten.add.Tensor,
            aten.sub.Tensor,
            aten.mul.Tensor,
            aten.div.Tensor,
            aten.maximum.default,
            aten.minimum.default,
        )
    },
    **{str(op): _unary(op, 0.3) for op in (aten.eq.Scalar, aten.gt.Scalar, aten.lt.Scalar)},
    "add-scalar": _unary(aten.add.Tensor, 1.5),
    "add-alpha": _unary(aten.add.Tensor, 1.5, alpha=2),
    "scalar-of-integers": lambda b: b.call(aten.mul.Tensor, b.call(aten.full.default, [3], 2, dtype=torch.int64), 1.5),
    "integers-divided": lambda b: b.call(aten.div.Tensor, b.call(aten.full.default, [3], 3, dtype=torch.int64), 2),
    "where": lambda b: b.call(
        aten.where.self, b.call(aten.gt.Scalar, b.input("c", (3, 4)), 0.0), b.input("x", (3, 4)), b.input("y", (4,))
    ),
    "pow-2": _unary(aten.pow.Tensor_Scalar, 2),
    "pow-half": _unary(aten.pow.Tensor_Scalar, 0.5, positive=True),
    "pow-3": _unary(aten.pow.Tensor_Scalar, 3.0),
    "clamp": _unary(aten.clamp.default, -0.5, 0.5),
    "clamp-below": _unary(aten.clamp.default, 0.0),
    "clamp-above": _unary(aten.clamp.default, None, 0.2),
    "gelu-tanh": _unary(aten.gelu.default, approximate="tanh"),
    "softplus-beta": _unary(aten.softplus.default, 2.0, 20.0),
    "clone": lambda b: b.call(
        aten.clone.default,
        b.call(aten.permute.default, b.input("x", (2, 3)), [1, 0]),
        memory_format=torch.contiguous_format,
    ),
    "cast": _unary(prims.convert_element_type.default, torch.float64),
    "cast-to-int": _unary(prims.convert_element_type.default, torch.int64),
    "reshape": _unary(aten.reshape.default, [6, 20]),
    "permute": _unary(aten.permute.default, [0, 2, 3, 1]),
    "expand": lambda b: b.call(aten.expand.default, b.input("x", (3, 1, 4)), [2, 3, 5, 4]),
    "slice": _unary(aten.slice.Tensor, 2, 1, 3),
    "slice-step": _unary(aten.slice.Tensor, 3, 0, 5, 2),
    "slice-1d": lambda b: b.call(aten.slice.Tensor, b.input("x", (7,)), 0, 2, 5),
    "sum": _unary(aten.sum.dim_IntList, [1, 3]),
    "sum-all": _unary(aten.sum.dim_IntList, None),
    "mean": _unary(aten.mean.dim, [2], True),
    "amax": _unary(aten.amax.default, [1, 2], True),
    "norm-2": _unary(aten.linalg_vector_norm.default, 2, [1], True),
    "norm-1": _unary(aten.linalg_vector_norm.default, 1, [1, 2]),
    "norm-inf": _unary(aten.linalg_vector_norm.default, float("inf"), [1]),
    "norm-3": _unary(aten.linalg_vector_norm.default, 3, [1]),
    "group-norm": _norm(aten.group_norm.default, (2, 6, 4, 5), 3, (6,)),
    "group-norm-5d": _norm(aten.group_norm.default, (2, 6, 3, 4, 5), 2, (6,)),
    "group-norm-plain": _norm(aten.group_norm.default, (2, 6, 10), 3, None),
    "layer-norm": _norm(aten.layer_norm.default, (2, 5, 8), [8], (8,)),
    "layer-norm-2d": _norm(aten.layer_norm.default, (2, 5, 8), [5, 8], (5, 8)),
    "layer-norm-plain": _norm(aten.layer_norm.default, (2, 5, 8), [8], None),
    "rms-norm": _rms(affine=True),
    "rms-norm-plain": _rms(affine=False),
    "upsample-1d": _upsample(1, [8]),
    "upsample-2d": _upsample(2, [8, 15]),
    "upsample-3d": _upsample(3, [8, 10, 12]),
    "upsample-by-fractions": _upsample(2, [7, 8]),
    **{f"conv{n}d": _conv(n) for n in (1, 2, 3)},
    "conv-grouped": _conv(2, groups=2, bias=False),
    **{f"conv-transposed-{n}d": _conv(n, transposed=True) for n in (1, 2)},
    "linear": _linear((2, 5, 4), bias=True),
    "linear-rows": _linear((5, 4), bias=True),
    "linear-vector": _linear((4,), bias=True),
    "linear-plain": _linear((2, 3, 5, 4), bias=False),
    "matmul": lambda b: b.call(aten.matmul.default, b.input("x", (2, 3, 4)), b.input("y", (4, 5))),
    "attention": _attention(),
    "attention-scale": _attention(scale=0.7),
    "attention-mask": _attention(mask="float"),
    "attention-bool-mask": _attention(mask="bool"),
    "attention-causal": _attention(causal=True),
    "softmax": _unary(aten.softmax.int, 1),
    "softmax-cast": _unary(aten.softmax.int, -1, torch.float64),
    "cat": lambda b: b.call(aten.cat.default, [b.input("x", (2, 3)), b.input("y", (2, 5))], 1),
    "pad": _unary(aten.constant_pad_nd.default, [1, 2, 0, 1], 0.5),
    "pad-crop": _unary(aten.constant_pad_nd.default, [-1, 2, 0, -1]),
    "pad-reflect": _unary(aten.pad.default, [1, 2, 2, 1], "reflect"),
    "pad-replicate": _unary(aten.pad.default, [1, 2, 2, 1], "replicate"),
    "pad-circular": _unary(aten.pad.default, [1, 2, 2, 1], "circular"),
    "avg-pool": _pool(aten.avg_pool2d.default, [3, 2], [2, 2], [1, 0]),
    "avg-pool-border": _pool(aten.avg_pool2d.default, [3, 3], [2, 2], [1, 1], False, False),
    "avg-pool-divisor": _pool(aten.avg_pool2d.default, [2, 2], [], 0, False, True, 3),
    "avg-pool-3d": _pool(aten.avg_pool3d.default, [2], [2]),
    "max-pool": _pool(aten.max_pool2d.default, [3, 3], [2, 2], [1, 1]),
    "embedding": _look_up(aten.embedding.default),
    "index-select": _look_up(aten.index_select.default),
    "full": lambda b: b.call(aten.mul.Tensor, b.input("x", (2, 3)), b.call(aten.full.default, [2, 3], 2.5)),
    "group-moments": _moments,
    "group-norm-apply": _norm_apply(affine=True),
    "group-norm-apply-plain": _norm_apply(affine=False),
    "attention-partial": _partial,
    "attention-finish": _finish,
}
