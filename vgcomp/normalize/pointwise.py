"""Pointwise ops, casts and copies: few spellings, scalars as Python numbers, casts explicit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from vgcomp.normalize.builder import Builder, Value
from vgcomp.normalize.call import Call, Table, dtype_of, shape_of

aten = torch.ops.aten


def same(target: Any) -> Any:
    """A handler that keeps the arguments (trailing defaults dropped) and calls ``target``."""

    def handler(b: Builder, call: Call) -> Value:
        return b.pointwise(target, *call.args, **call.kwargs)

    return handler


def drop(b: Builder, call: Call) -> Value:
    """alias, detach, dropout in evaluation: the input itself."""
    return call.x  # type: ignore[no-any-return]


def dropout(b: Builder, call: Call) -> Value:
    if call["train"] and call["p"] != 0:
        raise call.refuse("is active: call module.eval() before the capture")
    return call.x  # type: ignore[no-any-return]


def clone(b: Builder, call: Call) -> Value:
    """A copy matters only where it changes the layout."""
    if call["memory_format"] is torch.contiguous_format:
        return b.contiguous(call.x)
    return call.x  # type: ignore[no-any-return]


def cast(b: Builder, call: Call) -> Value:
    return b.cast(call.x, call.dtype)


def add_sub(b: Builder, call: Call) -> Value:
    """x ± alpha·y, the product spelled out."""
    target = aten.add.Tensor if call.target in (aten.add.Tensor, aten.add.Scalar) else aten.sub.Tensor
    other, alpha = call["other"], call["alpha"]
    if alpha in (1, None):
        return b.pointwise(target, call.x, other)
    if not isinstance(other, (fx.Node, Tensor)):
        return b.pointwise(target, call.x, other * alpha)
    return b.pointwise(target, call.x, b.pointwise(aten.mul.Tensor, other, alpha))


def rsub(b: Builder, call: Call) -> Value:
    """y - alpha·x."""
    x = call.x if call["alpha"] in (1, None) else b.pointwise(aten.mul.Tensor, call.x, call["alpha"])
    return b.pointwise(aten.sub.Tensor, call["other"], x)


def binary(target: Any) -> Any:
    """A handler for the Tensor and Scalar overloads of one binary op."""

    def handler(b: Builder, call: Call) -> Value:
        return b.pointwise(target, call.x, call["other"])

    return handler


def div(b: Builder, call: Call) -> Value:
    """Division; with a rounding mode the quotient is rounded by an op of its own."""
    quotient = b.pointwise(aten.div.Tensor, call.x, call["other"])
    mode = call.kwargs.get("rounding_mode")
    if mode is None:
        return quotient
    if mode == "floor":
        return b.cast(b.pointwise(aten.floor.default, quotient), call.dtype)
    raise call.refuse(f"with rounding_mode={mode!r} is not supported; use a true or a floor division")


def power(exponent: float | int) -> Any:
    """A handler for square and the like."""

    def handler(b: Builder, call: Call) -> Value:
        return b.pointwise(aten.pow.Tensor_Scalar, call.x, exponent)

    return handler


def clamp(b: Builder, call: Call) -> Value:
    """clamp, clamp_min, clamp_max: (x, min, max), either may be None."""
    names = [argument.name for argument in call.target._schema.arguments]
    low = call["min"] if "min" in names else None
    high = call["max"] if "max" in names else None
    return (
        b.pointwise(aten.clamp.default, call.x, low)
        if high is None
        else b.pointwise(aten.clamp.default, call.x, low, high)
    )


def where(b: Builder, call: Call) -> Value:
    """A choice known beforehand is made now."""
    condition, x, y = call["condition"], call["self"], call["other"]
    chosen = None
    if isinstance(condition, Tensor) and bool(condition.all()):
        chosen = x
    if isinstance(condition, Tensor) and not bool(condition.any()):
        chosen = y
    if chosen is not None:
        return b.expand(b.cast(chosen, call.dtype), call.shape)
    return b.pointwise(aten.where.self, b.node(condition), _tensor(x, call), _tensor(y, call))


def masked_fill(b: Builder, call: Call) -> Value:
    mask, value = call["mask"], call["value"]
    fill = value if isinstance(value, (fx.Node, Tensor)) else torch.tensor(value, dtype=dtype_of(call.x))
    return b.op(aten.where.self, mask, b.node(fill), b.node(call.x))


def glu(b: Builder, call: Call) -> Value:
    """The first half times the sigmoid of the second."""
    dim = call["dim"]
    half = shape_of(call.x)[dim] // 2
    gate = b.pointwise(aten.sigmoid.default, b.slice(call.x, dim, half, 2 * half))
    return b.pointwise(aten.mul.Tensor, b.slice(call.x, dim, 0, half), gate)


def addcmul(b: Builder, call: Call) -> Value:
    product = b.pointwise(aten.mul.Tensor, call["tensor1"], call["tensor2"])
    scaled = product if call["value"] == 1 else b.pointwise(aten.mul.Tensor, product, call["value"])
    return b.pointwise(aten.add.Tensor, call.x, scaled)


def hardsigmoid(b: Builder, call: Call) -> Value:
    """clamp(x + 3, 0, 6) / 6."""
    clamped = b.pointwise(aten.clamp.default, b.pointwise(aten.add.Tensor, call.x, 3), 0, 6)
    return b.pointwise(aten.div.Tensor, clamped, 6)


def hardswish(b: Builder, call: Call) -> Value:
    """x · clamp(x + 3, 0, 6) / 6."""
    clamped = b.pointwise(aten.clamp.default, b.pointwise(aten.add.Tensor, call.x, 3), 0, 6)
    return b.pointwise(aten.div.Tensor, b.pointwise(aten.mul.Tensor, call.x, clamped), 6)


def mish(b: Builder, call: Call) -> Value:
    """x · tanh(softplus(x))."""
    squashed = b.pointwise(aten.tanh.default, b.pointwise(aten.softplus.default, call.x))
    return b.pointwise(aten.mul.Tensor, call.x, squashed)


def _tensor(value: Any, call: Call) -> Any:
    """A scalar branch of where as a zero-dim tensor."""
    return value if isinstance(value, (fx.Node, Tensor)) else torch.tensor(value, dtype=call.dtype)


_KEPT = (
    aten.neg, aten.abs, aten.exp, aten.log, aten.sin, aten.cos, aten.sqrt, aten.rsqrt, aten.reciprocal,
    aten.erf, aten.tanh, aten.sigmoid, aten.relu, aten.leaky_relu, aten.hardtanh, aten.silu, aten.gelu,
    aten.softplus, aten.floor, aten.round,
)  # fmt: skip

TABLE: Table = {
    **{packet.default: same(packet.default) for packet in _KEPT},
    **dict.fromkeys(
        (aten.alias.default, aten.detach.default, aten.detach_.default, aten.lift_fresh.default,
         aten.lift_fresh_copy.default),
        drop,
    ),
    aten.dropout.default: dropout,
    aten.feature_dropout.default: dropout,
    aten.clone.default: clone,
    aten.contiguous.default: lambda b, call: b.contiguous(call.x),
    **dict.fromkeys(
        (aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.to.other, aten.type_as.default,
         aten._to_copy.default, torch.ops.prims.convert_element_type.default),
        cast,
    ),
    **dict.fromkeys((aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar), add_sub),
    aten.rsub.Scalar: rsub,
    aten.rsub.Tensor: rsub,
    aten.mul.Tensor: binary(aten.mul.Tensor),
    aten.mul.Scalar: binary(aten.mul.Tensor),
    aten.div.Tensor: div,
    aten.div.Scalar: div,
    aten.div.Tensor_mode: div,
    aten.div.Scalar_mode: div,
    aten.maximum.default: binary(aten.maximum.default),
    aten.minimum.default: binary(aten.minimum.default),
    aten.eq.Scalar: binary(aten.eq.Scalar),
    aten.gt.Scalar: binary(aten.gt.Scalar),
    aten.lt.Scalar: binary(aten.lt.Scalar),
    aten.square.default: power(2),
    aten.pow.Tensor_Scalar: same(aten.pow.Tensor_Scalar),
    **dict.fromkeys((aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default), clamp),
    aten.where.self: where,
    aten.where.ScalarOther: where,
    aten.where.ScalarSelf: where,
    aten.masked_fill.Scalar: masked_fill,
    aten.masked_fill.Tensor: masked_fill,
    aten.glu.default: glu,
    aten.addcmul.default: addcmul,
    aten.hardsigmoid.default: hardsigmoid,
    aten.hardswish.default: hardswish,
    aten.mish.default: mish,
}  # fmt: skip
