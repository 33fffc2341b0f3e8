"""Biases back into linear layers; products around a softmax back into attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from vgcomp.ir import val
from vgcomp.onnx_import.raising.rewriter import (
    Rewriter,
    args_of,
    close,
    is_call,
    scaled,
    used_once,
    without_casts,
)

aten = torch.ops.aten
prims = torch.ops.prims

#: A score at or below this is masked out: exp underflows in every dtype.
_MASKED = -1e4


def linear_bias(rw: Rewriter, node: fx.Node) -> fx.Node | None:
    """linear(x, w) + b, b a weight of one number an output feature."""
    for product, other in (args_of(node), args_of(node)[::-1]):
        if not is_call(product, aten.linear.default) or not used_once(product) or len(product.args) > 2:
            continue
        features = val(node).shape[-1]
        if not isinstance(other, fx.Node) or other.op != "get_attr" or val(other).shape[-1:] != (features,):
            continue
        if val(other).dtype != val(node).dtype or val(node).shape != val(product).shape:
            continue
        bias = rw.vector(other, [features], node)
        if bias is not None:
            return rw.emit(node, aten.linear.default, *product.args, bias)
    return None


@dataclass
class _Scores:
    """softmax's argument taken apart: scale * q @ k_t + mask."""

    query: fx.Node
    key_t: fx.Node
    scale: float
    mask: fx.Node | None = None
    #: the mask is boolean and says which scores to drop, not which to keep
    inverted: bool = False


def attention(rw: Rewriter, node: fx.Node) -> fx.Node | None:
    """softmax(scale * q @ k.T + mask) @ v."""
    value = args_of(node)[1]
    weights = _softmax(args_of(node)[0])
    if weights is None or not isinstance(value, fx.Node):
        return None
    scores = _scores(rw, weights.args[0])
    if scores is None:
        return None
    key = _swapped(rw, node, scores.key_t)
    if not _fits(scores.query, key, value) or val(value).dtype != val(node).dtype:
        return None
    return _emit(rw, node, scores, key, value)


def _softmax(arg: Any) -> fx.Node | None:
    """The softmax over keys behind casts and behind the replacement of NaN by zero (rows all masked)."""
    arg = without_casts(arg)
    if is_call(arg, aten.where.self) and used_once(arg):
        arg = without_casts(args_of(arg)[2])
        single = all(user.target in (aten.where.self, aten.lt.Scalar, aten.eq.Scalar) for user in arg.users)
    else:
        single = isinstance(arg, fx.Node) and used_once(arg)
    if not single or not is_call(arg, aten.softmax.int) or args_of(arg)[1] != val(arg).dim() - 1:
        return None
    return arg


def _scores(rw: Rewriter, arg: Any) -> _Scores | None:
    arg = without_casts(arg)
    if is_call(arg, aten.add.Tensor) and used_once(arg):
        for inner, mask in (args_of(arg), args_of(arg)[::-1]):
            found = _product(inner)
            if found is not None and isinstance(mask, fx.Node) and val(inner).shape == val(arg).shape:
                found.mask, found.inverted = _as_condition(rw, mask)
                return found
        return None
    if is_call(arg, aten.where.self) and used_once(arg):
        return _where_scores(rw, arg)
    return _product(arg)


def _where_scores(rw: Rewriter, node: fx.Node) -> _Scores | None:
    """where(keep, scores, -inf) or where(drop, -inf, scores)."""
    condition, yes, no = args_of(node)
    for inner, fill, inverted in ((yes, no, False), (no, yes, True)):
        found = _product(inner)
        if found is None or not isinstance(condition, fx.Node) or not _is_masked_fill(rw, fill):
            continue
        found.mask, found.inverted = condition, inverted
        return found
    return None


def _as_condition(rw: Rewriter, mask: fx.Node) -> tuple[fx.Node, bool]:
    """The boolean behind where(keep, 0, -inf) or where(drop, -inf, 0), and whether it says what to drop."""
    if not is_call(mask, aten.where.self):
        return mask, False
    condition, yes, no = args_of(mask)
    for kept, dropped, inverted in ((yes, no, False), (no, yes, True)):
        zero = rw.numbers(kept)
        if zero is not None and not bool(zero.any()) and _is_masked_fill(rw, dropped):
            return condition, inverted
    return mask, False


