"""group_norm, layer_norm and rms_norm from what exporters decompose them into.

Raised in steps, each a pattern of its own: the statistics first, without weights; then a cast around the
norm goes; then a product with a weight and a sum with a bias are taken in.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from vgcomp.ir import val
from vgcomp.onnx_import.ops.norm import round_eps
from vgcomp.onnx_import.raising.rewriter import Rewriter, args_of, is_call, same_value, used_once

aten = torch.ops.aten
prims = torch.ops.prims

#: Where the weight stands in each norm's arguments; the bias, if it has one, follows.
_WEIGHT_AT = {aten.group_norm.default: 2, aten.layer_norm.default: 2, aten.rms_norm.default: 2}


def group_norm(rw: Rewriter, node: fx.Node) -> fx.Node | None:
    """reshape(instance_norm(reshape(x, (N, G, -1)))) of x (N, C, *): a norm over G groups."""
    norm = args_of(node)[0]
    if not is_call(norm, aten.group_norm.default) or not used_once(norm):
        return None
    inner, groups, weight, bias, eps = args_of(norm)[:5]
    shape = tuple(val(node).shape)
    if val(inner).shape[:2] != (shape[0], groups) or len(shape) < 3 or shape[1] % groups:
        return None
    if not _all_are(rw, weight, 1.0) or not _all_are(rw, bias, 0.0):
        return None
    x = args_of(inner)[0] if is_call(inner, aten.reshape.default) else inner
    if tuple(val(x).shape) != shape:
        x = rw.reshape(node, inner, shape)
    return rw.emit(node, aten.group_norm.default, x, groups, None, None, eps)


def _all_are(rw: Rewriter, weight: Any, number: float) -> bool:
    """True for a weight that is left out or is known to be ``number`` everywhere."""
    if weight is None:
        return True
    found = rw.numbers(weight)
    return found is not None and bool((found == number).all())


def moments_norm(rw: Rewriter, node: fx.Node) -> fx.Node | None:
    """(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) and x / sqrt(mean(x^2) + eps) over the last dims."""
    found = _over_root(node)
    if found is None:
        return None
    top, mean, eps = found
    dims = _trailing_dims(mean)
    squared = _square_of(args_of(mean)[0])
    if dims is None or squared is None or not same_value(squared, top):
        return None
    x = _centred(top, dims)
    shape = list(val(node).shape[-len(dims) :])
    if x is not None:
        return rw.emit(node, aten.layer_norm.default, x, shape, None, None, round_eps(eps))
    return rw.emit(node, aten.rms_norm.default, top, shape, None, round_eps(eps))


def _over_root(node: fx.Node) -> tuple[fx.Node, fx.Node, float] | None:
    """(a, v, eps) of a / sqrt(v + eps), v a mean."""
    a, b = args_of(node)
    if is_call(node, aten.div.Tensor):
        pairs = [(a, b.args[0])] if is_call(b, aten.sqrt.default) else []
    else:
        pairs = [(x, _inverse_root(r)) for x, r in ((a, b), (b, a))]
    for top, total in pairs:
        if not is_call(total, aten.add.Tensor) or not isinstance(top, fx.Node):
            continue
        mean, eps = total.args if isinstance(total.args[0], fx.Node) else total.args[::-1]
        if is_call(mean, aten.mean.dim) and isinstance(eps, float):
            return top, mean, eps
    return None


def _inverse_root(arg: Any) -> Any:
    """y of 1 / sqrt(y)."""
    if is_call(arg, aten.rsqrt.default):
        return args_of(arg)[0]
    return args_of(arg)[0] if is_call(arg, aten.pow.Tensor_Scalar) and args_of(arg)[1] == -0.5 else None


def _trailing_dims(mean: fx.Node) -> list[int] | None:
    """The dims of a mean if they are the last ones and are kept."""
    x, dims = args_of(mean)[0], list(args_of(mean)[1])
    rank = val(x).dim()
    last = list(range(rank - len(dims), rank))
    return dims if dims == last and args_of(mean)[2:3] == (True,) else None


def _square_of(arg: Any) -> Any:
    if is_call(arg, aten.pow.Tensor_Scalar) and args_of(arg)[1] == 2:
        return args_of(arg)[0]
    if is_call(arg, aten.mul.Tensor) and same_value(args_of(arg)[0], args_of(arg)[1]):
        return args_of(arg)[0]
    return None


def _centred(arg: fx.Node, dims: list[int]) -> Any:
    """x of x - mean(x) over ``dims``."""
    if not is_call(arg, aten.sub.Tensor):
        return None
    x, mean = args_of(arg)
    if not is_call(mean, aten.mean.dim) or not same_value(args_of(mean)[0], x):
        return None
    return x if _trailing_dims(mean) == dims else None


def unweighted(rw: Rewriter, node: fx.Node) -> fx.Node | None:
    """A layer norm with a weight of ones and no bias: ONNX has no way to leave the weight out."""
    x, shape, weight, bias, eps = args_of(node)
    if weight is None or bias is not None or not _all_are(rw, weight, 1.0):
        return None
    return rw.emit(node, aten.layer_norm.default, x, shape, None, None, eps)


def cast_around(rw: Rewriter, node: fx.Node) -> fx.Node | None:
    """half(norm(float(x))) without weights: the norm accumulates in fp32 by itself."""
    norm = args_of(node)[0]
    if not is_call(norm, *_WEIGHT_AT) or not used_once(norm):
        return None
    widened = args_of(norm)[0]
    if not is_call(widened, prims.convert_element_type.default):
        return None
    x = args_of(widened)[0]
    if val(x).dtype != val(node).dtype or _affine(norm) != (None, None):
        return None
    return rw.emit(node, norm.target, x, *args_of(norm)[1:])


def _affine(norm: fx.Node) -> tuple[Any, Any]:
    """(weight, bias) of a norm; an rms_norm has no bias."""
    return args_of(norm)[2], None if norm.target is aten.rms_norm.default else args_of(norm)[3]


def take_weight(rw: Rewriter, node: fx.Node) -> fx.Node | None:
    """norm(x) * w, w a weight a channel (or an element): the norm's own weight."""
    for norm, other in (args_of(node), args_of(node)[::-1]):
        if not is_call(norm, *_WEIGHT_AT) or not used_once(norm) or _affine(norm) != (None, None):
            continue
        weight = _own_vector(rw, norm, other, node)
        if weight is not None:
            return _with_affine(rw, node, norm, weight, None)
    return None


