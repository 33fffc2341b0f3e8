"""Writing an op's result over one of its arguments: which ops can, and how.

A node with ``meta["reuse"] = k`` takes the storage of argument k, which dies with it and has the
result's shape, dtype and strides. Only ops that read element (i) of that argument before they write
element (i) of the result qualify, and only those whose kernel writes there without a temporary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from vgcomp import ir, ops

aten = torch.ops.aten

#: (the argument written over, its index, all arguments, keyword arguments) -> that argument.
InPlace = Callable[[Tensor, int, list[Any], dict[str, Any]], Tensor]

#: Output overloads that are not named after the functional one.
_OUT_NAMES = {"Tensor": "out", "default": "out", "self": "self_out"}


def can_reuse(target: Any) -> bool:
    """True for ops that may carry ``meta["reuse"]``."""
    return target in _SPECIAL or (target in ir.POINTWISE_OPS and target not in _NEVER)


def can_write(node: fx.Node) -> bool:
    """True for a node whose op can write its result into a given tensor of any strides, without a temporary."""
    if node.op != "call_function" or _ignores_strides(node):
        return False
    return can_reuse(node.target) or node.target in _BY_COPY or node.target is _CAT


def _ignores_strides(node: fx.Node) -> bool:
    """True for the exact ``gelu``: its CPU kernel (oneDNN's, torch 2.13) leaves a strided result unwritten."""
    return node.target is aten.gelu.default and node.kwargs.get("approximate", "none") == "none"


def write_to(target: Any) -> Callable[[Tensor, list[Any], dict[str, Any]], None]:
    """How to run ``target`` into a given tensor."""
    if target in _BY_COPY:
        return _copy_to
    if target is aten.relu.default:
        return _relu_to
    if target is torch.ops.vgcomp.group_norm_apply.default:
        return _group_norm_apply_to
    overload = _out_overload(target)

    def run(out: Tensor, args: list[Any], kwargs: dict[str, Any]) -> None:
        overload(*args, **kwargs, out=out)

    return run


def call_into(target: Any) -> InPlace:
    """How to run ``target`` into one of its arguments."""
    if target in _SPECIAL:
        return _SPECIAL[target]
    overload = _out_overload(target)

    def run(base: Tensor, index: int, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
        overload(*args, **kwargs, out=base)
        return base

    return run


def _out_overload(target: Any) -> Any:
    name = target._overloadname
    return getattr(target.overloadpacket, _OUT_NAMES.get(name, f"{name}_out"))


def _relu(base: Tensor, index: int, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    # relu.out computes aside and copies.
    return aten.relu_.default(base)  # type: ignore[no-any-return]


def _group_norm_apply(base: Tensor, index: int, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    scale, shift = ops._scale_shift(*args)
    return torch.addcmul(shift, base, scale, out=base)


def _copy_to(out: Tensor, args: list[Any], kwargs: dict[str, Any]) -> None:
    out.copy_(args[0])


def _relu_to(out: Tensor, args: list[Any], kwargs: dict[str, Any]) -> None:
    torch.clamp_min(args[0], 0, out=out)


def _group_norm_apply_to(out: Tensor, args: list[Any], kwargs: dict[str, Any]) -> None:
    scale, shift = ops._scale_shift(*args)
    torch.addcmul(shift, args[0], scale, out=out)


_SPECIAL: dict[Any, InPlace] = {
    aten.relu.default: _relu,
    torch.ops.vgcomp.group_norm_apply.default: _group_norm_apply,
}

_CAT = aten.cat.default

#: ``copy_`` does these: it takes any strides and casts.
_BY_COPY = frozenset({aten.clone.default, torch.ops.prims.convert_element_type.default})

#: A copy or a cast in place would be nothing, or of another size.
_NEVER = _BY_COPY
