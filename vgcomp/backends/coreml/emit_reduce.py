"""Norms, reductions, softmax, and the halves of them that sliced loops are made of.

``vgcomp::`` ops accumulate in fp32 whatever the network's dtype, like their definitions; that is the CPU's work.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from vgcomp.backends.arguments import positive
from vgcomp.backends.coreml.registry import Call, emits

aten = torch.ops.aten
own = torch.ops.vgcomp

_F32 = torch.float32
_REDUCE: dict[Any, str] = {
    aten.sum.dim_IntList: "reduce_sum",
    aten.mean.dim: "reduce_mean",
    aten.amax.default: "reduce_max",
}
_NORMS = {2.0: "reduce_l2_norm", 1.0: "reduce_l1_norm"}

#: No dimension of an instance norm is longer, where it can be split: engines of older chips take no more.
_MOST = 16_384


def _dims(call: Call, rank: int) -> list[int]:
    dims = call["dim"]
    if dims is None or dims == []:
        return list(range(rank))
    return [positive(d, rank) for d in ([dims] if isinstance(dims, int) else dims)]


@emits(*_REDUCE)
def _reduction(call: Call) -> Any:
    x, rank = call.operand("self", call.dtype), len(call.shape_of("self"))
    if rank == 0:
        return x
    op = getattr(call.mb, _REDUCE[call.target])
    return call.scope.reshape(op(x=x, axes=_dims(call, rank), keep_dims=bool(call["keepdim"])), call.shape)


@emits(aten.linalg_vector_norm.default)
def _vector_norm(call: Call) -> Any:
    scope, mb, order = call.scope, call.mb, float(call["ord"])
    x, dims = call.operand("self", call.dtype), _dims(call, len(call.shape_of("self")))
    keep = bool(call["keepdim"])
    if order in _NORMS:
        return scope.reshape(getattr(mb, _NORMS[order])(x=x, axes=dims, keep_dims=keep), call.shape)
    size = mb.abs(x=x)
    if math.isinf(order):
        op = mb.reduce_max if order > 0 else mb.reduce_min
        return scope.reshape(op(x=size, axes=dims, keep_dims=keep), call.shape)
    total = mb.reduce_sum(x=mb.pow(x=size, y=scope.scalar(order, call.dtype)), axes=dims, keep_dims=keep)
    return scope.reshape(mb.pow(x=total, y=scope.scalar(1 / order, call.dtype)), call.shape)


@emits(aten.softmax.int)
def _softmax(call: Call) -> Any:
    return call.mb.softmax(x=call.operand("self", call.dtype), axis=positive(call["dim"], len(call.shape)))


@emits(aten.group_norm.default)
def _group_norm(call: Call) -> Any:
    """An instance norm of the groups, (N, groups, *, *), then scale and shift a channel."""
    scope, mb, shape, groups = call.scope, call.mb, call.shape, call["num_groups"]
    rows, width = _split(shape, groups)
    grouped = scope.reshape(call.var("input"), [shape[0], groups, rows, width])
    normal = mb.instance_norm(x=grouped, epsilon=scope.scalar(call["eps"], call.dtype))
    out = scope.reshape(normal, shape)
    for op, name in ((mb.mul, "weight"), (mb.add, "bias")):
        if call[name] is not None:
            out = op(x=out, y=_per_channel(call, name))
    return out


def _split(shape: tuple[int, ...], groups: int) -> tuple[int, int]:
    """A group's elements as two dimensions, the second the longest run of last ones that is not too long."""
    per_group = math.prod(shape[1:]) // groups
    width = 1
    for size in reversed(shape[2:]):
        if width * size > _MOST:
            break
        width *= size
    return per_group // width, width


def _per_channel(call: Call, name: str) -> Any:
    shape = [1, call.shape[1]] + [1] * (len(call.shape) - 2)
    node = call.node_of(name)
    if call.scope.is_constant(node):
        return call.scope.constant(call.scope.value(node).reshape(shape).to(call.dtype))
    return call.scope.cast(call.scope.reshape(call.var(name), shape), call.dtype)


@emits(aten.layer_norm.default)
def _layer_norm(call: Call) -> Any:
    scope, mb, n = call.scope, call.mb, len(call["normalized_shape"])
    given = {new: name for new, name in (("gamma", "weight"), ("beta", "bias")) if call[name] is not None}
    rank = len(call.shape)
    axes = list(range(rank - n, rank))
    epsilon = scope.scalar(call["eps"], call.dtype)
    if all(scope.is_constant(call.node_of(name)) for name in given.values()):
        parameters = {new: scope.cast(call.var(name), call.dtype) for new, name in given.items()}
        return mb.layer_norm(x=call.var("input"), axes=axes, epsilon=epsilon, **parameters)
    out = mb.layer_norm(x=call.var("input"), axes=axes, epsilon=epsilon)
    for new, op in (("gamma", mb.mul), ("beta", mb.add)):
        if new in given:
            out = op(x=out, y=scope.cast(call.var(given[new]), call.dtype))
    return out