def take_bias(rw: Rewriter, node: fx.Node) -> fx.Node | None:
    """norm(x, w) + b: the norm's own bias."""
    for norm, other in (args_of(node), args_of(node)[::-1]):
        if not is_call(norm, aten.group_norm.default, aten.layer_norm.default) or not used_once(norm):
            continue
        weight, bias = _affine(norm)
        vector = _own_vector(rw, norm, other, node) if weight is not None and bias is None else None
        if vector is not None:
            return _with_affine(rw, node, norm, weight, vector)
    return None


def _with_affine(rw: Rewriter, anchor: fx.Node, norm: fx.Node, weight: fx.Node, bias: fx.Node | None) -> fx.Node:
    affine = (weight,) if norm.target is aten.rms_norm.default else (weight, bias)
    return rw.emit(anchor, norm.target, *args_of(norm)[:2], *affine, args_of(norm)[-1])


def _own_vector(rw: Rewriter, norm: fx.Node, other: Any, anchor: fx.Node) -> fx.Node | None:
    """``other`` as the weight or bias of ``norm`` if it is a weight that broadcasts the same way."""
    if not isinstance(other, fx.Node) or other.op != "get_attr" or val(other).dtype != val(norm).dtype:
        return None
    rank, given = val(norm).dim(), list(val(other).shape)
    aligned = [1] * (rank - len(given)) + given
    if norm.target is aten.group_norm.default:
        channels = val(norm).shape[1]
        fits = aligned == [1, channels, *[1] * (rank - 2)]
        return rw.vector(other, [channels], anchor) if fits else None
    shape = list(args_of(norm)[1])
    fits = aligned == [1] * (rank - len(shape)) + shape
    return rw.vector(other, shape, anchor) if fits else None
