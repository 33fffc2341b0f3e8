"""Which bytes of a storage a slice takes, and whether a loop overwrites what it has still to read.

A loop's result may lie in an operand's storage: in the operand's own layout, in another one, or larger than it. Axis
spans do not tell whether that is safe, bytes do. The bytes of a slice are kept as a :class:`ByteSet`, a run repeated at
a few strides, so that neither the slices' sizes nor the number of steps matters. Answers err on one side only:
:func:`disjoint` and :func:`first_overwrite` never call safe what is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import fx

from vgcomp import ir
from vgcomp.ir import Axis, Loop, Span
from vgcomp.loops import alias_base, storage_root
from vgcomp.slices import contiguous_strides

aten = ir.aten


@dataclass(frozen=True, slots=True)
class ByteSet:
    """The bytes ``start + i0 * stride0 + i1 * stride1 + ... + [0, run)`` for each ``ik`` below ``count_k``.

    ``repeats`` holds (count, stride) pairs, the largest stride first; a stride is in bytes and no less than all that is
    repeated at it.
    """

    start: int
    run: int
    repeats: tuple[tuple[int, int], ...] = ()

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.start + sum((count - 1) * stride for count, stride in self.repeats) + self.run


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor in its storage: ``offset`` and ``strides`` in elements of ``itemsize`` bytes."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Overwrite:
    """Step ``step`` reads ``span`` of operand ``operand`` (None: all of it), part of which was overwritten before."""

    step: int
    operand: int
    span: Span | None


def slice_bytes(place: Place, axis: Axis | None, span: Span | None) -> ByteSet:
    """The bytes of elements ``span`` of ``axis``, of all elements where either is None; never fewer than they are."""
    start, dims = place.offset, list(zip(place.shape, place.strides, strict=True))
    if axis is not None and span is not None:
        stride = place.strides[axis.dim]
        start += span[0] * axis.inner * stride
        pitch = axis.inner * stride
        dims[axis.dim : axis.dim + 1] = [(axis.outer, axis.extent * pitch), (span[1] - span[0], pitch)]
        dims.append((axis.inner, stride))
    if any(size == 0 for size, _ in dims):
        return ByteSet(start * place.itemsize, 0)
    return _joined(start * place.itemsize, place.itemsize, [(n, stride * place.itemsize) for n, stride in dims])


def _joined(start: int, run: int, dims: Sequence[tuple[int, int]]) -> ByteSet:
    """A run repeated along ``dims``, each (size, stride in bytes), with neighbours that touch made one."""
    repeats: list[tuple[int, int]] = []
    reach = run
    for size, stride in sorted(dims, key=lambda dim: dim[1]):
        if size == 1 or stride == 0:
            continue
        if stride < reach or (not repeats and stride == run):
            # Touching, or interleaved: then all up to the last byte counts.
            run, repeats = reach + (size - 1) * stride, []
        elif repeats and stride == repeats[-1][0] * repeats[-1][1]:
            repeats[-1] = (repeats[-1][0] * size, repeats[-1][1])
        else:
            repeats.append((size, stride))
        reach += (size - 1) * stride
    return ByteSet(start, run, tuple(reversed(repeats)))


def disjoint(a: ByteSet, b: ByteSet) -> bool:
    """True only where no byte is in both sets.

    Sets apart are disjoint. Sets that interleave are compared modulo a stride of theirs: what repeats at it then
    falls together, and if the remainders are disjoint, the period before and the one after included, so are the sets.
    Two slices of one dense layout are always told apart so.
    """
    if not a.run or not b.run or a.end <= b.start or b.end <= a.start:
        return True
    periods = {stride for _, stride in (*a.repeats, *b.repeats)}
    return any(_disjoint_modulo(a, b, period) for period in sorted(periods, reverse=True))


def _disjoint_modulo(a: ByteSet, b: ByteSet, period: int) -> bool:
    first, second = _modulo(a, period), _modulo(b, period)
    if max(first.end - first.start, second.end - second.start) > period:
        return False
    shifted = (replace(second, start=second.start + k * period) for k in (-1, 0, 1))
    return all(disjoint(first, other) for other in shifted)


def _modulo(a: ByteSet, period: int) -> ByteSet:
    """``a`` with what repeats at multiples of ``period`` laid on its first, which starts in the first period."""
    return ByteSet(a.start % period, a.run, tuple((count, stride) for count, stride in a.repeats if stride % period))


def place_of(node: fx.Node) -> Place:
    """Where a value lies in the storage of its :func:`~vgcomp.loops.storage_root`."""
    value = ir.val(node)
    return Place(tuple(value.shape), tuple(value.stride()), value.element_size(), _offset(node))


def _offset(node: fx.Node) -> int:
    """Elements before a value's first one: slices on the way from its storage add up, a loop's result starts at 0."""
    total = 0
    while not ir.is_loop(node) and not ir.is_getitem(node):
        base = alias_base(node)
        if base is None:
            break
        if node.target is aten.slice.Tensor:
            dim, start = node.args[1], node.args[2]
            assert isinstance(dim, int)
            assert isinstance(start, int)
            total += start * ir.val(base).stride(dim)
        node = base
    return total


@dataclass(slots=True)
class _Written:
    """The spans of one result that have been written, neighbours joined, and where they lie."""

    place: Place
    axis: Axis
    spans: list[Span] = field(default_factory=list)

    def add(self, span: Span) -> None:
        start, end = span
        apart = []
        for known in self.spans:
            if known[1] < start or end < known[0]:
                apart.append(known)
            else:
                start, end = min(start, known[0]), max(end, known[1])
        self.spans = [*apart, (start, end)]

    def meets(self, other: ByteSet) -> bool:
        return any(not disjoint(slice_bytes(self.place, self.axis, span), other) for span in self.spans)


def first_overwrite(loop: Loop, operands: Sequence[fx.Node], result: int) -> Overwrite | None:
    """The first read that finds part of its operand overwritten by an earlier step's slice of ``result``.

    ``operands`` are the loop's, of a graph in which they share storage as they will when the loop runs. Within a step
    reading comes before writing (:func:`vgcomp.loops.plan_outputs`), and what a line buffer holds is no longer in the
    operand. None where the result has a storage of its own.
    """
    spec = loop.results[result]
    if spec.into is None or spec.axis is None:
        return None
    root = storage_root(operands[spec.into])
    places = {k: place_of(x) for k, x in enumerate(operands) if storage_root(x) == root}
    strides = contiguous_strides(spec.shape) if spec.stride is None else spec.stride
    written = _Written(Place(spec.shape, strides, spec.dtype.itemsize), spec.axis)
    read_by = [frozenset(_operands_read(body)) for body in loop.bodies]
    for i, step in enumerate(loop.steps):
        for k in read_by[step.body] & places.keys():
            if written.meets(slice_bytes(places[k], loop.operand_axes[k], step.reads[k])):
                return Overwrite(i, k, step.reads[k])
        mine = step.writes[result]
        if mine is not None:
            written.add(mine)
    return None


def _operands_read(body: ir.Body) -> Iterator[int]:
    """Operands whose slices the body uses; what nothing uses is never read."""
    placeholders = (node for node in body.graph.nodes if node.op == "placeholder")
    return (k for k, node in zip(body.operands, placeholders, strict=False) if node.users)
