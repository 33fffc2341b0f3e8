"""Norms, reductions, softmax, and the halves of them that loops are made of.

``vgcomp::`` ops accumulate in fp32 whatever the network's dtype, like their definitions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from vgcomp.backends.arguments import positive
from vgcomp.backends.onnx_export.emit_contract import transposed
from vgcomp.backends.onnx_export.emit_shape import filled, slice_of
from vgcomp.backends.onnx_export.registry import Call, emits
from vgcomp.backends.onnx_export.scope import Scope, Value
from vgcomp.ir import Combine

aten = torch.ops.aten
own = torch.ops.vgcomp

_F32 = torch.float32
_REDUCE = {aten.sum.dim_IntList: "ReduceSum", aten.mean.dim: "ReduceMean", aten.amax.default: "ReduceMax"}
_NORMS = {2.0: "ReduceL2", 1.0: "ReduceL1"}


def _reduce(scope: Scope, op_type: str, x: str, dims: Sequence[int], keepdim: bool) -> str:
    if op_type == "ReduceSum" or scope.opset >= 18:
        return scope.op(op_type, x, scope.ints(dims), keepdims=int(keepdim))
    return scope.op(op_type, x, axes=list(dims), keepdims=int(keepdim))


def _dims(call: Call, rank: int) -> list[int]:
    dims = call["dim"]
    if dims is None or dims == []:
        return list(range(rank))
    return [positive(d, rank) for d in ([dims] if isinstance(dims, int) else dims)]


@emits(*_REDUCE)
def _reduction(call: Call) -> str:
    x = call.value("self")
    if x.rank == 0:
        return call.operand("self", call.out.dtype)
    name = call.operand("self", call.out.dtype)
    return _reduce(call.scope, _REDUCE[call.target], name, _dims(call, x.rank), call["keepdim"])


@emits(aten.linalg_vector_norm.default)
def _vector_norm(call: Call) -> str:
    scope, x, order = call.scope, call.value("self"), float(call["ord"])
    name, dims = call.operand("self", call.out.dtype), _dims(call, x.rank)
    if order in _NORMS:
        return _reduce(scope, _NORMS[order], name, dims, call["keepdim"])
    size = scope.op("Abs", name)
    if math.isinf(order):
        return _reduce(scope, "ReduceMax" if order > 0 else "ReduceMin", size, dims, call["keepdim"])
    powers = scope.op("Pow", size, scope.scalar(order, call.out.dtype))
    total = _reduce(scope, "ReduceSum", powers, dims, call["keepdim"])
    return scope.op("Pow", total, scope.scalar(1 / order, call.out.dtype))


@emits(aten.softmax.int)
def _softmax(call: Call) -> str:
    x = call.value("self")
    return call.scope.op("Softmax", call.operand("self", call.out.dtype), axis=positive(call["dim"], x.rank))


@emits(aten.group_norm.default)
def _group_norm(call: Call) -> str:
    """InstanceNormalization of the groups; the reshapes are free and Mul and Add run in place."""
    scope, x, groups = call.scope, call.value("input"), call["num_groups"]
    ones = scope.constant(np.ones(groups, dtype=np.float32))
    zeros = scope.constant(np.zeros(groups, dtype=np.float32))
    if x.dtype != _F32:
        ones, zeros = scope.cast(ones, x.dtype), scope.cast(zeros, x.dtype)
    grouped = scope.reshape(x.name, [x.shape[0], groups, math.prod(x.shape[1:]) // groups])
    normal = scope.op("InstanceNormalization", grouped, ones, zeros, epsilon=float(call["eps"]))
    out = scope.reshape(normal, x.shape)
    for op_type, name in (("Mul", "weight"), ("Add", "bias")):
        parameter = call.optional(name)
        if parameter is not None:
            channels = scope.reshape(scope.as_dtype(parameter, x.dtype), [x.shape[1]] + [1] * (x.rank - 2))
            out = scope.op(op_type, out, channels)
    return out


@emits(aten.layer_norm.default)
def _layer_norm(call: Call) -> str:
    scope, x, shape = call.scope, call.value("input"), list(call["normalized_shape"])
    weight, bias = call.optional("weight"), call.optional("bias")
    inputs = [x.name, scope.as_dtype(weight, x.dtype) if weight else filled(scope, Value("", tuple(shape), x.dtype), 1)]
    if bias is not None:
        inputs.append(scope.as_dtype(bias, x.dtype))
    return scope.op("LayerNormalization", *inputs, axis=-len(shape), epsilon=float(call["eps"]))


@emits(aten.rms_norm.default)
def _rms_norm(call: Call) -> str:
    scope, x, weight = call.scope, call.value("input"), call.optional("weight")
    n = len(call["normalized_shape"])
    eps = torch.finfo(x.dtype).eps if call["eps"] is None else call["eps"]
    wide = scope.as_dtype(x, _F32) if x.dtype.itemsize < 4 else x.name
    dtype = _F32 if x.dtype.itemsize < 4 else x.dtype
    mean = _reduce(scope, "ReduceMean", scope.op("Mul", wide, wide), range(x.rank - n, x.rank), True)
    root = scope.op("Sqrt", scope.op("Add", mean, scope.scalar(eps, dtype)))
    normal = scope.op("Div", wide, root)
    out = normal if dtype == x.dtype else scope.cast(normal, x.dtype)
    return out if weight is None else scope.op("Mul", out, scope.as_dtype(weight, x.dtype))


@emits(own.group_moments.default)
def _group_moments(call: Call) -> str:
    scope, x, groups = call.scope, call.value("x"), call["groups"]
    n, count = x.shape[0], math.prod(x.shape[1:]) // groups
    flat = scope.reshape(scope.as_dtype(x, _F32), [n, groups, count])
    mean = _reduce(scope, "ReduceMean", flat, [2], True)
    squares = _reduce(scope, "ReduceSumSquare", scope.op("Sub", flat, mean), [2], False)
    counts = filled(scope, Value("", (1, n, groups), _F32), count)
    return scope.op("Concat", counts, *(scope.reshape(part, [1, n, groups]) for part in (mean, squares)), axis=0)


@emits(own.group_norm_apply.default)
def _group_norm_apply(call: Call) -> str:
    """y = x * scale + shift, both computed in fp32, one number a channel."""
    scope, x, groups = call.scope, call.value("x"), call["groups"]
    n, c = x.shape[0], x.shape[1]
    count, mean, squares = _parts(scope, call.value("moments").name, 3)
    variance = scope.op("Add", scope.op("Div", squares, count), scope.scalar(call["eps"], _F32))

    def per_channel(part: str) -> str:
        wide = scope.op("Expand", scope.reshape(part, [n, groups, 1]), scope.ints([n, groups, c // groups]))
        return scope.reshape(wide, [n, c])

    scale = per_channel(scope.op("Reciprocal", scope.op("Sqrt", variance)))
    weight, bias = call.optional("weight"), call.optional("bias")
    if weight is not None:
        scale = scope.op("Mul", scale, scope.as_dtype(weight, _F32))
    shift = scope.op("Neg", scope.op("Mul", per_channel(mean), scale))
    if bias is not None:
        shift = scope.op("Add", shift, scope.as_dtype(bias, _F32))
    shape = [n, c] + [1] * (x.rank - 2)
    scale, shift = (scope.reshape(part, shape) for part in (scale, shift))
    if x.dtype != _F32:
        scale, shift = scope.cast(scale, x.dtype), scope.cast(shift, x.dtype)
    return scope.op("Add", scope.op("Mul", x.name, scale), shift)


def _parts(scope: Scope, x: str, n: int) -> list[str]:
    """Rows 0 to n - 1 of a tensor, the first dimension dropped."""
    return [scope.op("Gather", x, scope.constant(np.array(i, dtype=np.int64)), axis=0) for i in range(n)]


@emits(own.attention_partial.default)
def _attention_partial(call: Call) -> str:
    scope, q, k, v = call.scope, call.value("q"), call.value("k"), call.value("v")
    queries, keys, values = (scope.as_dtype(x, _F32) for x in (q, k, v))
    scaled = scope.op("Mul", queries, scope.scalar(call["scale"], _F32))
    scores = scope.op("MatMul", scaled, transposed(scope, Value(keys, k.shape, _F32)))
    last = [len(call.out.shape) - 1]
    top = _reduce(scope, "ReduceMax", scores, last, True)
    weights = scope.op("Exp", scope.op("Sub", scores, top))
    total = _reduce(scope, "ReduceSum", weights, last, True)
    return scope.op("Concat", scope.op("MatMul", weights, values), top, total, axis=-1)


@emits(own.attention_finish.default)
def _attention_finish(call: Call) -> str:
    scope, x = call.scope, call.value("partial")
    values, _, total = _softmax_parts(scope, x)
    return scope.as_dtype(Value(scope.op("Div", values, total), call.out.shape, _F32), call["dtype"])


def _softmax_parts(scope: Scope, x: Value) -> list[str]:
    """(values, row maximum, row sum) of partial attention."""
    dim, end = x.rank - 1, x.shape[-1]
    bounds = ((0, end - 2), (end - 2, end - 1), (end - 1, end))
    return [slice_of(scope, x.name, x.rank, dim, lo, hi) for lo, hi in bounds]


@emits(own.merge_moments.default)
def _merge_moments(call: Call) -> str:
    return merge(call.scope, "moments", call.value("a"), call.value("b"))


@emits(own.merge_softmax.default)
def _merge_softmax(call: Call) -> str:
    return merge(call.scope, "softmax", call.value("a"), call.value("b"))


def merge(scope: Scope, combine: Combine, a: Value, b: Value) -> str:
    """``torch.ops.vgcomp.merge_<combine>(a, b)``."""
    return _merged_moments(scope, a, b) if combine == "moments" else _merged_softmax(scope, a, b)


def _merged_moments(scope: Scope, a: Value, b: Value) -> str:
    def op(op_type: str, *inputs: str) -> str:
        return scope.op(op_type, *inputs)

    (count_a, mean_a, squares_a), (count_b, mean_b, squares_b) = (_parts(scope, x.name, 3) for x in (a, b))
    count = op("Add", count_a, count_b)
    delta = op("Sub", mean_b, mean_a)
    share = op("Div", count_b, count)
    mean = op("Add", mean_a, op("Mul", delta, share))
    between = op("Mul", op("Mul", delta, delta), op("Mul", count_a, share))
    squares = op("Add", op("Add", squares_a, squares_b), between)
    rows = [scope.reshape(part, [1, *a.shape[1:]]) for part in (count, mean, squares)]
    return scope.op("Concat", *rows, axis=0)


def _merged_softmax(scope: Scope, a: Value, b: Value) -> str:
    (values_a, top_a, sum_a), (values_b, top_b, sum_b) = (_softmax_parts(scope, x) for x in (a, b))
    top = scope.op("Max", top_a, top_b)
    factor_a = scope.op("Exp", scope.op("Sub", top_a, top))
    factor_b = scope.op("Exp", scope.op("Sub", top_b, top))

    def weighted(left: str, right: str) -> str:
        return scope.op("Add", scope.op("Mul", left, factor_a), scope.op("Mul", right, factor_b))

    return scope.op("Concat", weighted(values_a, values_b), top, weighted(sum_a, sum_b), axis=-1)
