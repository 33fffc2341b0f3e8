"""How a loop reads and writes slices: the one place that says when a slice is a view.

The runtime calls these on real tensors; passes call them on fake ones to give a body's placeholders
their true strides. ``vgcomp.memory`` charges a slice that is a copy and not one that is a view.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vgcomp.ir import Axis, Span


def read_slice(x: Tensor, axis: Axis | None, span: Span | None) -> Tensor:
    """The elements ``span`` of ``axis`` of ``x``, merged back to ``axis.narrowed_shape``.

    A view with the strides of ``x``, except where :func:`slice_copies` says that none exists: then
    a contiguous copy. ``x`` itself when ``axis`` or ``span`` is None.
    """
    if axis is None or span is None:
        return x
    if axis.outer == 1:
        return narrow(x, axis, span)
    start, end = span
    parts = x.unflatten(axis.dim, (axis.outer, axis.extent, axis.inner))
    return parts.narrow(axis.dim + 1, start, end - start).flatten(axis.dim, axis.dim + 2)


def narrow(x: Tensor, axis: Axis, span: Span) -> Tensor:
    """The view of elements ``span`` of an axis that is outermost in its dimension (``outer == 1``)."""
    return x.narrow(axis.dim, span[0] * axis.inner, (span[1] - span[0]) * axis.inner)


def slice_copies(strides: Sequence[int], axis: Axis | None, span: Span | None) -> bool:
    """True when :func:`read_slice` has to copy.

    That is for an inner factor of a merged dimension (``outer > 1``) cut short: rows
    ``extent * inner`` apart cannot merge into one dimension of ``length * inner`` a row, unless a row is
    one element (a frame of each batch, say).
    """
    if axis is None or span is None or axis.outer == 1:
        return False
    length = span[1] - span[0]
    return length < axis.extent and length * axis.inner > 1 and strides[axis.dim] != 0


def write_slice(buffer: Tensor, axis: Axis, span: Span, value: Tensor) -> None:
    """Copies ``value`` (of ``axis.narrowed_shape``) over the elements ``span`` of ``buffer``'s ``axis``."""
    if axis.outer == 1:
        narrow(buffer, axis, span).copy_(value)
        return
    start, end = span
    parts = buffer.unflatten(axis.dim, (axis.outer, axis.extent, axis.inner)).narrow(axis.dim + 1, start, end - start)
    parts.copy_(value.unflatten(axis.dim, (axis.outer, end - start, axis.inner)))


def view_strides(shape: Sequence[int], strides: Sequence[int], new_shape: Sequence[int]) -> tuple[int, ...] | None:
    """Strides of ``reshape(x, new_shape)`` when it is a view of x, None when it is a copy.

    The rule of ``at::detail::computeStride``: each run of dimensions that is contiguous in itself must
    be split or merged on its own.
    """
    if 0 in shape:
        return tuple(strides) if tuple(shape) == tuple(new_shape) else contiguous_strides(new_shape)
    if not shape:
        return (1,) * len(new_shape)
    out = [0] * len(new_shape)
    view_dim = len(new_shape) - 1
    base, old_numel, new_numel = strides[-1], 1, 1
    for dim in range(len(shape) - 1, -1, -1):
        old_numel *= shape[dim]
        if dim > 0 and (shape[dim - 1] == 1 or strides[dim - 1] == old_numel * base):
            continue
        while view_dim >= 0 and (new_numel < old_numel or new_shape[view_dim] == 1):
            out[view_dim] = new_numel * base
            new_numel *= new_shape[view_dim]
            view_dim -= 1
        if new_numel != old_numel:
            return None
        if dim > 0:
            base, old_numel, new_numel = strides[dim - 1], 1, 1
    return tuple(out) if view_dim == -1 else None


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides."""
    out, step = [1] * len(shape), 1
    for dim in range(len(shape) - 1, -1, -1):
        out[dim] = step
        step *= max(shape[dim], 1)
    return tuple(out)


def is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """True for row-major order without gaps (strides of dimensions of size 1 do not matter)."""
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size == 1:
            continue
        if stride != step:
            return False
        step *= size
    return True
