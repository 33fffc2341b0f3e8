"""Operators that pick elements by index, of one axis or all."""

from __future__ import annotations

import itertools
import math

import torch

from vgcomp.errors import ModelError
from vgcomp.onnx_import.op import Op, Table
from vgcomp.onnx_import.values import Constant, Value

aten = torch.ops.aten

TABLE = Table()


@TABLE("Gather")
def _gather(op: Op) -> Value:
    x, indices = op[0], op[1]
    axis = op.dim(op.attr_int("axis"), len(x.shape))
    if isinstance(indices, Constant):
        return _gather_known(op, x, axis, indices.tensor)
    if axis == 0 and len(x.shape) == 2 and len(indices.shape) >= 1:
        return op.b.call(aten.embedding.default, x, indices)
    flat = op.b.reshape(indices, [math.prod(indices.shape)])
    picked = op.b.call(aten.index_select.default, x, axis, flat)
    return op.b.reshape(picked, [*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _gather_known(op: Op, x: Value, axis: int, indices: torch.Tensor) -> Value:
    """Known indices: a slice where they are evenly spaced, so that axes stay visible; a selection otherwise."""
    size = x.shape[axis]
    if indices.numel() and not -size <= int(indices.min()) <= int(indices.max()) < size:
        raise ModelError(f"its indices leave the range of axis {axis}, which has {size} elements")
    flat = [int(i) % size for i in indices.reshape(-1).tolist()] if size else []
    shape = [*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]]
    step = flat[1] - flat[0] if len(flat) > 1 else 1
    if flat and step > 0 and all(b - a == step for a, b in itertools.pairwise(flat)):
        return op.b.reshape(op.b.slice(x, axis, flat[0], flat[-1] + 1, step), shape)
    where = Constant(torch.tensor(flat, dtype=torch.int64))
    if axis == 0 and len(x.shape) == 2 and indices.dim() > 1:
        return op.b.call(aten.embedding.default, x, Constant(where.tensor.reshape(indices.shape)))
    return op.b.reshape(op.b.call(aten.index_select.default, x, axis, where), shape)


@TABLE("GatherElements")
def _gather_elements(op: Op) -> Value:
    x = op[0]
    axis = op.dim(op.attr_int("axis"), len(x.shape))
    where = op.known(1)
    return op.b.call(aten.gather.default, x, axis, Constant(torch.where(where < 0, where + x.shape[axis], where)))


@TABLE("OneHot")
def _one_hot(op: Op) -> Value:
    depth, axis = int(op.scalar(1)), op.attr_int("axis", -1)
    off, on = op.known(2).reshape(-1).unbind()
    hot = torch.nn.functional.one_hot(op.known(0).long() % depth, depth).bool()
    result = torch.where(hot, on, off)
    return Constant(result if axis == -1 else result.movedim(-1, axis))


@TABLE("NonZero")
def _non_zero(op: Op) -> Value:
    return Constant(torch.nonzero(op.known(0)).t().contiguous())


@TABLE("CumSum")
def _cum_sum(op: Op) -> Value:
    if op.attr_int("exclusive") or op.attr_int("reverse"):
        raise ModelError("its exclusive and reverse forms are not supported")
    x = op.known(0)
    return Constant(torch.cumsum(x, op.dim(int(op.scalar(1)), x.dim()), dtype=x.dtype))


@TABLE("ArgMax", "ArgMin")
def _arg_extreme(op: Op) -> Value:
    pick = torch.argmax if op.node.op_type == "ArgMax" else torch.argmin
    return Constant(pick(op.known(0), op.attr_int("axis"), keepdim=bool(op.attr_int("keepdims", 1))))


@TABLE("Trilu")
def _trilu(op: Op) -> Value:
    x, offset = op[0], int(op.scalar(1)) if op.has(1) else 0
    shape = x.shape[-2:]
    upper = bool(op.attr_int("upper", 1))
    ones = torch.ones(shape, dtype=torch.bool)
    keep = Constant(torch.triu(ones, offset) if upper else torch.tril(ones, offset))
    return op.b.select(keep, x, op.b.constant(0, x.dtype))
