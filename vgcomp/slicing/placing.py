"""Where a region's results may lie: in the buffer of an operand that dies in it, slice over slice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from vgcomp import ir
from vgcomp.ir import Axis
from vgcomp.slicing.regions import RECOMPUTE, Grow, Into

if TYPE_CHECKING:
    from vgcomp.slicing.growth import Growth


def placed(growth: Growth, first: int, mode: int) -> tuple[Into, ...]:
    """Results that may take a dying operand's buffer, greedily."""
    found: list[Into] = []
    free = dict(growth.pending)
    for result in growth.results():
        size = growth.problem.size[result]
        # First what the op itself would overwrite: names of buffers, and what is reserved in them, then stay.
        own = growth.problem.buffer[result]
        for x, wanted in sorted(free.items(), key=lambda item: growth.problem.buffer.get(item[0]) is not own):
            if growth.problem.size[x] != size or wanted.clash:
                continue
            if (mode == RECOMPUTE and wanted.halo) or _read_whole(growth, x):
                continue
            if _dies_inside(growth, x, first) and _same_place(growth, x, wanted.axis, result):
                found.append(Into(result, x))
                del free[x]
                break
    return tuple(found)


def grown(growth: Growth, first: int) -> Grow | None:
    """The dying operand over which the only result may grow."""
    results = growth.results()
    if len(results) != 1:
        return None
    (result,) = results
    size, place, axis = growth.problem.size, growth.limits.placement, growth.axis_of[result]
    if not _outermost(place(result, axis), axis, ir.val(result).numel()):
        return None
    for x, wanted in growth.pending.items():
        if size[x] >= size[result] or size[x] * 16 < size[result] or wanted.halo or wanted.clash:
            continue
        if _read_whole(growth, x) or not _dies_inside(growth, x, first) or not _alone(growth, x):
            continue
        source = place(x, wanted.axis)
        same_dtype = ir.val(x).dtype == ir.val(result).dtype
        if same_dtype and _outermost(source, wanted.axis, ir.val(x).numel()):
            return Grow(result, x, size[x], size[result] - size[x])
    return None


def _alone(growth: Growth, x: fx.Node) -> bool:
    """True when ``x`` is all of its buffer and the only view of it that the region reads."""
    buffer = growth.problem.buffer[x]
    return buffer.size == growth.problem.size[x] and sum(y in growth.pending for y in buffer.nodes) == 1


def _read_whole(growth: Growth, x: fx.Node) -> bool:
    buffer = growth.problem.buffer.get(x)
    return buffer is None or any(y in growth.whole for y in buffer.nodes)


def _dies_inside(growth: Growth, x: fx.Node, first: int) -> bool:
    buffer = growth.problem.buffer.get(x)
    if buffer is None or buffer.kind not in ("value", "output"):
        return False
    dies = growth.problem.last[id(buffer)]
    inside_result = id(buffer) in growth.outputs and id(buffer) in growth.covered
    return growth.problem.first[id(buffer)] < first and (dies < growth.end or inside_result)


def _same_place(growth: Growth, x: fx.Node, axis: Axis, result: fx.Node) -> bool:
    """True when each slice of the result lies in memory just where the same slice of ``x`` did."""
    if not _alone(growth, x):
        return False
    place = growth.limits.placement
    return place(x, axis) == place(result, growth.axis_of[result])


def placement(value: torch.Tensor, axis: Axis) -> tuple[Any, ...] | None:
    """Where the slices of an axis lie in a dense value's storage; None for a value with gaps.

    Equal placements may share a buffer slice by slice: an element range of the axis is the same set
    of bytes in both.
    """
    shape, strides = [int(n) for n in value.shape], [int(n) for n in value.stride()]
    expected = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1 and stride != expected:
            return None
        expected *= size
    return None if value.storage_offset() else (value.dtype, axis.extent, strides[axis.dim] * axis.inner)


def _outermost(place: tuple[Any, ...] | None, axis: Axis, elements: int) -> bool:
    """True when each slice of the axis is one run of bytes of a dense value, in the axis' order."""
    return place is not None and axis.outer == 1 and place[2] * axis.extent == elements
