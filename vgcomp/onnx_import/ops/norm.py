"""Normalisation operators."""

from __future__ import annotations

import math

import torch

from vgcomp.errors import ModelError
from vgcomp.onnx_import.op import Op, Table
from vgcomp.onnx_import.values import Constant, Value

aten = torch.ops.aten

TABLE = Table()


@TABLE("InstanceNormalization")
def _instance_norm(op: Op) -> Value:
    """A group norm with a group a channel."""
    return op.b.call(
        aten.group_norm.default, op[0], op[0].shape[1], op[1], op[2], round_eps(op.attr_float("epsilon", 1e-5))
    )


@TABLE("GroupNormalization")
def _group_norm(op: Op) -> Value:
    """Scale and bias are a channel's from operator set 21 on, a group's before."""
    x, weight, bias = op[0], op[1], op[2]
    groups, channels = op.attr_int("num_groups"), op[0].shape[1]
    if op.opset < 21:
        weight, bias = (_per_channel(op, v, groups, channels) for v in (weight, bias))
    return op.b.call(aten.group_norm.default, x, groups, weight, bias, round_eps(op.attr_float("epsilon", 1e-5)))


def _per_channel(op: Op, value: Value, groups: int, channels: int) -> Value:
    each = op.b.expand(op.b.reshape(value, [groups, 1]), [groups, channels // groups])
    return op.b.reshape(each, [channels])


@TABLE("LayerNormalization")
def _layer_norm(op: Op) -> Value:
    x = op[0]
    if any(out.uses() or out.is_graph_output() for out in op.node.outputs[1:]):
        raise ModelError("its outputs Mean and InvStdDev are not supported")
    axis = op.dim(op.attr_int("axis", -1), len(x.shape))
    shape = list(x.shape[axis:])
    weight = op.b.reshape(op.b.expand(op[1], shape), shape)
    bias = op.b.reshape(op.b.expand(op[2], shape), shape) if op.has(2) else None
    return op.b.call(aten.layer_norm.default, x, shape, weight, bias, round_eps(op.attr_float("epsilon", 1e-5)))


@TABLE("RMSNormalization", "SimplifiedLayerNormalization")
def _rms_norm(op: Op) -> Value:
    x = op[0]
    axis = op.dim(op.attr_int("axis", -1), len(x.shape))
    shape = list(x.shape[axis:])
    return op.b.call(
        aten.rms_norm.default, x, shape, op.b.expand(op[1], shape), round_eps(op.attr_float("epsilon", 1e-5))
    )


@TABLE("BatchNormalization")
def _batch_norm(op: Op) -> Value:
    """y = x * scale + shift, both a channel's; folded here when their numbers are at hand."""
    if op.attr_int("training_mode"):
        raise ModelError("it is in training mode; export the model in evaluation mode")
    x = op[0]
    numbers = [op.b.peek(op[i]) for i in range(1, 5)]
    weight, bias, mean, variance = (Constant(n) if n is not None else op[i + 1] for i, n in enumerate(numbers))
    root = op.b.pointwise(aten.rsqrt.default, op.b.add(variance, round_eps(op.attr_float("epsilon", 1e-5))))
    scale = op.b.binary(aten.mul.Tensor, weight, root)
    shift = op.b.pointwise(aten.sub.Tensor, bias, op.b.binary(aten.mul.Tensor, mean, scale))
    column = [x.shape[1], *[1] * (len(x.shape) - 2)]
    scaled = op.b.pointwise(aten.mul.Tensor, x, op.b.reshape(op.b.cast(scale, x.dtype), column))
    return op.b.pointwise(aten.add.Tensor, scaled, op.b.reshape(op.b.cast(shift, x.dtype), column))


@TABLE("LpNormalization")
def _lp_norm(op: Op) -> Value:
    axis = op.dim(op.attr_int("axis", -1), len(op[0].shape))
    length = op.b.call(aten.linalg_vector_norm.default, op[0], float(op.attr_int("p", 2)), [axis], True)
    return op.b.pointwise(aten.div.Tensor, op[0], length)


@TABLE("MeanVarianceNormalization")
def _mean_variance(op: Op) -> Value:
    axes = sorted(op.dim(a, len(op[0].shape)) for a in op.attr_ints("axes") or [0, 2, 3])
    centred = op.b.pointwise(aten.sub.Tensor, op[0], op.b.call(aten.mean.dim, op[0], axes, True))
    variance = op.b.call(aten.mean.dim, op.b.call(aten.pow.Tensor_Scalar, centred, 2), axes, True)
    return op.b.pointwise(aten.div.Tensor, centred, op.b.add(op.b.pointwise(aten.sqrt.default, variance), 1e-9))


def round_eps(value: float) -> float:
    """The decimal an epsilon was written as: ONNX stores it in fp32, 1e-6 arrives as 9.99999997e-07."""
    if value == 0 or not math.isfinite(value):
        return value
    short = float(f"{value:.6g}")
    return short if torch.tensor(short, dtype=torch.float32).item() == value else value
