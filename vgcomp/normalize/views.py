"""Views: everything that only moves elements becomes reshape, permute, expand, slice or cat."""

from __future__ import annotations

import sys
from typing import Any

import torch

from vgcomp.normalize.builder import Builder, Value
from vgcomp.normalize.call import Call, Table, shape_of

aten = torch.ops.aten


def to_out_shape(b: Builder, call: Call) -> Value:
    """view, flatten, squeeze, …: a reshape to the shape that came out."""
    return b.reshape(call.x, call.shape)


def permute(b: Builder, call: Call) -> Value:
    return b.permute(call.x, call["dims"])


def transpose(b: Builder, call: Call) -> Value:
    rank = len(shape_of(call.x))
    if call.target is aten.t.default:
        return b.permute(call.x, list(range(rank))[::-1])
    first, second = call["dim0"] % rank, call["dim1"] % rank
    order = list(range(rank))
    order[first], order[second] = second, first
    return b.permute(call.x, order)


def movedim(b: Builder, call: Call) -> Value:
    rank = len(shape_of(call.x))
    source, target = _listed(call["source"], rank), _listed(call["destination"], rank)
    rest = iter(d for d in range(rank) if d not in source)
    placed = dict(zip(target, source, strict=True))
    return b.permute(call.x, [placed[d] if d in placed else next(rest) for d in range(rank)])


def expand(b: Builder, call: Call) -> Value:
    return b.expand(call.x, call.shape)


def repeat(b: Builder, call: Call) -> Value:
    """Copies along a dim: (1, n) expanded and merged; a dim of size 1 is only expanded."""
    repeats = [int(r) for r in call["repeats"]]
    own = shape_of(call.x)
    own = [1] * (len(repeats) - len(own)) + own
    split = [part for r, size in zip(repeats, own, strict=True) for part in _repeat_parts(r, size)]
    grown = [
        part for r, size in zip(repeats, own, strict=True) for part in ((r, size) if r > 1 < size else (r * size,))
    ]
    return b.reshape(b.expand(b.reshape(call.x, split), grown), call.shape)


def _repeat_parts(repeats: int, size: int) -> tuple[int, ...]:
    return (1, size) if repeats > 1 < size else (size,)


def repeat_interleave(b: Builder, call: Call) -> Value:
    """(n, 1) expanded and merged."""
    dim, repeats = call["dim"], int(call["repeats"])
    x = call.x
    if dim is None:
        x, dim = b.reshape(x, [-1 if not shape_of(x) else _numel(shape_of(x))]), 0
    shape = shape_of(x)
    dim %= len(shape)
    if repeats == 1:
        return b.node(x)
    split = [*shape[: dim + 1], 1, *shape[dim + 1 :]]
    grown = [*shape[: dim + 1], repeats, *shape[dim + 1 :]]
    return b.reshape(b.expand(b.reshape(x, split), grown), call.shape)


def slice_(b: Builder, call: Call) -> Value:
    start = call["start"] or 0
    end = sys.maxsize if call["end"] is None else call["end"]
    return b.slice(call.x, call["dim"], start, end, call["step"])


def narrow(b: Builder, call: Call) -> Value:
    start = call["start"] % max(1, shape_of(call.x)[call["dim"]])
    return b.slice(call.x, call["dim"], start, start + call["length"])


def select(b: Builder, call: Call) -> Value:
    return b.select(call.x, call["dim"], call["index"])


def split(b: Builder, call: Call) -> Value:
    """chunk, split, split_with_sizes, tensor_split: slices as long as the outputs are."""
    dim = call["dim"]
    out: list[Value] = []
    start = 0
    for part in call.out:
        length = int(part.shape[dim])
        out.append(b.slice(call.x, dim, start, start + length))
        start += length
    return tuple(out)


def unbind(b: Builder, call: Call) -> Value:
    return tuple(b.select(call.x, call["dim"], i) for i in range(len(call.out)))


def cat(b: Builder, call: Call) -> Value:
    parts = [part for part in call["tensors"] if shape_of(part) != [0]]
    promoted = [b.cast(part, call.dtype) for part in parts]
    return b.cat(promoted, call["dim"])


def stack(b: Builder, call: Call) -> Value:
    return b.stack([b.cast(part, call.dtype) for part in call["tensors"]], call["dim"])


