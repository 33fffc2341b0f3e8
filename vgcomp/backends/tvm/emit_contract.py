"""Convolution, matrix products, attention, pooling; sums in fp32 for the 16-bit floats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from vgcomp.backends.arguments import spread
from vgcomp.backends.tvm import cpu_attention, gpu_attention, vector_math
from vgcomp.backends.tvm.attention import Attention
from vgcomp.backends.tvm.contraction import Contraction, contract
from vgcomp.backends.tvm.registry import DTYPES, Call, Element, Operand, emits, opmath

aten = torch.ops.aten
own = torch.ops.vgcomp


def _tirx() -> Any:
    from tvm import tirx

    return tirx


def guarded(x: Operand, index: Sequence[Any], checks: Sequence[Any], other: Any) -> Any:
    """``x`` at an index, or ``other`` where a check fails."""
    value = x(*index)
    if not checks:
        return value
    return _tirx().if_then_else(_tirx().all(*checks) if len(checks) > 1 else checks[0], value, other)


def inside(at: Any, size: int, least: int, most: int) -> list[Any]:
    """The tests that ``at``, which lies in [least, most], needs to be an index of ``size``."""
    return [*([at >= 0] if least < 0 else []), *([at < size] if most >= size else [])]


@emits(aten.convolution.default)
def _convolution(call: Call) -> Element:
    x, weight, bias = call.value("input"), call.value("weight"), call.optional("bias")
    sums = _transposed(call, x, weight) if call["transposed"] else _plain(call, x, weight)
    return lambda *i: sums(*i) if bias is None else sums(*i) + bias.wide(i[1])


def _plain(call: Call, x: Operand, weight: Operand) -> Operand:
    n = x.rank - 2
    stride, padding, dilation = (spread(call[name], n) for name in ("stride", "padding", "dilation"))
    inner, kernel = weight.shape[1], weight.shape[2:]
    per_group = weight.shape[0] // call["groups"]

    def window(*index: Any) -> Any:
        (b, o), out, c, taps = index[:2], index[2 : 2 + n], index[2 + n], index[3 + n :]
        channel = c if call["groups"] == 1 else (o // per_group) * inner + c
        at = [p * s + k * d - pad for p, s, k, d, pad in zip(out, stride, taps, dilation, padding, strict=True)]
        checks = []
        for a, size, out_size, s, k, d, pad in zip(
            at, x.shape[2:], call.shape[2:], stride, kernel, dilation, padding, strict=True
        ):
            checks += inside(a, size, -pad, (out_size - 1) * s + (k - 1) * d - pad)
        return guarded(x, [b, channel, *at], checks, call.scalar(0, x.dtype))

    def filters(*index: Any) -> Any:
        return weight(index[1], *index[2 + n :])

    return _convolved(call, (inner, *kernel), window, filters)


def _convolved(call: Call, over: Sequence[int], window: Element, filters: Element) -> Operand:
    """Windows times filters; on a GPU one matrix product, unless channels are in groups."""
    shape, dtype = tuple(call.shape), call.value("input").dtype
    if call["groups"] > 1:
        return call.total(shape, over, lambda *i: _wide(window(*i), dtype) * _wide(filters(*i), dtype))
    places = (0, *range(2, len(shape)))
    problem = Contraction(shape, tuple(over), (), places, (1,), window, filters, dtype, left_along="side")
    return contract(call.kernel, problem)


def _wide(value: Any, dtype: torch.dtype) -> Any:
    return value.astype(DTYPES[opmath(dtype)])


def _transposed(call: Call, x: Operand, weight: Operand) -> Operand:
    n = x.rank - 2
    stride, padding, dilation = (spread(call[name], n) for name in ("stride", "padding", "dilation"))
    outer, kernel = weight.shape[1], weight.shape[2:]
    per_group = x.shape[1] // call["groups"]

    def channel_of(o: Any, c: Any) -> Any:
        return c if call["groups"] == 1 else (o // outer) * per_group + c

    def window(*index: Any) -> Any:
        (b, o), out, c, taps = index[:2], index[2 : 2 + n], index[2 + n], index[3 + n :]
        checks, at = [], []
        for p, size, s, k, d, pad in zip(out, x.shape[2:], stride, taps, dilation, padding, strict=True):
            spot = p + pad - k * d
            at.append(_tirx().floordiv(spot, s))
            checks += [spot >= 0, _tirx().floordiv(spot, s) < size]
            checks += [_tirx().floormod(spot, s) == 0] if s > 1 else []
        return guarded(x, [b, channel_of(o, c), *at], checks, call.scalar(0, x.dtype))

    def filters(*index: Any) -> Any:
        o, c, taps = index[1], index[2 + n], index[3 + n :]
        return weight(channel_of(o, c), o if call["groups"] == 1 else o % outer, *taps)

    return _convolved(call, (per_group, *kernel), window, filters)


@emits(aten.linear.default)
def _linear(call: Call) -> Element:
    x, weight, bias = call.value("input"), call.value("weight"), call.optional("bias")
    width = weight.shape[1]
    rank = len(call.shape)
    problem = Contraction(
        tuple(call.shape),
        (width,),
        (),
        tuple(range(rank - 1)),
        (rank - 1,),
        lambda *i: x(*i[:-2], i[-1]),
        lambda *i: weight(i[-2], i[-1]),
        x.dtype,
        left_along="over" if x.innermost == x.rank - 1 else "side",
    )
    sums = contract(call.kernel, problem)
    return lambda *i: sums(*i) if bias is None else sums(*i) + bias.wide(i[-1])


@emits(aten.matmul.default)
def _matmul(call: Call) -> Element:
    a, b = call.value("self"), call.value("other")
    shape = tuple(call.shape)
    dims = tuple(range(len(shape)))
    columns = dims[-1:] if b.rank > 1 else ()
    rows = dims[len(dims) - len(columns) - 1 : len(dims) - len(columns)] if a.rank > 1 else ()
    batch = dims[: len(dims) - len(rows) - len(columns)]

    def left(*index: Any) -> Any:
        return a(*_batch(a, index[: len(batch)]), *(index[d] for d in rows), index[-1])

    def right(*index: Any) -> Any:
        lead = _batch(b, index[: len(batch)]) if b.rank > 1 else []
        return b(*lead, index[-1], *(index[d] for d in columns))

    problem = Contraction(
        shape or (1,),
        (a.shape[-1],),
        batch,
        rows,
        columns,
        left,
        right,
        a.dtype,
        left_along="over" if a.innermost == a.rank - 1 else "side",
        right_along="side" if b.innermost == b.rank - 1 else "over",
    )
    sums = contract(call.kernel, problem)
    return lambda *i: sums(*(i or (0,)))


def _batch(x: Operand, index: Sequence[Any]) -> list[Any]:
    rank = max(x.rank - 2, 0)
    own = list(index)[len(index) - rank :]
    return [0 if size == 1 else i for size, i in zip(x.shape, own, strict=False)]


@emits(aten.scaled_dot_product_attention.default)
def _attention(call: Call) -> Element:
    q, k, v = call.value("query"), call.value("key"), call.value("value")
    scale = 1 / math.sqrt(q.shape[-1]) if call["scale"] is None else call["scale"]
    rank = len(call.shape)
    call.kernel.row = (rank - 1,)
    mask = call.optional("attn_mask")
    heads = q.shape[-3] // k.shape[-3] if call["enable_gqa"] else 1

    def biased(score: Any, *i: Any) -> Any:
        if call["is_causal"]:
            score = _tirx().if_then_else(i[-1] <= i[-2], score, call.scalar(-math.inf))
        if mask is None:
            return score
        if mask.dtype == torch.bool:
            return _tirx().if_then_else(mask.aligned(i), score, call.scalar(-math.inf))
        return score + mask.aligned(i).astype(DTYPES[call.wide])

    sums, _, total = _weighted(call, (q, k, v), scale, biased, heads, whole=True)
    return lambda *i: sums(*i) / total(*i[:-1])


def _weighted(
    call: Call, qkv: Sequence[Operand], scale: float, biased: Any, heads: int = 1, whole: bool = False
) -> tuple[Operand, ...]:
    """Weighted values, the row's maximum score and its sum of exponentials, all of one row of queries at a time."""
    q, k, v = qkv
    kernel, wide = call.kernel, call.wide
    rows, keys = q.shape[:-1], k.shape[-2]

    def head(index: Sequence[Any]) -> list[Any]:
        *batch, h = list(index)
        return [*batch, h // heads] if heads > 1 else [*batch, h]

    def key(x: Operand, index: Sequence[Any], *rest: Any) -> Any:
        lead = head(index[:-1]) if x.rank > 2 else []
        return x.wide(*(0 if size == 1 else i for size, i in zip(x.shape, lead, strict=False)), *rest)

    problem = Attention(
        tuple(rows[:-1]),
        rows[-1],
        keys,
        q.shape[-1],
        v.shape[-1],
        q,
        lambda *i: key(k, i[:-1], *i[-2:]),
        lambda *i: key(v, i[:-1], *i[-2:]),
        lambda x, *i: biased(x * call.scalar(scale), *i),
        q.dtype,
    )
    if kernel.device != "cpu":
        return gpu_attention.attend(kernel, problem)
    if whole:
        return cpu_attention.attend(kernel, problem)
    scores = call.total(
        (*rows, keys), [q.shape[-1]], lambda *i: q.wide(*i[:-2], i[-1]) * key(k, i[:-2], i[-2], i[-1]), at="row"
    )

    def score(*i: Any) -> Any:
        return biased(scores(*i) * call.scalar(scale), *i)

    top = kernel.reduce("max", rows, [keys], wide, score, at="row")
    weights = kernel.stage(
        (*rows, keys), wide, lambda *i: vector_math.exp(score(*i) - top(*i[:-1]), kernel.device), at="row"
    )
    total = call.total(rows, [keys], weights, at="row")
    sums = call.total(
        (*rows, v.shape[-1]), [keys], lambda *i: weights(*i[:-2], i[-1]) * key(v, i[:-2], i[-1], i[-2]), at="row"
    )
    return sums, top, total


@emits(own.attention_partial.default)
def _attention_partial(call: Call) -> Element:
    q, k, v = call.value("q"), call.value("k"), call.value("v")
    call.kernel.row = (len(call.shape) - 1,)
    sums, top, total = _weighted(call, (q, k, v), call["scale"], lambda score, *i: score)
    width = v.shape[-1]

    def element(*i: Any) -> Any:
        last = _tirx().if_then_else(i[-1] == width, top(*i[:-1]), total(*i[:-1]))
        return _tirx().if_then_else(i[-1] < width, sums(*i[:-1], _tirx().min(i[-1], width - 1)), last)

    return element


@emits(own.attention_finish.default)
def _attention_finish(call: Call) -> Element:
    x = call.value("partial")
    return lambda *i: x(*i) / x(*i[:-1], x.shape[-1] - 1)


@emits(own.merge_softmax.default)
def _merge_softmax(call: Call) -> Element:
    a, b = call.value("a"), call.value("b")
    end = a.shape[-1]

    def element(*i: Any) -> Any:
        row = i[:-1]
        top = _tirx().max(a(*row, end - 2), b(*row, end - 2))
        wa, wb = (vector_math.exp(x(*row, end - 2) - top, call.kernel.device) for x in (a, b))
        return _tirx().if_then_else(i[-1] == end - 2, top, a(*i) * wa + b(*i) * wb)

    return element


@emits(aten.avg_pool2d.default, aten.avg_pool3d.default)
def _avg_pool(call: Call) -> Element:
    x = call.value("self")
    n = 2 if call.target is aten.avg_pool2d.default else 3
    kernel = spread(call["kernel_size"], n)
    stride = spread(call["stride"] or kernel, n)
    padding = spread(call["padding"], n)
    sums = _pooled(call, "sum", (kernel, stride, padding, [1] * n), call.scalar(0, x.dtype))

    def element(*i: Any) -> Any:
        if call["divisor_override"] is not None:
            return sums(*i) / call.scalar(call["divisor_override"])
        count: Any = 1
        for p, k, s, pad, size in zip(i[-n:], kernel, stride, padding, x.shape[-n:], strict=True):
            # torch counts the padding that lies within [-pad, size + pad), or no padding at all.
            low, high = (-pad, size + pad) if call["count_include_pad"] else (0, size)
            start = p * s - pad
            end = _tirx().min(start + k, size + pad)
            count = count * (_tirx().min(end, high) - _tirx().max(start, low))
        return sums(*i) / count.astype(DTYPES[call.wide])

    return element


@emits(aten.max_pool2d.default)
def _max_pool(call: Call) -> Element:
    kernel = spread(call["kernel_size"], 2)
    stride = spread(call["stride"] or kernel, 2)
    window = (kernel, stride, spread(call["padding"], 2), spread(call["dilation"], 2))
    return _pooled(call, "max", window, _tirx().min_value(DTYPES[call.value("self").dtype]))


def _pooled(call: Call, kind: Any, window: Sequence[Sequence[int]], neutral: Any) -> Operand:
    x, (kernel, stride, padding, dilation) = call.value("self"), window
    n = len(kernel)

    def term(*index: Any) -> Any:
        lead, out, taps = index[: x.rank - n], index[x.rank - n : x.rank], index[x.rank :]
        at = [p * s + k * d - pad for p, s, k, d, pad in zip(out, stride, taps, dilation, padding, strict=True)]
        checks = []
        for a, size, out_size, s, k, d, pad in zip(
            at, x.shape[-n:], call.shape[-n:], stride, kernel, dilation, padding, strict=True
        ):
            checks += inside(a, size, -pad, (out_size - 1) * s + (k - 1) * d - pad)
        return guarded(x, [*lead, *at], checks, neutral).astype(DTYPES[call.wide])

    return call.kernel.reduce(kind, call.shape, kernel, call.wide, term)
