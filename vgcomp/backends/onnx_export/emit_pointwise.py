"""Pointwise ops. What ONNX lacks (silu, rsqrt, …) is spelled so that ONNX Runtime fuses it again."""

from __future__ import annotations

import math
from typing import Any

import torch

from vgcomp.backends.onnx_export.registry import EMITTERS, Call, Emitter, emits

aten = torch.ops.aten
prims = torch.ops.prims

_UNARY = {
    aten.neg.default: "Neg",
    aten.abs.default: "Abs",
    aten.exp.default: "Exp",
    aten.log.default: "Log",
    aten.sin.default: "Sin",
    aten.cos.default: "Cos",
    aten.sqrt.default: "Sqrt",
    aten.reciprocal.default: "Reciprocal",
    aten.erf.default: "Erf",
    aten.tanh.default: "Tanh",
    aten.sigmoid.default: "Sigmoid",
    aten.relu.default: "Relu",
    aten.floor.default: "Floor",
    aten.round.default: "Round",
}

_BINARY = {
    aten.mul.Tensor: "Mul",
    aten.div.Tensor: "Div",
    aten.maximum.default: "Max",
    aten.minimum.default: "Min",
}

_COMPARE = {aten.eq.Scalar: "Equal", aten.gt.Scalar: "Greater", aten.lt.Scalar: "Less"}


def _unary(op_type: str) -> Emitter:
    def emit(call: Call) -> str:
        # exp(int) is a float in torch and an error in ONNX.
        return call.scope.op(op_type, call.operand("self", call.out.dtype))

    return emit


def _binary(op_type: str) -> Emitter:
    def emit(call: Call) -> str:
        dtype = call.out.dtype
        return call.scope.op(op_type, call.operand("self", dtype), call.operand("other", dtype))

    return emit


def _compare(op_type: str) -> Emitter:
    def emit(call: Call) -> str:
        dtype = torch.result_type(torch.empty((1,), dtype=call.value("self").dtype), call["other"])
        return call.scope.op(op_type, call.operand("self", dtype), call.operand("other", dtype))

    return emit


EMITTERS.update({target: _unary(op_type) for target, op_type in _UNARY.items()})
EMITTERS.update({target: _binary(op_type) for target, op_type in _BINARY.items()})
EMITTERS.update({target: _compare(op_type) for target, op_type in _COMPARE.items()})


@emits(aten.add.Tensor, aten.sub.Tensor)
def _add(call: Call) -> str:
    scope, dtype = call.scope, call.out.dtype
    other = call.operand("other", dtype)
    if call["alpha"] != 1:
        other = scope.op("Mul", other, scope.scalar(call["alpha"], dtype))
    return scope.op("Add" if call.target is aten.add.Tensor else "Sub", call.operand("self", dtype), other)


@emits(aten.where.self)
def _where(call: Call) -> str:
    dtype = call.out.dtype
    condition = call.operand("condition", torch.bool)
    return call.scope.op("Where", condition, call.operand("self", dtype), call.operand("other", dtype))


@emits(aten.pow.Tensor_Scalar)
def _pow(call: Call) -> str:
    scope, dtype, exponent = call.scope, call.out.dtype, call["exponent"]
    x = call.operand("self", dtype)
    if exponent == 2:
        return scope.op("Mul", x, x)
    if exponent == 0.5:
        return scope.op("Sqrt", x)
    return scope.op("Pow", x, scope.scalar(exponent, dtype))


@emits(aten.rsqrt.default)
def _rsqrt(call: Call) -> str:
    return call.scope.op("Reciprocal", call.scope.op("Sqrt", call.operand("self", call.out.dtype)))


@emits(aten.leaky_relu.default)
def _leaky_relu(call: Call) -> str:
    return call.scope.op("LeakyRelu", call.value("self").name, alpha=float(call["negative_slope"]))


@emits(aten.clamp.default)
def _clamp(call: Call) -> str:
    return _clip(call, call["min"], call["max"])


@emits(aten.hardtanh.default)
def _hardtanh(call: Call) -> str:
    return _clip(call, call["min_val"], call["max_val"])


def _clip(call: Call, low: float | None, high: float | None) -> str:
    scope, dtype = call.scope, call.out.dtype
    bounds = ["" if bound is None else scope.scalar(bound, dtype) for bound in (low, high)]
    return scope.op("Clip", call.operand("self", dtype), *bounds)


@emits(aten.silu.default)
def _silu(call: Call) -> str:
    x = call.value("self").name
    return call.scope.op("Mul", x, call.scope.op("Sigmoid", x))


@emits(aten.gelu.default)
def _gelu(call: Call) -> str:
    scope, x = call.scope, call.value("self")
    if scope.opset >= 20:
        return scope.op("Gelu", x.name, approximate=call["approximate"])

    def scalar(value: float) -> str:
        return scope.scalar(value, x.dtype)

    if call["approximate"] == "tanh":
        cube = scope.op("Mul", scope.op("Mul", x.name, x.name), x.name)
        inner = scope.op("Add", x.name, scope.op("Mul", cube, scalar(0.044715)))
        gate = scope.op("Tanh", scope.op("Mul", inner, scalar(math.sqrt(2 / math.pi))))
    else:
        gate = scope.op("Erf", scope.op("Div", x.name, scalar(math.sqrt(2))))
    # In this order ONNX Runtime recognises it as one Gelu.
    return scope.op("Mul", scope.op("Mul", x.name, scope.op("Add", gate, scalar(1.0))), scalar(0.5))


@emits(aten.softplus.default)
def _softplus(call: Call) -> str:
    # torch returns x itself beyond the threshold; log1p(exp(x)) rounds to x there in fp16, bf16 and fp32.
    scope, x, beta = call.scope, call.value("self"), call["beta"]
    if beta == 1:
        return scope.op("Softplus", x.name)
    factor = scope.scalar(beta, x.dtype)
    return scope.op("Div", scope.op("Softplus", scope.op("Mul", x.name, factor)), factor)


@emits(aten.clone.default)
def _clone(call: Call) -> str:
    # ONNX tensors have no strides: a copy to row-major is the tensor itself.
    return call.value("self").name


@emits(prims.convert_element_type.default)
def _convert(call: Call) -> str:
    dtype: Any = call["dtype"]
    return call.scope.as_dtype(call.value("a"), dtype)