def roll(b: Builder, call: Call) -> Value:
    """The two halves, swapped, a dim at a time."""
    node = b.node(call.x)
    for shift, dim in zip(call["shifts"], call["dims"], strict=True):
        size = shape_of(node)[dim]
        cut = (-shift) % size
        node = b.cat([b.slice(node, dim, cut, size), b.slice(node, dim, 0, cut)], dim)
    return node


def pixel_shuffle(b: Builder, call: Call) -> Value:
    """(*, C r², H, W) -> (*, C, H r, W r)."""
    r = call["upscale_factor"]
    *lead, channels, height, width = shape_of(call.x)
    n = len(lead)
    split_ = b.reshape(call.x, [*lead, channels // (r * r), r, r, height, width])
    order = [*range(n), n, n + 3, n + 1, n + 4, n + 2]
    return b.reshape(b.permute(split_, order), call.shape)


def scatter_slice(b: Builder, base: Value, part: Value, dim: int, start: int, end: int, step: int = 1) -> Value:
    """``base`` with ``base[start:end:step]`` along ``dim`` replaced by ``part``, as a cat of pieces."""
    size = shape_of(base)[dim]
    start, end, step = slice(start, end, step).indices(size)
    if step == 1:
        return b.cat([b.slice(base, dim, 0, start), part, b.slice(base, dim, end, size)], dim)
    if size % step or start >= step or len(range(start, end, step)) != size // step:
        single = [b.slice(base, dim, i, i + 1) for i in range(size)]
        for k, i in enumerate(range(start, end, step)):
            single[i] = b.slice(part, dim, k, k + 1)
        return b.cat(single, dim)
    return _interleave(b, base, part, dim, start, step)


def _interleave(b: Builder, base: Value, part: Value, dim: int, phase: int, step: int) -> Value:
    """Replaces every ``step``-th element: the dim is split in (n, step) and the phases are stacked."""
    shape = shape_of(base)
    split_ = [*shape[:dim], shape[dim] // step, step, *shape[dim + 1 :]]
    pairs = b.reshape(base, split_)
    phases = [b.slice(pairs, dim + 1, i, i + 1) for i in range(step)]
    phases[phase] = b.unsqueeze(part, dim + 1)
    return b.reshape(b.cat(phases, dim + 1), shape)


def slice_scatter(b: Builder, call: Call) -> Value:
    start = call["start"] or 0
    end = sys.maxsize if call["end"] is None else call["end"]
    return scatter_slice(b, call.x, call["src"], call["dim"], start, end, call["step"])


def _listed(dims: Any, rank: int) -> list[int]:
    return [d % rank for d in ([dims] if isinstance(dims, int) else dims)]


def _numel(shape: list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


TABLE: Table = {
    **dict.fromkeys(
        (
            aten.view.default,
            aten._unsafe_view.default,
            aten.reshape.default,
            aten.view_as.default,
            aten.reshape_as.default,
            aten.flatten.using_ints,
            aten.unflatten.int,
            aten.unsqueeze.default,
            aten.squeeze.default,
            aten.squeeze.dim,
            aten.squeeze.dims,
        ),
        to_out_shape,
    ),
    aten.permute.default: permute,
    aten.transpose.int: transpose,
    aten.t.default: transpose,
    aten.movedim.int: movedim,
    aten.movedim.intlist: movedim,
    aten.expand.default: expand,
    aten.expand_as.default: expand,
    aten.broadcast_to.default: expand,
    aten.repeat.default: repeat,
    aten.repeat_interleave.self_int: repeat_interleave,
    aten.slice.Tensor: slice_,
    aten.narrow.default: narrow,
    aten.select.int: select,
    aten.chunk.default: split,
    aten.split.Tensor: split,
    aten.split.sizes: split,
    aten.split_with_sizes.default: split,
    aten.tensor_split.sections: split,
    aten.unbind.int: unbind,
    aten.cat.default: cat,
    aten.concat.default: cat,
    aten.concatenate.default: cat,
    aten.stack.default: stack,
    aten.roll.default: roll,
    aten.pixel_shuffle.default: pixel_shuffle,
    aten.slice_scatter.default: slice_scatter,
}
