"""Slices of a factor axis in ONNX: cut out, put side by side, and turned back from Scan's stacking."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vgcomp.backends.onnx_export.emit_shape import slice_of
from vgcomp.backends.onnx_export.scope import Scope, Value
from vgcomp.errors import InternalError
from vgcomp.ir import Axis, Span


@dataclass(frozen=True)
class Segment:
    """The elements ``span`` of a result's axis, in the value ``name``."""

    span: Span
    name: str


def _split(shape: Sequence[int], axis: Axis, length: int) -> list[int]:
    """``shape`` with the axis' dimension as (outer, length * inner)."""
    return [*shape[: axis.dim], axis.outer, length * axis.inner, *shape[axis.dim + 1 :]]


def read_span(scope: Scope, x: Value, axis: Axis | None, span: Span | None) -> str:
    """The elements ``span`` of ``axis`` of ``x``, bounds constant."""
    if axis is None or span is None or span == (0, axis.extent):
        return x.name
    lo, hi = span[0] * axis.inner, span[1] * axis.inner
    if axis.outer == 1:
        return slice_of(scope, x.name, x.rank, axis.dim, lo, hi)
    parts = scope.reshape(x.name, _split(x.shape, axis, axis.extent))
    cut = slice_of(scope, parts, x.rank + 1, axis.dim + 1, lo, hi)
    return scope.reshape(cut, axis.narrowed_shape(x.shape, span[1] - span[0]))


def read_at(scope: Scope, x: Value, axis: Axis, start: str, length: int) -> str:
    """``length`` elements of ``axis`` from the int64 vector ``start``, which counts rows (element times inner)."""
    end = scope.op("Add", start, scope.ints([length * axis.inner]))
    # The reshape costs nothing and makes the shape, which depends on data so far, static again.
    shape = axis.narrowed_shape(x.shape, length)
    if axis.outer == 1:
        return scope.reshape(scope.op("Slice", x.name, start, end, scope.ints([axis.dim])), shape)
    parts = scope.reshape(x.name, _split(x.shape, axis, axis.extent))
    return scope.reshape(scope.op("Slice", parts, start, end, scope.ints([axis.dim + 1])), shape)


def unstacked(scope: Scope, stacked: str, n: int, piece: Sequence[int], axis: Axis) -> str:
    """``n`` pieces stacked on a new first dimension, side by side along ``axis`` instead."""
    before = math.prod(piece[: axis.dim]) * axis.outer
    length = piece[axis.dim] // (axis.outer * axis.inner)
    shape = axis.narrowed_shape(piece, n * length)
    if before == 1:
        return scope.reshape(stacked, shape)
    rows = scope.reshape(stacked, [n, before, math.prod(piece) // before])
    return scope.reshape(scope.op("Transpose", rows, perm=[1, 0, 2]), shape)


def assembled(scope: Scope, shape: Sequence[int], axis: Axis, segments: Sequence[Segment], what: str) -> str:
    """The whole tensor of ``shape``; where segments overlap, the later one counts."""
    visible = _visible(segments)
    spans = [part for part, _ in visible]
    gaps = any(a[1] != b[0] for a, b in itertools.pairwise(spans))
    if not spans or gaps or (spans[0][0], spans[-1][1]) != (0, axis.extent):
        raise InternalError(f"{what} is not written whole: steps write {spans} of {axis.extent}")
    names = [_part(scope, shape, axis, part, segment) for part, segment in visible]
    if len(names) == 1:
        return names[0]
    if axis.outer == 1:
        return scope.op("Concat", *names, axis=axis.dim)
    split = [scope.reshape(name, _split(shape, axis, hi - lo)) for name, (lo, hi) in zip(names, spans, strict=True)]
    return scope.reshape(scope.op("Concat", *split, axis=axis.dim + 1), shape)


def _visible(segments: Sequence[Segment]) -> list[tuple[Span, Segment]]:
    """The parts of each segment that no later one covers, in order along the axis."""
    parts: list[tuple[Span, Segment]] = []
    for segment in segments:
        lo, hi = segment.span
        kept = []
        for (a, b), earlier in parts:
            kept += [((a, min(b, lo)), earlier)] if a < lo else []
            kept += [((max(a, hi), b), earlier)] if b > hi else []
        parts = [*kept, (segment.span, segment)]
    return sorted(parts, key=lambda part: part[0])


def _part(scope: Scope, shape: Sequence[int], axis: Axis, part: Span, segment: Segment) -> str:
    lo, hi = segment.span
    if part == segment.span:
        return segment.name
    piece = Axis(axis.dim, hi - lo, axis.outer, axis.inner)
    # Only the shape matters for cutting; the dtype is whatever it is.
    value = Value(segment.name, piece.narrowed_shape(shape, hi - lo), torch.float32)
    return read_span(scope, value, piece, (part[0] - lo, part[1] - lo))
