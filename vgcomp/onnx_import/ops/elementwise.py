"""Elementwise operators: arithmetic, activations, comparisons, casts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import onnx_ir as ir
import torch

from vgcomp.errors import ModelError
from vgcomp.onnx_import.op import Emitter, Op, Table
from vgcomp.onnx_import.tensors import torch_dtype
from vgcomp.onnx_import.values import Constant, Value

aten = torch.ops.aten

TABLE = Table()

#: One operand, one ATen op of the same meaning. The second group is computed on constants alone.
_UNARY: dict[str, Any] = {
    "Abs": aten.abs.default,
    "Neg": aten.neg.default,
    "Exp": aten.exp.default,
    "Log": aten.log.default,
    "Sin": aten.sin.default,
    "Cos": aten.cos.default,
    "Sqrt": aten.sqrt.default,
    "Reciprocal": aten.reciprocal.default,
    "Erf": aten.erf.default,
    "Tanh": aten.tanh.default,
    "Sigmoid": aten.sigmoid.default,
    "Relu": aten.relu.default,
    "Floor": aten.floor.default,
    "Round": aten.round.default,
    "Sign": aten.sign.default,
    "Acos": aten.acos.default,
    "Asin": aten.asin.default,
    "Atan": aten.atan.default,
    "Sinh": aten.sinh.default,
    "Cosh": aten.cosh.default,
    "BitwiseNot": aten.bitwise_not.default,
}


def _unary(target: Any) -> Emitter:
    return lambda op: op.b.pointwise(target, op[0])


for _name, _target in _UNARY.items():
    TABLE(_name)(_unary(_target))


def _binary(target: Any) -> Emitter:
    return lambda op: op.b.binary(target, op[0], op[1])


for _name, _target in {
    "Mul": aten.mul.Tensor,
    "BitwiseAnd": aten.bitwise_and.Tensor,
    "BitwiseOr": aten.bitwise_or.Tensor,
    "BitwiseXor": aten.bitwise_xor.Tensor,
}.items():
    TABLE(_name)(_binary(_target))


@TABLE("Add")
def _add(op: Op) -> Value:
    return op.b.binary(aten.add.Tensor, op[0], op[1])


@TABLE("Sub")
def _sub(op: Op) -> Value:
    return op.b.pointwise(aten.sub.Tensor, op[0], op[1])


@TABLE("Div")
def _div(op: Op) -> Value:
    a, b = op[0], op[1]
    if not a.dtype.is_floating_point:
        return op.b.call(aten.div.Tensor_mode, a, b, rounding_mode="trunc")
    return op.b.pointwise(aten.div.Tensor, a, b)


@TABLE("Pow")
def _pow(op: Op) -> Value:
    base, exponent = op[0], op[1]
    if not isinstance(exponent, Constant) or not exponent.is_fill or len(exponent.shape) > len(base.shape):
        return op.b.cast(op.b.call(aten.pow.Tensor_Tensor, base, exponent), base.dtype)
    power = exponent.item()
    if power == 0.5 and base.dtype.is_floating_point:
        return op.b.pointwise(aten.sqrt.default, base)
    return op.b.cast(op.b.call(aten.pow.Tensor_Scalar, base, power), base.dtype)


@TABLE("Mod")
def _mod(op: Op) -> Value:
    target = aten.fmod.Tensor if op.attr_int("fmod") else aten.remainder.Tensor
    return op.b.call(target, op[0], op[1])


def _variadic(target: Any) -> Emitter:
    def emit(op: Op) -> Value:
        return reduce(lambda a, b: op.b.binary(target, a, b), op.values)

    return emit


TABLE("Sum")(_variadic(aten.add.Tensor))


@TABLE("Mean")
def _mean(op: Op) -> Value:
    total = reduce(lambda a, b: op.b.binary(aten.add.Tensor, a, b), op.values)
    return op.b.mul(total, 1 / len(op.values))


def _extreme(target: Any, *, is_max: bool) -> Emitter:
    """Max or Min. A fill bounds from one side, which is a clamp."""

    def merge(op: Op, a: Value, b: Value) -> Value:
        if isinstance(a, Constant):
            a, b = b, a
        if not isinstance(b, Constant) or isinstance(a, Constant) or not b.is_fill or len(b.shape) > len(a.shape):
            return op.b.call(target, a, b)
        bound = b.item()
        return op.b.clamp(a, bound, None) if is_max else op.b.clamp(a, None, bound)

    return lambda op: reduce(lambda a, b: merge(op, a, b), op.values)


TABLE("Max")(_extreme(aten.maximum.default, is_max=True))
TABLE("Min")(_extreme(aten.minimum.default, is_max=False))


@TABLE("Clip")
def _clip(op: Op) -> Value:
    low = float(op.scalar(1)) if op.has(1) else None
    high = float(op.scalar(2)) if op.has(2) else None
    if low is None and high is None:
        return op[0]
    return op.b.cast(op.b.clamp(op[0], low, high), op[0].dtype)


@TABLE("Ceil")
def _ceil(op: Op) -> Value:
    flipped = op.b.pointwise(aten.neg.default, op[0])
    return op.b.pointwise(aten.neg.default, op.b.pointwise(aten.floor.default, flipped))


@TABLE("Tan")
def _tan(op: Op) -> Value:
    return op.b.pointwise(
        aten.div.Tensor, op.b.pointwise(aten.sin.default, op[0]), op.b.pointwise(aten.cos.default, op[0])
    )


# -- activations --------------------------------------------------------------------------------


@TABLE("LeakyRelu")
def _leaky_relu(op: Op) -> Value:
    return op.b.call(aten.leaky_relu.default, op[0], op.attr_float("alpha", 0.01))


@TABLE("Softplus")
def _softplus(op: Op) -> Value:
    return op.b.call(aten.softplus.default, op[0])


@TABLE("HardSigmoid")
def _hard_sigmoid(op: Op) -> Value:
    return _hard_gate(op, op.attr_float("alpha", 0.2), op.attr_float("beta", 0.5))


@TABLE("HardSwish")
def _hard_swish(op: Op) -> Value:
    return op.b.binary(aten.mul.Tensor, op[0], _hard_gate(op, 1 / 6, 0.5))


def _hard_gate(op: Op, alpha: float, beta: float) -> Value:
    return op.b.clamp(op.b.add(op.b.mul(op[0], alpha), beta), 0.0, 1.0)


@TABLE("Swish")
def _swish(op: Op) -> Value:
    alpha = op.attr_float("alpha", 1.0)
    if alpha == 1.0:
        return op.b.call(aten.silu.default, op[0])
    return op.b.binary(aten.mul.Tensor, op[0], op.b.pointwise(aten.sigmoid.default, op.b.mul(op[0], alpha)))


@TABLE("Mish")
def _mish(op: Op) -> Value:
    gate = op.b.pointwise(aten.tanh.default, op.b.call(aten.softplus.default, op[0]))
    return op.b.binary(aten.mul.Tensor, op[0], gate)


@TABLE("Gelu")
def _gelu(op: Op) -> Value:
    if op.attr_str("approximate", "none") == "tanh":
        return op.b.call(aten.gelu.default, op[0], approximate="tanh")
    return op.b.call(aten.gelu.default, op[0])


@TABLE("Elu", "Celu", "Selu")
def _elu(op: Op) -> Value:
    """scale * (x where x > 0, alpha * (exp(x / width) - 1) elsewhere)."""
    kind = op.node.op_type
    alpha = op.attr_float("alpha", 1.67326319217681884765625 if kind == "Selu" else 1.0)
    scale = op.attr_float("gamma", 1.05070102214813232421875) if kind == "Selu" else 1.0
    x = op[0]
    inner = op.b.mul(x, 1 / alpha) if kind == "Celu" else x
    below = op.b.clamp(inner, None, 0.0)  # no overflow in the branch not taken
    curve = op.b.mul(op.b.add(op.b.pointwise(aten.exp.default, below), -1.0), alpha)
    return op.b.mul(op.b.select(_compare(op, aten.gt.Scalar, x, 0.0), x, curve), scale)


@TABLE("PRelu")
def _prelu(op: Op) -> Value:
    sloped = op.b.binary(aten.mul.Tensor, op[0], op[1])
    return op.b.select(_compare(op, aten.gt.Scalar, op[0], 0.0), op[0], sloped)


@TABLE("ThresholdedRelu")
def _thresholded_relu(op: Op) -> Value:
    above = _compare(op, aten.gt.Scalar, op[0], op.attr_float("alpha", 1.0))
    return op.b.select(above, op[0], op.b.constant(0.0, op[0].dtype))


@TABLE("Softsign")
def _softsign(op: Op) -> Value:
    return op.b.pointwise(aten.div.Tensor, op[0], op.b.add(op.b.pointwise(aten.abs.default, op[0]), 1.0))


# -- comparisons and logic ------------------------------------------------------------------------


def _compare(op: Op, target: Any, x: Value, number: float | int | bool) -> Value:
    return op.b.call(target, x, number)


def _comparison(scalar: Any, flipped: Any) -> Emitter:
    """a <=> b: against a scalar where one side is a fill, against zero of the difference otherwise."""

    def emit(op: Op) -> Value:
        a, b = op[0], op[1]
        if isinstance(b, Constant) and b.is_fill and len(b.shape) <= len(a.shape):
            return _compare(op, scalar, a, b.item())
        if isinstance(a, Constant) and a.is_fill and len(a.shape) <= len(b.shape):
            return _compare(op, flipped, b, a.item())
        if torch.bool in (a.dtype, b.dtype):
            a, b = op.b.cast(a, torch.uint8), op.b.cast(b, torch.uint8)
        return _compare(op, scalar, op.b.pointwise(aten.sub.Tensor, a, b), 0)

    return emit


_equal = _comparison(aten.eq.Scalar, aten.eq.Scalar)
_greater = _comparison(aten.gt.Scalar, aten.lt.Scalar)
_less = _comparison(aten.lt.Scalar, aten.gt.Scalar)


def _not(op: Op, value: Value) -> Value:
    return op.b.call(aten.eq.Scalar, value, False)


def _negated(emitter: Callable[[Op], Any]) -> Emitter:
    return lambda op: _not(op, emitter(op))


TABLE("Equal")(_equal)
TABLE("Greater")(_greater)
TABLE("Less")(_less)
TABLE("GreaterOrEqual")(_negated(_less))
TABLE("LessOrEqual")(_negated(_greater))
TABLE("Not")(lambda op: _not(op, op[0]))
TABLE("And")(lambda op: op.b.binary(aten.mul.Tensor, op[0], op[1]))
TABLE("Or")(lambda op: op.b.call(aten.maximum.default, op[0], op[1]))
TABLE("Xor")(_negated(_equal))


@TABLE("IsNaN")
def _is_nan(op: Op) -> Value:
    """Neither below infinity nor equal to it."""
    below, equal = (_compare(op, target, op[0], math.inf) for target in (aten.lt.Scalar, aten.eq.Scalar))
    return _not(op, op.b.call(aten.maximum.default, below, equal))


@TABLE("Where")
def _where(op: Op) -> Value:
    return op.b.select(op[0], op[1], op[2])


# -- casts and values that pass through -------------------------------------------------------------


@TABLE("Cast")
def _cast(op: Op) -> Value:
    try:
        kind = ir.DataType(op.attr_int("to"))
    except ValueError as error:
        raise ModelError(f"it casts to the unknown element type {op.attr_int('to')}") from error
    return op.b.cast(op[0], torch_dtype(kind, "its result"))


@TABLE("CastLike")
def _cast_like(op: Op) -> Value:
    return op.b.cast(op[0], op[1].dtype)


@TABLE("Identity", "Dropout")
def _identity(op: Op) -> Value:
    if op.node.op_type == "Dropout" and op.has(2) and bool(op.scalar(2)):
        raise ModelError("it drops at random (training_mode is set); export the model in evaluation mode")
    return op[0]
