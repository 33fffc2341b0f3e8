"""Pointwise ops."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from vgcomp import ir
from vgcomp.backends.coreml.registry import EMITTERS, Call, Emitter, emits

aten = torch.ops.aten
prims = torch.ops.prims

_UNARY = {
    aten.abs.default: "abs",
    aten.exp.default: "exp",
    aten.sin.default: "sin",
    aten.cos.default: "cos",
    aten.sqrt.default: "sqrt",
    aten.erf.default: "erf",
    aten.tanh.default: "tanh",
    aten.sigmoid.default: "sigmoid",
    aten.relu.default: "relu",
    aten.silu.default: "silu",
    aten.floor.default: "floor",
    aten.round.default: "round",
}

_BINARY = {
    aten.mul.Tensor: "mul",
    aten.div.Tensor: "real_div",
    aten.maximum.default: "maximum",
    aten.minimum.default: "minimum",
}

_COMPARE = {aten.eq.Scalar: "equal", aten.gt.Scalar: "greater", aten.lt.Scalar: "less"}

#: Added where Core ML's op adds something by itself: what its dtypes take for nothing.
_NOTHING = {torch.float16: 0.0, torch.float32: 1e-45}


def _unary(op: str) -> Emitter:
    return lambda call: getattr(call.mb, op)(x=call.operand("self", call.dtype))


def _binary(op: str) -> Emitter:
    def emit(call: Call) -> Any:
        return getattr(call.mb, op)(x=call.operand("self", call.dtype), y=call.operand("other", call.dtype))

    return emit


def _compare(op: str) -> Emitter:
    def emit(call: Call) -> Any:
        dtype = ir.val(call.node_of("self")).dtype
        dtype = torch.int32 if dtype == torch.bool else dtype
        if not dtype.is_floating_point and float(call["other"]) != int(call["other"]):
            dtype = torch.float32
        return getattr(call.mb, op)(x=call.operand("self", dtype), y=call.operand("other", dtype))

    return emit


EMITTERS.update({target: _unary(op) for target, op in _UNARY.items()})
EMITTERS.update({target: _binary(op) for target, op in _BINARY.items()})
EMITTERS.update({target: _compare(op) for target, op in _COMPARE.items()})


@emits(aten.add.Tensor, aten.sub.Tensor)
def _add(call: Call) -> Any:
    mb, dtype = call.mb, call.dtype
    other = call.operand("other", dtype)
    if call["alpha"] != 1 and isinstance(call["other"], fx.Node):
        other = mb.mul(x=other, y=call.scope.scalar(call["alpha"], dtype))
    elif call["alpha"] != 1:
        other = call.scope.scalar(call["other"] * call["alpha"], dtype)
    op = mb.add if call.target is aten.add.Tensor else mb.sub
    return op(x=call.operand("self", dtype), y=other)


@emits(aten.neg.default)
def _neg(call: Call) -> Any:
    return call.mb.mul(x=call.operand("self", call.dtype), y=call.scope.scalar(-1, call.dtype))


@emits(aten.where.self)
def _where(call: Call) -> Any:
    condition = call.operand("condition", torch.bool)
    return call.mb.select(cond=condition, a=call.operand("self", call.dtype), b=call.operand("other", call.dtype))


@emits(aten.pow.Tensor_Scalar)
def _pow(call: Call) -> Any:
    x, exponent = call.operand("self", call.dtype), call["exponent"]
    if exponent == 2:
        return call.mb.mul(x=x, y=x)
    if exponent == 0.5:
        return call.mb.sqrt(x=x)
    return call.mb.pow(x=x, y=call.scope.scalar(exponent, call.dtype))


@emits(aten.log.default)
def _log(call: Call) -> Any:
    return call.mb.log(x=call.operand("self", call.dtype), epsilon=call.scope.scalar(_NOTHING[call.dtype], call.dtype))


@emits(aten.rsqrt.default)
def _rsqrt(call: Call) -> Any:
    epsilon = call.scope.scalar(_NOTHING[call.dtype], call.dtype)
    return call.mb.rsqrt(x=call.operand("self", call.dtype), epsilon=epsilon)


@emits(aten.reciprocal.default)
def _reciprocal(call: Call) -> Any:
    # Core ML's inverse adds 1e-4 to its operand.
    return call.mb.real_div(x=call.scope.scalar(1, call.dtype), y=call.operand("self", call.dtype))


@emits(aten.leaky_relu.default)
def _leaky_relu(call: Call) -> Any:
    return call.mb.leaky_relu(x=call.var("self"), alpha=call.scope.scalar(call["negative_slope"], call.dtype))


@emits(aten.clamp.default)
def _clamp(call: Call) -> Any:
    return _clip(call, call["min"], call["max"])


@emits(aten.hardtanh.default)
def _hardtanh(call: Call) -> Any:
    return _clip(call, call["min_val"], call["max_val"])


def _clip(call: Call, low: float | None, high: float | None) -> Any:
    x = call.operand("self", call.dtype)
    if low is not None:
        x = call.mb.maximum(x=x, y=call.scope.scalar(low, call.dtype))
    if high is not None:
        x = call.mb.minimum(x=x, y=call.scope.scalar(high, call.dtype))
    return x


@emits(aten.gelu.default)
def _gelu(call: Call) -> Any:
    mode = "TANH_APPROXIMATION" if call["approximate"] == "tanh" else "EXACT"
    return call.mb.gelu(x=call.var("self"), mode=mode)


@emits(aten.softplus.default)
def _softplus(call: Call) -> Any:
    # torch returns x itself beyond the threshold; log(1 + exp(x)) rounds to x there.
    x, beta = call.var("self"), call["beta"]
    if beta == 1:
        return call.mb.softplus(x=x)
    factor = call.scope.scalar(beta, call.dtype)
    return call.mb.real_div(x=call.mb.softplus(x=call.mb.mul(x=x, y=factor)), y=factor)


@emits(aten.clone.default)
def _clone(call: Call) -> Any:
    return call.var("self")


@emits(prims.convert_element_type.default)
def _convert(call: Call) -> Any:
    return call.scope.cast(call.var("a"), call["dtype"])