@emits(aten.rms_norm.default)
def _rms_norm(call: Call) -> Any:
    """A layer norm of the row and its negative, whose mean is 0: squares in fp16 overflow, the engine's norm not."""
    scope, mb, n = call.scope, call.mb, len(call["normalized_shape"])
    x, lead = call.var("input"), call.shape[: len(call.shape) - n]
    width = math.prod(call.shape[len(lead) :])
    rows = scope.reshape(x, [math.prod(lead), width])
    both = mb.concat(values=[rows, mb.mul(x=rows, y=scope.scalar(-1, call.dtype))], axis=1)
    eps = torch.finfo(call.dtype).eps if call["eps"] is None else call["eps"]
    normal = mb.layer_norm(x=both, axes=[1], epsilon=scope.scalar(eps, call.dtype))
    out = scope.reshape(scope.slice(normal, 1, 0, width), call.shape)
    if call["weight"] is None:
        return out
    return mb.mul(x=out, y=scope.cast(call.var("weight"), call.dtype))


@emits(own.group_moments.default)
def _group_moments(call: Call) -> Any:
    scope, mb, groups = call.scope, call.mb, call["groups"]
    shape = call.shape_of("x")
    count = math.prod(shape[1:]) // groups
    flat = scope.reshape(scope.cast(call.var("x"), _F32), [shape[0], groups, count])
    mean = mb.reduce_mean(x=flat, axes=[2], keep_dims=True)
    centred = mb.sub(x=flat, y=mean)
    squares = mb.reduce_sum(x=mb.mul(x=centred, y=centred), axes=[2], keep_dims=False)
    row = [1, shape[0], groups]
    counts = scope.constant(torch.full(row, float(count)))
    return mb.concat(values=[counts, scope.reshape(mean, row), scope.reshape(squares, row)], axis=0)


@emits(own.group_norm_apply.default)
def _group_norm_apply(call: Call) -> Any:
    """y = x * scale + shift, both computed in fp32, one number a channel."""
    scope, mb, groups = call.scope, call.mb, call["groups"]
    n, c = call.shape[0], call.shape[1]
    count, mean, squares = (_row(call, call.operand("moments", _F32), i, [n, groups, 1]) for i in range(3))
    variance = mb.add(x=mb.real_div(x=squares, y=count), y=scope.scalar(call["eps"], _F32))
    deviation = mb.rsqrt(x=variance, epsilon=scope.scalar(1e-45, _F32))
    scale, mean = (scope.reshape(mb.tile(x=x, reps=[1, 1, c // groups]), [n, c]) for x in (deviation, mean))
    if call["weight"] is not None:
        scale = mb.mul(x=scale, y=scope.cast(call.var("weight"), _F32))
    shift = mb.mul(x=mb.mul(x=mean, y=scale), y=scope.scalar(-1, _F32))
    if call["bias"] is not None:
        shift = mb.add(x=shift, y=scope.cast(call.var("bias"), _F32))
    shape = [n, c] + [1] * (len(call.shape) - 2)
    scale, shift = (scope.cast(scope.reshape(x, shape), call.dtype) for x in (scale, shift))
    return mb.add(x=mb.mul(x=call.var("x"), y=scale), y=shift)


def _row(call: Call, x: Any, i: int, shape: list[int]) -> Any:
    return call.scope.reshape(call.scope.slice(x, 0, i, i + 1), shape)


@emits(own.attention_partial.default)
def _attention_partial(call: Call) -> Any:
    scope, mb = call.scope, call.mb
    q, k, v = (scope.cast(call.var(name), _F32) for name in ("q", "k", "v"))
    scores = mb.matmul(x=mb.mul(x=q, y=scope.scalar(call["scale"], _F32)), y=k, transpose_y=True)
    last = len(call.shape) - 1
    top = mb.reduce_max(x=scores, axes=[last], keep_dims=True)
    weights = mb.exp(x=mb.sub(x=scores, y=top))
    total = mb.reduce_sum(x=weights, axes=[last], keep_dims=True)
    return mb.concat(values=[mb.matmul(x=weights, y=v), top, total], axis=last)


@emits(own.attention_finish.default)
def _attention_finish(call: Call) -> Any:
    values, _, total = _parts(call, "partial")
    return call.scope.cast(call.mb.real_div(x=values, y=total), call["dtype"])


def _parts(call: Call, name: str) -> list[Any]:
    """(values, row maximum, row sum) of partial attention."""
    x = call.operand(name, _F32)
    dim, end = len(x.shape) - 1, int(x.shape[-1])
    return [call.scope.slice(x, dim, lo, hi) for lo, hi in ((0, end - 2), (end - 2, end - 1), (end - 1, end))]
