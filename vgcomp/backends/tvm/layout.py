"""Where a value's elements lie in its storage, and how a kernel indexes them.

A value is a *view* of a storage, as in torch: shape, strides, offset. Offsets may move with the steps of loops: a
*move* is a scalar argument times a number of elements. A kernel sees the storage as a row-major tensor whose
dimensions are the strides' ratios, so that a view costs no copy and its indices stay plain sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vgcomp import ir
from vgcomp.slices import contiguous_strides


@dataclass(frozen=True, slots=True)
class Move:
    """``scalar`` (a loop's variable, from 0 to ``most``) times ``elements``."""

    scalar: str
    elements: int
    most: int


@dataclass(frozen=True, slots=True)
class View:
    """Elements of a storage: index i lies at ``offset + sum(moves) + sum(i[d] * strides[d])``."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    moves: tuple[Move, ...] = ()

    @property
    def numel(self) -> int:
        """Elements of the view."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def last(self) -> int:
        """The greatest position that it reaches."""
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return self.offset + reach + sum(move.most * move.elements for move in self.moves)

    def like(self, shape: Sequence[int], strides: Sequence[int], skip: int = 0) -> View:
        """A view of this view with its own shape and strides, ``skip`` elements further on."""
        return replace(self, shape=tuple(shape), strides=tuple(strides), offset=self.offset + skip)

    def narrowed(self, axis: ir.Axis, length: int, scalar: str, most: int) -> View:
        """``length`` elements of ``axis`` from the position in ``scalar`` on; only where that needs no copy."""
        stride = self.strides[axis.dim]
        strides = list(self.strides)
        if axis.outer > 1 and length < axis.extent:
            strides[axis.dim] = stride * axis.extent * axis.inner
        moves = self.moves if most == 0 else (*self.moves, Move(scalar, axis.inner * stride, most))
        return View(axis.narrowed_shape(self.shape, length), tuple(strides), self.offset, moves)

    def dense(self) -> bool:
        """True if it starts its storage and covers it without gaps, in any order of the dimensions."""
        return not self.offset and not self.moves and self.last == self.numel - 1


def row_major(shape: Sequence[int]) -> View:
    """A whole storage in row-major order."""
    return View(tuple(shape), contiguous_strides(shape))


@dataclass(frozen=True, slots=True)
class Coordinate:
    """One index into the tensor that a kernel sees: ``constant + sum(index[d] * f) + sum(scalars[m] * f)``."""

    constant: int
    dims: tuple[tuple[int, int], ...]
    moves: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Access:
    """How a kernel reads a view: the tensor's shape, and the coordinates as functions of the view's index."""

    shape: tuple[int, ...]
    coordinates: tuple[Coordinate, ...]

    def stride(self, dim: int) -> int:
        """Elements between neighbours along one of the view's dimensions."""
        units = contiguous_strides(self.shape)
        return sum(
            unit * factor
            for unit, coordinate in zip(units, self.coordinates, strict=True)
            for d, factor in coordinate.dims
            if d == dim
        )


def access(view: View, numel: int, *, exact: bool) -> Access:
    """How to index ``view`` in a storage of ``numel`` elements; one flat dimension where nothing better is possible.

    ``exact``: the tensor has to be all of the storage; otherwise it may be a part that the view does not leave.
    """
    if exact:
        return _stepped(view, numel) or _flat(view, numel)
    top = max((s for n, s in zip(view.shape, view.strides, strict=True) if n > 1), default=1) or 1
    # A slice's tensor is all of the storage, so that bodies whose slices lie elsewhere in it have one kernel.
    whole = numel // top * top if view.moves else -(-(view.last + 1) // top) * top
    found = _stepped(view, whole) if view.last < whole <= numel else None
    return found or _flat(view, view.last + 1)


def _flat(view: View, numel: int) -> Access:
    dims = tuple((d, s) for d, (n, s) in enumerate(zip(view.shape, view.strides, strict=True)) if n > 1 and s)
    moves = tuple((m, move.elements) for m, move in enumerate(view.moves))
    return Access((numel,), (Coordinate(view.offset, dims, moves),))


def _stepped(view: View, numel: int) -> Access | None:
    """With a dimension for each distinct stride, or None if the strides do not nest."""
    dims = [(d, n, s) for d, (n, s) in enumerate(zip(view.shape, view.strides, strict=True)) if n > 1 and s]
    strides = sorted({s for _, _, s in dims}, reverse=True)
    if not strides or any(a % b for a, b in zip(strides, strides[1:])) or numel % strides[0]:
        return None
    if strides[-1] > 1:
        strides.append(1)
    extents = [whole // stride for whole, stride in zip([numel, *strides], strides)]
    constants, rest = [], view.offset
    for stride in strides:
        constants.append(rest // stride)
        rest %= stride
    placed: list[list[tuple[int, int]]] = [[] for _ in strides]
    for m, move in enumerate(view.moves):
        at = next((k for k, stride in enumerate(strides) if move.elements % stride == 0), None)
        if at is None:
            return None
        placed[at].append((m, move.elements // strides[at]))
    found = []
    for k, stride in enumerate(strides):
        own = [(d, n) for d, n, s in dims if s == stride]
        reach = constants[k] + sum(n - 1 for _, n in own) + sum(view.moves[m].most * f for m, f in placed[k])
        if reach >= extents[k]:
            return None
        found.append(Coordinate(constants[k], tuple((d, 1) for d, _ in own), tuple(placed[k])))
    return Access(tuple(extents), tuple(found))


def memory_order(view: View) -> tuple[int, ...]:
    """The dimensions from the outermost in memory to the innermost; those of size 1 where they stand."""
    rank = len(view.shape)
    effective = list(view.strides)
    for d in reversed(range(rank)):
        if view.shape[d] == 1:
            effective[d] = effective[d + 1] * view.shape[d + 1] if d + 1 < rank else 1
    return tuple(sorted(range(rank), key=lambda d: (-effective[d], d)))
