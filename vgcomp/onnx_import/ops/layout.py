"""Operators that move elements without computing: shapes, slices, joins, padding."""

from __future__ import annotations

import math
from typing import Any

import torch

from vgcomp.errors import ModelError
from vgcomp.onnx_import.op import Op, Table
from vgcomp.onnx_import.values import Constant, Value

aten = torch.ops.aten

TABLE = Table()


@TABLE("Reshape")
def _reshape(op: Op) -> Value:
    x, wanted = op[0], op.ints(1)
    zero_is_copy = not op.attr_int("allowzero")
    sizes = [x.shape[i] if size == 0 and zero_is_copy and i < len(x.shape) else size for i, size in enumerate(wanted)]
    if -1 in sizes:
        known = math.prod(s for s in sizes if s != -1)
        sizes[sizes.index(-1)] = math.prod(x.shape) // known if known else 0
    return op.b.reshape(x, sizes)


@TABLE("Flatten")
def _flatten(op: Op) -> Value:
    shape = op[0].shape
    axis = op.attr_int("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return op.b.reshape(op[0], [math.prod(shape[:axis]), math.prod(shape[axis:])])


def axes_of(op: Op, index: int) -> list[int] | None:
    """Axes given as an operand (newer operator sets) or as an attribute (older); None where left out."""
    if op.has(index):
        return op.ints(index)
    return op.attr_ints("axes")


@TABLE("Squeeze")
def _squeeze(op: Op) -> Value:
    shape = op[0].shape
    axes = axes_of(op, 1)
    drop = {i for i, n in enumerate(shape) if n == 1} if axes is None else {op.dim(a, len(shape)) for a in axes}
    return op.b.reshape(op[0], [n for i, n in enumerate(shape) if i not in drop])


@TABLE("Unsqueeze")
def _unsqueeze(op: Op) -> Value:
    shape = list(op[0].shape)
    axes = axes_of(op, 1) or []
    rank = len(shape) + len(axes)
    for axis in sorted(op.dim(a, rank) for a in axes):
        shape.insert(axis, 1)
    return op.b.reshape(op[0], shape)


@TABLE("Transpose")
def _transpose(op: Op) -> Value:
    rank = len(op[0].shape)
    order = op.attr_ints("perm")
    return op.b.permute(op[0], list(range(rank))[::-1] if order is None else order)


@TABLE("Expand")
def _expand(op: Op) -> Value:
    return op.b.expand(op[0], torch.broadcast_shapes(op[0].shape, tuple(op.ints(1))))


@TABLE("Tile")
def _tile(op: Op) -> Value:
    return repeat(op, op[0], op.ints(1))


def repeat(op: Op, x: Value, counts: list[int]) -> Value:
    """Tiles: a new dim before each repeated one, expanded and merged."""
    shape = list(x.shape)
    if all(c == 1 for c in counts):
        return x
    split = [size for n in shape for size in (1, n)]
    tiled = [size for c, n in zip(counts, shape) for size in (c, n)]
    spread = op.b.expand(op.b.reshape(x, split), tiled)
    return op.b.reshape(spread, [c * n for c, n in zip(counts, shape)])


@TABLE("Concat")
def _concat(op: Op) -> Value:
    values = op.values
    return op.b.cat(values, op.dim(op.attr_int("axis"), len(values[0].shape)))


@TABLE("Split")
def _split(op: Op) -> list[Value]:
    x = op[0]
    axis = op.dim(op.attr_int("axis"), len(x.shape))
    sizes = op.ints(1) if op.has(1) else _even_split(x.shape[axis], op.attr_int("num_outputs", len(op.node.outputs)))
    if sum(sizes) != x.shape[axis]:
        raise ModelError(f"its parts {sizes} do not add up to {x.shape[axis]}")
    parts, start = [], 0
    for size in sizes:
        parts.append(op.b.slice(x, axis, start, start + size))
        start += size
    return parts


def _even_split(size: int, count: int) -> list[int]:
    """Equal parts, the last one smaller where they do not divide."""
    part = -(-size // count)
    return [max(0, min(part, size - i * part)) for i in range(count)]


@TABLE("Slice")
def _slice(op: Op) -> Value:
    x = op[0]
    starts, ends = op.ints(1), op.ints(2)
    axes = op.ints(3) if op.has(3) else list(range(len(starts)))
    steps = op.ints(4) if op.has(4) else [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps):
        dim = op.dim(axis, len(x.shape))
        picked = range(*slice(start, end if step > 0 else _open_end(end, x.shape[dim]), step).indices(x.shape[dim]))
        if step > 0:
            x = op.b.slice(x, dim, picked.start, max(picked.start, picked.stop), step)
        else:
            x = op.b.call(aten.index_select.default, x, dim, Constant(torch.tensor(list(picked), dtype=torch.int64)))
    return x


def _open_end(end: int, size: int) -> int | None:
    """The end of a slice that runs backwards: at or below -size - 1 it includes element 0."""
    return None if end < -size else end


@TABLE("Pad")
def _pad(op: Op) -> Value:
    x, pads, mode = op[0], op.ints(1), op.attr_str("mode", "constant")
    rank = len(x.shape)
    axes = [op.dim(a, rank) for a in op.ints(3)] if op.has(3) else list(range(rank))
    before = dict(zip(axes, pads[: len(axes)]))
    after = dict(zip(axes, pads[len(axes) :]))
    for axis in axes:  # a negative pad crops
        start, end = max(0, -before[axis]), x.shape[axis] - max(0, -after[axis])
        x = op.b.slice(x, axis, start, end)
    flat = [max(0, side.get(axis, 0)) for axis in reversed(range(rank)) for side in (before, after)]
    fill = op.scalar(2) if op.has(2) and mode == "constant" else 0
    return pad(op, x, flat, mode, fill)


def pad(op: Op, x: Value, flat: list[int], mode: str = "constant", fill: float | int | bool = 0) -> Value:
    """Pads by (before, after) pairs from the last dim on, as torch counts them."""
    while len(flat) >= 2 and flat[-2:] == [0, 0]:
        flat = flat[:-2]
    if not flat:
        return x
    if mode == "constant":
        extra: tuple[Any, ...] = (fill,) if fill else ()
        return op.b.call(aten.constant_pad_nd.default, x, flat, *extra)
    torch_mode = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}.get(mode)
    if torch_mode is None or len(flat) > 2 * (len(x.shape) - 2):
        return _pad_by_index(op, x, flat, mode)
    return op.b.call(aten.pad.default, x, flat, torch_mode)


def _pad_by_index(op: Op, x: Value, flat: list[int], mode: str) -> Value:
    """Padding of batch or channels, which torch's modes leave out: a gather of known indices."""
    for place in range(len(flat) // 2):
        dim = len(x.shape) - 1 - place
        size = x.shape[dim]
        where = torch.arange(-flat[2 * place], size + flat[2 * place + 1])
        if mode == "edge":
            where = where.clamp(0, size - 1)
        elif mode == "wrap":
            where = where % size
        elif mode == "reflect":
            where = (size - 1) - ((where % (2 * size - 2)) - (size - 1)).abs() if size > 1 else where * 0
        else:
            raise ModelError(f"its mode {mode!r} is not supported")
        if flat[2 * place] or flat[2 * place + 1]:
            x = op.b.call(aten.index_select.default, x, dim, Constant(where))
    return x


@TABLE("DepthToSpace")
def _depth_to_space(op: Op) -> Value:
    n, c, h, w = op[0].shape
    block = op.attr_int("blocksize")
    deep = c // (block * block)
    if op.attr_str("mode", "DCR") == "DCR":
        split, order = [n, block, block, deep, h, w], [0, 3, 4, 1, 5, 2]
    else:
        split, order = [n, deep, block, block, h, w], [0, 1, 4, 2, 5, 3]
    return op.b.reshape(op.b.permute(op.b.reshape(op[0], split), order), [n, deep, h * block, w * block])


@TABLE("SpaceToDepth")
def _space_to_depth(op: Op) -> Value:
    n, c, h, w = op[0].shape
    block = op.attr_int("blocksize")
    split = op.b.reshape(op[0], [n, c, h // block, block, w // block, block])
    moved = op.b.permute(split, [0, 3, 5, 1, 2, 4])
    return op.b.reshape(moved, [n, c * block * block, h // block, w // block])
