"""Pointwise ops and casts, evaluated in fp32 for the 16-bit floats as torch does."""

from __future__ import annotations

import math
from typing import Any

import torch

from vgcomp.backends.tvm import vector_math
from vgcomp.backends.tvm.registry import DTYPES, EMITTERS, Call, Element, Emitter, cast, emits, opmath

aten = torch.ops.aten
prims = torch.ops.prims


def _math(name: str) -> Any:
    from tvm import tirx

    return getattr(tirx, name)


def sigmoid(x: Any, call: Call) -> Any:
    """1 / (1 + exp(-x))."""
    return call.scalar(1) / (call.scalar(1) + vector_math.exp(-x, call.kernel.device))


def log1p(x: Any, call: Call) -> Any:
    """log(1 + x); Metal has none that is exact for small x."""
    return _math("log")(call.scalar(1) + x) if call.kernel.device == "metal" else _math("log1p")(x)


def clip(x: Any, call: Call, low: float | None, high: float | None) -> Any:
    """``x`` within bounds, either of which may be None."""
    if low is not None:
        x = _math("max")(x, call.scalar(low))
    return x if high is None else _math("min")(x, call.scalar(high))


def _gelu(x: Any, call: Call) -> Any:
    if call["approximate"] == "tanh":
        inner = (x + x * x * x * call.scalar(0.044715)) * call.scalar(math.sqrt(2 / math.pi))
        gate = _math("tanh")(inner)
    else:
        gate = vector_math.erf(x * call.scalar(math.sqrt(0.5)), call.kernel.device)
    return x * call.scalar(0.5) * (call.scalar(1) + gate)


def _round(x: Any, call: Call) -> Any:
    if call.kernel.device == "metal":
        return _math("call_pure_extern")(DTYPES[call.wide], "rint", x)
    return _math("nearbyint")(x)


def _softplus(x: Any, call: Call) -> Any:
    beta = call.scalar(call["beta"])
    soft = log1p(vector_math.exp(x * beta, call.kernel.device), call) / beta
    return _math("if_then_else")(x * beta > call.scalar(call["threshold"]), x, soft)


def _pow(x: Any, call: Call) -> Any:
    exponent = call["exponent"]
    if exponent == 2:
        return x * x
    if exponent == 0.5:
        return _math("sqrt")(x)
    return _math("power")(x, call.scalar(exponent))


#: (x, call) -> value, x in the dtype to compute in.
_UNARY: dict[Any, Any] = {
    aten.neg.default: lambda x, call: -x,
    aten.abs.default: lambda x, call: _math("abs")(x),
    aten.exp.default: lambda x, call: vector_math.exp(x, call.kernel.device),
    aten.log.default: lambda x, call: _math("log")(x),
    aten.sin.default: lambda x, call: _math("sin")(x),
    aten.cos.default: lambda x, call: _math("cos")(x),
    aten.sqrt.default: lambda x, call: _math("sqrt")(x),
    aten.rsqrt.default: lambda x, call: call.scalar(1) / _math("sqrt")(x),
    aten.reciprocal.default: lambda x, call: call.scalar(1) / x,
    aten.erf.default: lambda x, call: vector_math.erf(x, call.kernel.device),
    aten.tanh.default: lambda x, call: _math("tanh")(x),
    aten.sigmoid.default: sigmoid,
    aten.relu.default: lambda x, call: _math("max")(x, call.scalar(0)),
    aten.silu.default: lambda x, call: x * sigmoid(x, call),
    aten.floor.default: lambda x, call: _math("floor")(x) if call.dtype.is_floating_point else x,
    # torch rounds halves to even.
    aten.round.default: lambda x, call: _round(x, call) if call.dtype.is_floating_point else x,
    aten.gelu.default: _gelu,
    aten.softplus.default: _softplus,
    aten.leaky_relu.default: lambda x, call: _math("if_then_else")(
        x > call.scalar(0), x, x * call.scalar(call["negative_slope"])
    ),
    aten.clamp.default: lambda x, call: clip(x, call, call["min"], call["max"]),
    aten.hardtanh.default: lambda x, call: clip(x, call, call["min_val"], call["max_val"]),
    aten.pow.Tensor_Scalar: _pow,
}

_BINARY: dict[Any, Any] = {
    aten.mul.Tensor: lambda a, b: a * b,
    aten.div.Tensor: lambda a, b: a / b,
    aten.maximum.default: _math("max"),
    aten.minimum.default: _math("min"),
}

_COMPARE: dict[Any, Any] = {
    aten.eq.Scalar: lambda a, b: a == b,
    aten.gt.Scalar: lambda a, b: a > b,
    aten.lt.Scalar: lambda a, b: a < b,
}


def _unary(rule: Any) -> Emitter:
    def emit(call: Call) -> Element:
        return lambda *i: rule(call.element("self", i, call.wide), call)

    return emit


def _binary(rule: Any) -> Emitter:
    def emit(call: Call) -> Element:
        return lambda *i: rule(call.element("self", i, call.wide), call.element("other", i, call.wide))

    return emit


def _compare(rule: Any) -> Emitter:
    def emit(call: Call) -> Element:
        dtype = opmath(torch.result_type(torch.empty((1,), dtype=call.value("self").dtype), call["other"]))
        return lambda *i: rule(call.element("self", i, dtype), call.element("other", i, dtype))

    return emit


EMITTERS.update({target: _unary(rule) for target, rule in _UNARY.items()})
EMITTERS.update({target: _binary(rule) for target, rule in _BINARY.items()})
EMITTERS.update({target: _compare(rule) for target, rule in _COMPARE.items()})


@emits(aten.add.Tensor, aten.sub.Tensor)
def _add(call: Call) -> Element:
    sign = 1 if call.target is aten.add.Tensor else -1
    factor = call["alpha"] * sign

    def element(*i: Any) -> Any:
        a, b = call.element("self", i, call.wide), call.element("other", i, call.wide)
        if factor == 1:
            return a + b
        return a - b if factor == -1 else a + b * call.scalar(factor)

    return element


@emits(aten.where.self)
def _where(call: Call) -> Element:
    def element(*i: Any) -> Any:
        a, b = call.element("self", i, call.dtype), call.element("other", i, call.dtype)
        return _math("if_then_else")(call.element("condition", i, torch.bool), a, b)

    return element


@emits(aten.clone.default)
def _clone(call: Call) -> Element:
    return call.value("self")


@emits(prims.convert_element_type.default)
def _convert(call: Call) -> Element:
    x = call.value("a")
    return lambda *i: cast(x(*i), x.dtype, call.dtype)
