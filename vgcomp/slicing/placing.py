"""Where a region's results may lie: in the buffer of an operand that dies in it, slice over slice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from vgcomp import ir
from vgcomp.axes import is_summed
from vgcomp.ir import Axis
from vgcomp.slicing.regions import RECOMPUTE, Grow, Into

if TYPE_CHECKING:
    from vgcomp.slicing.growth import Growth


def placed(growth: Growth, mode: int) -> tuple[Into, ...]:
    """Results that may take a dying operand's buffer, greedily."""
    found: list[Into] = []
    sizes, buffer = growth.problem.size, growth.problem.buffer
    taken: set[fx.Node] = set()
    for result in growth.results():
        if is_summed(result, growth.axis_of[result]):
            continue
        size, mine = sizes[result], buffer[result]
        fitting = [x for x in growth.pending if sizes[x] == size and x not in taken]
        # First what the op itself would overwrite: names of buffers, and what is reserved in them, then stay.
        if len(fitting) > 1:
            fitting.sort(key=lambda x: buffer.get(x) is not mine)
        for x in fitting:
            wanted = growth.pending[x]
            if wanted.clash or (mode == RECOMPUTE and wanted.halo) or _read_whole(growth, x):
                continue
            if _dies_inside(growth, x) and _same_place(growth, x, wanted.axis, result):
                found.append(Into(result, x))
                taken.add(x)
                break
    return tuple(found)


def grown(growth: Growth) -> Grow | None:
    """The dying operand over which the only result may grow."""
    results = growth.results()
    if len(results) != 1:
        return None
    (result,) = results
    size, axis = growth.problem.size, growth.axis_of[result]
    if is_summed(result, axis):
        return None
    smaller = [x for x in growth.pending if size[x] < size[result] <= size[x] * 16]
    if not smaller or not _outermost(_place(growth, result, axis), axis, ir.val(result).numel()):
        return None
    for x in smaller:
        wanted = growth.pending[x]
        if wanted.halo or wanted.clash or _read_whole(growth, x):
            continue
        if not _dies_inside(growth, x) or not _alone(growth, x):
            continue
        source = _place(growth, x, wanted.axis)
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


def _dies_inside(growth: Growth, x: fx.Node) -> bool:
    """True where the region is the last to use the buffer of ``x``, which was there before it."""
    buffer = growth.problem.buffer.get(x)
    if buffer is None or buffer.kind not in ("value", "output"):
        return False
    inside_result = id(buffer) in growth.outputs and id(buffer) in growth.covered
    return growth.problem.last[id(buffer)] < growth.end or inside_result


def _same_place(growth: Growth, x: fx.Node, axis: Axis, result: fx.Node) -> bool:
    """True when each slice of the result lies in memory just where the same slice of ``x`` did."""
    return _alone(growth, x) and _place(growth, x, axis) == _place(growth, result, growth.axis_of[result])


def _place(growth: Growth, x: fx.Node, axis: Axis) -> tuple[Any, ...] | None:
    """:func:`placement`, remembered."""
    known, key = growth.problem.places, (x, axis)
    if key not in known:
        known[key] = placement(ir.val(x), axis)
    return known[key]


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