def _is_masked_fill(rw: Rewriter, arg: Any) -> bool:
    number = rw.numbers(arg)
    return number is not None and number.numel() == 1 and float(number) <= _MASKED


def _product(arg: Any) -> _Scores | None:
    """number * (q * number) @ (k_t * number)."""
    if not isinstance(arg, fx.Node):
        return None
    outer, product = scaled(arg, first=used_once(arg))
    if not is_call(product, aten.matmul.default) or not used_once(product):
        return None
    a, b = args_of(product)
    left, query = scaled(a, first=used_once(a))
    right, key_t = scaled(b, first=used_once(b))
    return _Scores(query, key_t, outer * left * right)


def _swapped(rw: Rewriter, anchor: fx.Node, key_t: fx.Node) -> fx.Node:
    """``key_t`` with its last two dims exchanged, undoing the exporter's exchange where there is one."""
    shape = list(val(key_t).shape)
    inner = key_t.args[0] if is_call(key_t, aten.reshape.default) else None
    if is_call(inner, aten.permute.default) and list(val(inner).shape[-2:]) == shape[-2:]:
        return rw.reshape(anchor, _swapped(rw, anchor, inner), [*shape[:-2], shape[-1], shape[-2]])
    rank = len(shape)
    return rw.permute(anchor, key_t, [*range(rank - 2), rank - 1, rank - 2])


def _fits(query: fx.Node, key: fx.Node, value: fx.Node) -> bool:
    """Attention needs equal batch dims, equal widths of query and key, and one dtype."""
    q, k, v = val(query), val(key), val(value)
    return q.dim() >= 3 and q.shape[:-2] == k.shape[:-2] == v.shape[:-2] and q.dtype == k.dtype == v.dtype


def _emit(rw: Rewriter, node: fx.Node, scores: _Scores, key: fx.Node, value: fx.Node) -> fx.Node:
    width, dtype = val(scores.query).shape[-1], val(scores.query).dtype
    kwargs = {} if close(scores.scale, 1 / math.sqrt(width), dtype) else {"scale": scores.scale}
    length = (val(scores.query).shape[-2], val(key).shape[-2])
    args: tuple[Any, ...] = ()
    if scores.mask is not None:
        causal = _is_causal(rw, scores, length)
        args = (None, 0.0, True) if causal else (_mask(rw, node, scores, dtype),)
    target = aten.scaled_dot_product_attention.default
    return rw.emit(node, target, scores.query, key, value, *args, **kwargs)


def _mask(rw: Rewriter, anchor: fx.Node, scores: _Scores, dtype: torch.dtype) -> fx.Node:
    """The mask as attention takes it: of the query's dtype or boolean (true keeps), two dims or more."""
    mask = scores.mask
    assert mask is not None
    if scores.inverted:
        mask = rw.emit(anchor, aten.eq.Scalar, mask, False)
    if val(mask).dim() < 2:
        mask = rw.reshape(anchor, mask, [1, val(mask).numel()])
    if val(mask).dtype not in (torch.bool, dtype):
        mask = rw.emit(anchor, prims.convert_element_type.default, mask, dtype)
    return mask


def _is_causal(rw: Rewriter, scores: _Scores, length: tuple[int, int]) -> bool:
    """True for a known mask that keeps key j for query i where j <= i."""
    numbers = rw.numbers(scores.mask)
    if numbers is None or tuple(numbers.shape[-2:]) != length or numbers.numel() != math.prod(length):
        return False
    dropped = numbers.reshape(length) if scores.inverted else None
    if numbers.dtype == torch.bool:
        keep = ~dropped if dropped is not None else numbers.reshape(length)
    else:
        keep = numbers.reshape(length) > _MASKED
        if bool((numbers.reshape(length)[keep] != 0).any()):
            return False
    return length[0] > 1 and torch.equal(keep, torch.ones(length, dtype=torch.bool).tril())
