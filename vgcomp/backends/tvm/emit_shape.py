"""Ops that move data: copying views, concatenation, padding, upsampling, look-ups, fills."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from vgcomp.backends.arguments import positive
from vgcomp.backends.tvm.registry import Call, Element, cast, emits
from vgcomp.errors import ModelError
from vgcomp.slices import contiguous_strides

aten = torch.ops.aten


@emits(aten.reshape.default)
def _reshape(call: Call) -> Element:
    """The reshape that has to copy."""
    x = call.value("self")
    return lambda *i: x(*_unravelled(_position(i, call.shape), x.shape))


def _position(index: Sequence[Any], shape: Sequence[int]) -> Any:
    total: Any = 0
    for i, stride in zip(index, contiguous_strides(shape), strict=True):
        total = total + i * stride
    return total


def _unravelled(position: Any, shape: Sequence[int]) -> list[Any]:
    found = []
    for d, (size, stride) in enumerate(zip(shape, contiguous_strides(shape), strict=True)):
        at = position // stride if stride > 1 else position
        found.append(0 if size == 1 else at if d == 0 else at % size)
    return found


@emits(aten.permute.default, aten.expand.default, aten.slice.Tensor)
def _view(call: Call) -> Element:
    raise AssertionError(f"{call.target} is a view and has no kernel")


@emits(aten.cat.default)
def _cat(call: Call) -> Element:
    from tvm import tirx

    # torch lets 1-d empty tensors pass in any concatenation.
    tensors = [t for t in call["tensors"] if t.shape != (0,) or len(call.shape) == 1]
    tensors = [t for t in tensors if 0 not in t.shape]
    dim = positive(call["dim"], len(call.shape))

    def element(*i: Any) -> Any:
        start = 0
        parts = []
        for tensor in tensors:
            parts.append((tensor, start))
            start += tensor.shape[dim]
        tensor, start = parts[-1]
        value = cast(tensor(*_moved(i, dim, start)), tensor.dtype, call.dtype)
        for (tensor, start), (_, end) in reversed(list(zip(parts, parts[1:]))):
            here = cast(tensor(*_moved(i, dim, start)), tensor.dtype, call.dtype)
            value = tirx.if_then_else(i[dim] < end, here, value)
        return value

    return element


def _moved(index: Sequence[Any], dim: int, by: int) -> list[Any]:
    return [i - by if d == dim and by else i for d, i in enumerate(index)]


@emits(aten.constant_pad_nd.default)
def _constant_pad(call: Call) -> Element:
    return _padded(call, call["value"])


def _padded(call: Call, value: float) -> Element:
    from tvm import tirx

    x = call.value("self")
    before, _ = pad_pairs(call["pad"], x.rank)

    def element(*i: Any) -> Any:
        at = [a - b if b else a for a, b in zip(i, before, strict=True)]
        inside = within(at, x.shape, before, call.shape)
        return x(*at) if inside is None else tirx.if_then_else(inside, x(*at), call.scalar(value, x.dtype))

    return element


def within(at: Sequence[Any], shape: Sequence[int], before: Sequence[int], whole: Sequence[int]) -> Any:
    """Whether an index shifted by ``before`` lies in ``shape``, for indices of ``whole``; None if it always does."""
    from tvm import tirx

    tests = []
    for a, size, head, extent in zip(at, shape, before, whole, strict=True):
        if head > 0:
            tests.append(a >= 0)
        if extent - head > size:
            tests.append(a < size)
    if not tests:
        return None
    return tests[0] if len(tests) == 1 else tirx.all(*tests)


def pad_pairs(pad: Sequence[int], rank: int) -> tuple[list[int], list[int]]:
    """torch's (last before, last after, second last before, …) as padding before and after each dimension."""
    before, after = [0] * rank, [0] * rank
    for i in range(len(pad) // 2):
        before[rank - 1 - i], after[rank - 1 - i] = pad[2 * i], pad[2 * i + 1]
    return before, after


@emits(aten.pad.default)
def _pad_mode(call: Call) -> Element:
    mode = call["mode"]
    if mode == "constant":
        return _padded(call, call["value"] or 0)
    rules = {"replicate": _replicated, "reflect": _reflected, "circular": _wrapped}
    if mode not in rules:
        raise ModelError(f"padding mode {mode!r} is not known; use constant, reflect, replicate or circular")
    x = call.value("self")
    before, after = pad_pairs(call["pad"], x.rank)

    def element(*i: Any) -> Any:
        at = [rules[mode](a - b, n) if b or c else a for a, b, c, n in zip(i, before, after, x.shape, strict=True)]
        return x(*at)

    return element


def _replicated(at: Any, size: int) -> Any:
    from tvm import tirx

    return tirx.max(tirx.min(at, size - 1), 0)


def _reflected(at: Any, size: int) -> Any:
    from tvm import tirx

    front = tirx.if_then_else(at < 0, -at, at)
    return tirx.if_then_else(front >= size, 2 * (size - 1) - front, front)


def _wrapped(at: Any, size: int) -> Any:
    return (at + size) % size


@emits(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec)
def _upsample(call: Call) -> Element:
    x = call.value("input")

    def element(*i: Any) -> Any:
        return x(*(nearest(a, n, m) for a, n, m in zip(i, x.shape, call.shape, strict=True)))

    return element


def nearest(at: Any, size: int, wanted: int) -> Any:
    """The position that torch reads for output position ``at``."""
    from tvm import tirx

    if size == wanted:
        return at
    if wanted % size == 0:
        return at // (wanted // size)
    # torch computes it in fp32, and so rounds some positions its own way.
    scale = tirx.const(float(np.float32(size / wanted)), "float32")
    return tirx.min(tirx.floor(at.astype("float32") * scale).astype("int32"), size - 1)


@emits(aten.embedding.default)
def _embedding(call: Call) -> Element:
    weight, indices = call.value("weight"), call.value("indices")
    return lambda *i: weight(indices(*i[:-1]).astype("int32"), i[-1])


@emits(aten.index_select.default)
def _index_select(call: Call) -> Element:
    x, index = call.value("self"), call.value("index")
    dim = positive(call["dim"], x.rank)

    def element(*i: Any) -> Any:
        found = index(*((i[dim],) if index.rank else ())).astype("int32")
        return x(*(found if d == dim else a for d, a in enumerate(i)))

    return element


@emits(aten.full.default)
def _full(call: Call) -> Element:
    return lambda *i: call.scalar(call["fill_value"], call.dtype)
