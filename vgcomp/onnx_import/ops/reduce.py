"""Reductions and softmax."""

from __future__ import annotations

from typing import Any

import torch

from vgcomp.onnx_import.op import Emitter, Op, Table
from vgcomp.onnx_import.ops.layout import axes_of
from vgcomp.onnx_import.values import Value

aten = torch.ops.aten

TABLE = Table()


def _dims(op: Op) -> list[int] | None:
    """The reduced dims, sorted; None when the operator asks for none at all."""
    rank = len(op[0].shape)
    axes = axes_of(op, 1)
    if axes:
        return sorted(op.dim(a, rank) for a in axes)
    return None if op.attr_int("noop_with_empty_axes") else list(range(rank))


def _reduction(target: Any) -> Emitter:
    def emit(op: Op) -> Value:
        return _reduced(op, target, op[0])

    return emit


def _reduced(op: Op, target: Any, x: Value, *order: float) -> Value:
    dims, keep = _dims(op), bool(op.attr_int("keepdims", 1))
    if dims is None or not dims:
        return x
    kept = (keep,) if keep or order else ()
    return op.b.cast(op.b.call(target, x, *order, dims, *kept), x.dtype)


TABLE("ReduceSum")(_reduction(aten.sum.dim_IntList))
TABLE("ReduceMean")(_reduction(aten.mean.dim))
TABLE("ReduceMax")(_reduction(aten.amax.default))


@TABLE("ReduceMin")
def _reduce_min(op: Op) -> Value:
    flipped = _reduced(op, aten.amax.default, op.b.pointwise(aten.neg.default, op[0]))
    return op.b.pointwise(aten.neg.default, flipped)


@TABLE("ReduceL1", "ReduceL2")
def _reduce_norm(op: Op) -> Value:
    return _reduced(op, aten.linalg_vector_norm.default, op[0], 1.0 if op.node.op_type == "ReduceL1" else 2.0)


@TABLE("ReduceSumSquare")
def _reduce_sum_square(op: Op) -> Value:
    return _reduced(op, aten.sum.dim_IntList, op.b.call(aten.pow.Tensor_Scalar, op[0], 2))


@TABLE("ReduceLogSum")
def _reduce_log_sum(op: Op) -> Value:
    return op.b.pointwise(aten.log.default, _reduced(op, aten.sum.dim_IntList, op[0]))


@TABLE("ReduceProd")
def _reduce_prod(op: Op) -> Value:
    dims, keep = _dims(op), bool(op.attr_int("keepdims", 1))
    x = op[0]
    for dim in reversed(dims or []):
        x = op.b.cast(op.b.call(aten.prod.dim_int, x, dim, keep), x.dtype)
    return x


@TABLE("ReduceLogSumExp")
def _reduce_log_sum_exp(op: Op) -> Value:
    dims = _dims(op)
    if not dims:
        return op[0]
    result = _log_sum_exp(op, op[0], dims)
    if op.attr_int("keepdims", 1):
        return result
    return op.b.reshape(result, [n for i, n in enumerate(result.shape) if i not in dims])


def _log_sum_exp(op: Op, x: Value, dims: list[int]) -> Value:
    """log(sum(exp(x))) with the maximum taken out first; dims kept."""
    top = op.b.call(aten.amax.default, x, dims, True)
    powers = op.b.pointwise(aten.exp.default, op.b.pointwise(aten.sub.Tensor, x, top))
    total = op.b.call(aten.sum.dim_IntList, powers, dims, True)
    return op.b.pointwise(aten.add.Tensor, op.b.pointwise(aten.log.default, total), top)


@TABLE("Softmax")
def _softmax(op: Op) -> Value:
    return op.b.call(aten.softmax.int, op[0], op.dim(op.attr_int("axis", -1), len(op[0].shape)))


@TABLE("LogSoftmax")
def _log_softmax(op: Op) -> Value:
    axis = op.dim(op.attr_int("axis", -1), len(op[0].shape))
    return op.b.pointwise(aten.sub.Tensor, op[0], _log_sum_exp(op, op[0], [axis]))


@TABLE("GlobalAveragePool")
def _global_average(op: Op) -> Value:
    return op.b.call(aten.mean.dim, op[0], list(range(2, len(op[0].shape))), True)


@TABLE("GlobalMaxPool")
def _global_max(op: Op) -> Value:
    return op.b.call(aten.amax.default, op[0], list(range(2, len(op[0].shape))), True)
