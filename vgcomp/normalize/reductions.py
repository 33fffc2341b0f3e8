"""Norms and reductions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from vgcomp.normalize.builder import Builder, Value
from vgcomp.normalize.call import Call, Table, shape_of, sorted_dims

aten = torch.ops.aten


def group_norm(b: Builder, call: Call) -> Value:
    return b.op(aten.group_norm.default, call.x, call["num_groups"], call["weight"], call["bias"], call["eps"])


def instance_norm(b: Builder, call: Call) -> Value:
    """A group norm with a group a channel."""
    if not call["use_input_stats"]:
        raise call.refuse("normalises by running statistics: use a batch norm")
    channels = shape_of(call.x)[1]
    return b.op(aten.group_norm.default, call.x, channels, call["weight"], call["bias"], call["eps"])


def layer_norm(b: Builder, call: Call) -> Value:
    shape = list(call["normalized_shape"])
    return b.op(aten.layer_norm.default, call.x, shape, call["weight"], call["bias"], call["eps"])


def rms_norm(b: Builder, call: Call) -> Value:
    """An eps left out is the machine's."""
    eps = call["eps"]
    given = torch.finfo(call.dtype).eps if eps is None else eps
    return b.op(aten.rms_norm.default, call.x, list(call["normalized_shape"]), call["weight"], given)


def batch_norm(b: Builder, call: Call) -> Value:
    """With fixed statistics: x · scale + shift a channel, folded when the numbers are at hand."""
    if call["training"]:
        raise call.refuse("is in training mode: call module.eval() before the capture")
    mean, var, eps = call["running_mean"], call["running_var"], call["eps"]
    scale = _pointwise(b, aten.rsqrt.default, _pointwise(b, aten.add.Tensor, var, eps))
    if call["weight"] is not None:
        scale = _pointwise(b, aten.mul.Tensor, scale, call["weight"])
    shift = _pointwise(b, aten.neg.default, _pointwise(b, aten.mul.Tensor, mean, scale))
    if call["bias"] is not None:
        shift = _pointwise(b, aten.add.Tensor, shift, call["bias"])
    sizes = [-1] + [1] * (len(shape_of(call.x)) - 2)
    scaled = b.pointwise(aten.mul.Tensor, call.x, _column(b, scale, sizes))
    return b.pointwise(aten.add.Tensor, scaled, _column(b, shift, sizes))


def _pointwise(b: Builder, target: Any, *args: Any) -> Value:
    """Computed now when all arguments are constants, by the graph otherwise."""
    if any(isinstance(arg, fx.Node) for arg in args):
        return b.pointwise(target, *args)
    result: Tensor = target(*args)
    return result


def _column(b: Builder, value: Value, sizes: list[int]) -> Value:
    """A vector of channels against (N, C, *)."""
    shape = [shape_of(value)[0], *sizes[1:]]
    return value.reshape(shape) if isinstance(value, Tensor) else b.reshape(value, shape)


def reduction(target: Any) -> Any:
    """A handler for mean, sum and amax: (x, sorted dims, keepdim)."""

    def handler(b: Builder, call: Call) -> Value:
        names = [argument.name for argument in call.target._schema.arguments]
        dims = sorted_dims(call["dim"] if "dim" in names else None, len(shape_of(call.x)))
        keep = call["keepdim"] if "keepdim" in names else False
        x = b.cast(call.x, call.dtype) if target is not aten.amax.default else b.node(call.x)
        return b.op(target, x, dims, True) if keep else b.op(target, x, dims)

    return handler


def adaptive_average(b: Builder, call: Call) -> Value:
    """Pooling down to one element is a mean."""
    if any(size != 1 for size in call["output_size"]):
        raise call.refuse("pools to more than one element: use an average pool with a fixed kernel")
    rank = len(shape_of(call.x))
    return b.op(aten.mean.dim, call.x, list(range(rank - len(call["output_size"]), rank)), True)


def vector_norm(b: Builder, call: Call) -> Value:
    x = b.node(call.x)
    order = call["ord"] if call.target is aten.linalg_vector_norm.default else (call["p"] or 2)
    dims = sorted_dims(call["dim"], len(shape_of(x)))
    return b.op(aten.linalg_vector_norm.default, b.cast(x, call.dtype), float(order), dims, bool(call["keepdim"]))


TABLE: Table = {
    aten.group_norm.default: group_norm,
    aten.instance_norm.default: instance_norm,
    aten.layer_norm.default: layer_norm,
    aten.rms_norm.default: rms_norm,
    aten.batch_norm.default: batch_norm,
    aten.mean.dim: reduction(aten.mean.dim),
    aten.mean.default: reduction(aten.mean.dim),
    aten.sum.dim_IntList: reduction(aten.sum.dim_IntList),
    aten.sum.default: reduction(aten.sum.dim_IntList),
    aten.amax.default: reduction(aten.amax.default),
    aten.adaptive_avg_pool2d.default: adaptive_average,
    aten.adaptive_avg_pool3d.default: adaptive_average,
    aten.linalg_vector_norm.default: vector_norm,
    aten.norm.ScalarOpt_dim: vector_norm,
}
