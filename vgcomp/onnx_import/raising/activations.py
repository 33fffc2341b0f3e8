"""silu, gelu and rsqrt from what exporters decompose them into."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from vgcomp.ir import val
from vgcomp.onnx_import.raising.rewriter import Rewriter, args_of, close, factors, is_call, scaled

aten = torch.ops.aten


def silu(rw: Rewriter, node: fx.Node) -> fx.Node | None:
    """x * sigmoid(x)."""
    for x, gate in (args_of(node), args_of(node)[::-1]):
        if is_call(gate, aten.sigmoid.default) and gate.args[0] is x:
            return rw.emit(node, aten.silu.default, x)
    return None


def rsqrt(rw: Rewriter, node: fx.Node) -> fx.Node | None:
    """1 / sqrt(x), which ONNX has no operator for."""
    args = args_of(node)
    if is_call(node, aten.div.Tensor) and (isinstance(args[0], fx.Node) or args[0] != 1):
        return None
    root = args[-1]
    return rw.emit(node, aten.rsqrt.default, root.args[0]) if is_call(root, aten.sqrt.default) else None


def gelu(rw: Rewriter, node: fx.Node) -> fx.Node | None:
    """x / 2 * (1 + erf(x / sqrt 2)), or with tanh(sqrt(2 / pi) * (x + 0.044715 x^3)), factors in any order."""
    number, parts = factors(node)
    dtype = val(node).dtype
    if len(parts) != 2 or not close(number, 0.5, dtype):
        return None
    for x, bracket in (parts, parts[::-1]):
        if val(x).dtype != dtype:
            continue
        curve = _one_plus(bracket)
        if is_call(curve, aten.erf.default) and _is_erf_argument(curve.args[0], x, dtype):
            return rw.emit(node, aten.gelu.default, x)
        if is_call(curve, aten.tanh.default) and _is_tanh_argument(curve.args[0], x, dtype):
            return rw.emit(node, aten.gelu.default, x, approximate="tanh")
    return None


def _one_plus(arg: Any) -> Any:
    """y of 1 + y."""
    if not is_call(arg, aten.add.Tensor):
        return None
    a, b = args_of(arg)
    if b == 1 and not isinstance(b, fx.Node):
        return a
    return b if a == 1 and not isinstance(a, fx.Node) else None


def _is_erf_argument(arg: Any, x: fx.Node, dtype: torch.dtype) -> bool:
    factor, source = scaled(arg)
    return source is x and close(factor, math.sqrt(0.5), dtype)


def _is_tanh_argument(arg: Any, x: fx.Node, dtype: torch.dtype) -> bool:
    factor, total = scaled(arg)
    if not close(factor, math.sqrt(2 / math.pi), dtype) or not is_call(total, aten.add.Tensor):
        return False
    terms = args_of(total)
    return any(linear is x and _is_cube(cubic, x, dtype) for linear, cubic in (terms, terms[::-1]))


def _is_cube(arg: Any, x: fx.Node, dtype: torch.dtype) -> bool:
    """0.044715 x^3, as a power or as products."""
    if not isinstance(arg, fx.Node):
        return False
    number, parts = factors(arg)
    powers = [_power_of(part, x) for part in parts]
    return close(number, 0.044715, dtype) and None not in powers and sum(p for p in powers if p) == 3


def _power_of(arg: Any, x: fx.Node) -> int | None:
    if arg is x:
        return 1
    if is_call(arg, aten.pow.Tensor_Scalar) and args_of(arg)[0] is x:
        return int(args_of(arg)[1])
    if is_call(arg, aten.mul.Tensor):
        inner = [_power_of(a, x) for a in args_of(arg)]
        return None if None in inner else sum(p for p in inner if p)
    return None
