"""Byte sets of slices against the bytes themselves, on tensors small enough to list them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from tests.graph_builder import Builder, aten, spans
from vgcomp import ir
from vgcomp.ir import Axis, Span
from vgcomp.slice_bytes import ByteSet, Place, disjoint, first_overwrite, place_of, slice_bytes
from vgcomp.slices import contiguous_strides, read_slice

many = settings(max_examples=300, deadline=None)


def bytes_of(place: Place, axis: Axis | None, span: Span | None) -> set[int]:
    """Every byte of the slice, from a tensor that holds its own element numbers."""
    furthest = place.offset + sum((n - 1) * s for n, s in zip(place.shape, place.strides, strict=True))
    numbers = torch.arange(furthest + 1).as_strided(place.shape, place.strides, place.offset)
    return in_bytes(read_slice(numbers, axis, span), place.itemsize)


def in_bytes(numbers: Tensor, itemsize: int) -> set[int]:
    return {int(i) * itemsize + k for i in numbers.reshape(-1) for k in range(itemsize)}


def members(found: ByteSet) -> set[int]:
    starts = (range(0, count * stride, stride) for count, stride in found.repeats)
    return {found.start + sum(at) + i for at in itertools.product(*starts) for i in range(found.run)}


@dataclass(frozen=True)
class Layout:
    """A dense tensor whose dimensions lie in memory in some order, and one of its axes."""

    place: Place
    axis: Axis


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    outer, extent, inner = draw(st.integers(1, 2)), draw(st.integers(1, 5)), draw(st.integers(1, 2))
    others = draw(st.lists(st.integers(1, 3), max_size=3))
    dim = draw(st.integers(0, len(others)))
    shape = (*others[:dim], outer * extent * inner, *others[dim:])
    order = draw(st.permutations(range(len(shape))))
    strides = [0] * len(shape)
    for d, stride in zip(order, contiguous_strides([shape[d] for d in order]), strict=True):
        strides[d] = stride
    place = Place(shape, tuple(strides), draw(st.sampled_from([1, 2, 4])), draw(st.integers(0, 2)))
    return Layout(place, Axis(dim, extent, outer, inner))


def spans_of(extent: int) -> st.SearchStrategy[Span]:
    return st.tuples(st.integers(0, extent - 1), st.integers(1, extent)).map(lambda s: (s[0], max(s[0] + 1, s[1])))


@st.composite
def gapped(draw: st.DrawFn) -> Place:
    """Any strides at all: gaps, repeated elements, interleaved rows."""
    shape = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    strides = tuple(draw(st.integers(0, 9)) for _ in shape)
    return Place(shape, strides, draw(st.sampled_from([1, 2])), draw(st.integers(0, 3)))


@many
@given(layouts(), st.data())
def test_a_slice_of_a_dense_tensor_is_its_bytes(layout: Layout, data: st.DataObject) -> None:
    span = data.draw(spans_of(layout.axis.extent))
    assert members(slice_bytes(layout.place, layout.axis, span)) == bytes_of(layout.place, layout.axis, span)
    assert members(slice_bytes(layout.place, None, None)) == bytes_of(layout.place, None, None)


@many
@given(gapped())
def test_no_byte_of_any_tensor_is_left_out(place: Place) -> None:
    found = slice_bytes(place, None, None)
    assert members(found) >= bytes_of(place, None, None)
    assert found.end == max(members(found)) + 1


@many
@given(gapped(), gapped(), st.integers(0, 20))
def test_sets_called_disjoint_are(a: Place, b: Place, apart: int) -> None:
    first, second = slice_bytes(a, None, None), slice_bytes(replace(b, offset=b.offset + apart), None, None)
    assert not disjoint(first, second) or not members(first) & members(second)


@many
@given(layouts(), layouts(), st.data())
def test_slices_of_any_two_layouts_called_disjoint_are(a: Layout, b: Layout, data: st.DataObject) -> None:
    first = slice_bytes(a.place, a.axis, data.draw(spans_of(a.axis.extent)))
    second = slice_bytes(b.place, b.axis, data.draw(spans_of(b.axis.extent)))
    assert not disjoint(first, second) or not members(first) & members(second)


@many
@given(layouts(), st.data())
def test_slices_of_one_layout_are_told_apart_exactly(layout: Layout, data: st.DataObject) -> None:
    a, b = data.draw(spans_of(layout.axis.extent)), data.draw(spans_of(layout.axis.extent))
    first, second = (slice_bytes(layout.place, layout.axis, span) for span in (a, b))
    assert disjoint(first, second) == (not members(first) & members(second))


# -- whole loops -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A loop over a view ``operand`` of a storage, and ``numbers``: which element of the storage each is."""

    loop: ir.Loop
    operand: fx.Node
    numbers: Tensor


@st.composite
def loops(draw: st.DrawFn, same_layout: bool) -> Case:
    """A result over an operand: the steps in any order, each reading any span."""
    sizes = [draw(st.integers(1, 4)) for _ in range(3)]
    b = Builder()
    value = b.call(aten.neg.default, b.input("x", sizes))
    numbers = torch.arange(math.prod(sizes)).view(sizes)
    if not same_layout and sizes[0] > 1:
        value, numbers = b.call(aten.slice.Tensor, value, 0, 1, sizes[0]), numbers[1:]
    order = draw(st.permutations(range(3)))
    value, numbers = b.call(aten.permute.default, value, list(order)), numbers.permute(order)
    shape, dim = tuple(numbers.shape), draw(st.integers(0, 2))
    axis = Axis(dim, shape[dim])
    result = ir.Result(shape, torch.float32, axis, into=0, stride=tuple(numbers.stride()))
    if not same_layout:
        dim = draw(st.integers(0, 2))
        wanted = tuple(draw(st.integers(1, 4)) for _ in range(3))
        result = ir.Result(
            wanted, draw(st.sampled_from([torch.float16, torch.float32])), Axis(dim, wanted[dim]), into=0
        )
    assert result.axis is not None
    written = draw(st.permutations(spans(result.axis.extent, draw(st.integers(1, 2)))))
    steps = tuple(ir.Step(0, (draw(st.none() | spans_of(axis.extent)),), (span,)) for span in written)
    inner = Builder()
    body = ir.Body(inner.done(inner.call(aten.neg.default, inner.input("part", (1,)))), (0,), (0,))
    return Case(ir.Loop("loop", (body,), steps, (axis,), (result,)), value, numbers)


def first_hazard(case: Case) -> int | None:
    """The first step that reads a byte written before it, byte by byte."""
    (result,), written = case.loop.results, set[int]()
    place = Place(result.shape, result.stride or contiguous_strides(result.shape), result.dtype.itemsize)
    for i, step in enumerate(case.loop.steps):
        read = in_bytes(read_slice(case.numbers, case.loop.operand_axes[0], step.reads[0]), 4)
        if read & written:
            return i
        written |= bytes_of(place, result.axis, step.writes[0])
    return None


def step_found(case: Case) -> int | None:
    found = first_overwrite(case.loop, (case.operand,), 0)
    return None if found is None else found.step


@many
@given(loops(same_layout=True))
def test_a_result_in_its_operands_layout_is_judged_exactly(case: Case) -> None:
    assert step_found(case) == first_hazard(case)


@many
@given(loops(same_layout=False))
def test_no_overwrite_is_missed_in_any_layout(case: Case) -> None:
    found, true = step_found(case), first_hazard(case)
    assert true is None or (found is not None and found <= true)


@many
@given(st.integers(1, 6), st.integers(1, 4), st.integers(2, 16), st.booleans())
def test_growing_from_the_end_is_safe_where_no_slice_lands_on_unread_ones(
    extent: int, small: int, large: int, reverse: bool
) -> None:
    b = Builder()
    operand = b.call(aten.neg.default, b.input("x", (extent, small)))
    axis, shape = Axis(0, extent), (extent, large)
    steps = tuple(ir.Step(0, (span,), (span,)) for span in spans(extent, 1))
    inner = Builder()
    body = ir.Body(inner.done(inner.call(aten.neg.default, inner.input("part", (1, small)))), (0,), (0,))
    result = ir.Result(shape, torch.float32, axis, into=0)
    loop = ir.Loop("grow", (body,), steps[::-1] if reverse else steps, (axis,), (result,))
    case = Case(loop, operand, torch.arange(extent * small).view(extent, small))
    assert step_found(case) == first_hazard(case)
    if reverse:
        assert (first_hazard(case) is None) == (small <= large or extent == 1)


def test_a_view_lies_where_its_slices_begin() -> None:
    b = Builder()
    x = b.call(aten.neg.default, b.input("x", (4, 6)))
    part = b.call(aten.slice.Tensor, b.call(aten.permute.default, x, [1, 0]), 0, 2, 5)
    assert place_of(b.call(aten.slice.Tensor, part, 1, 1, 4)) == Place((3, 3), (1, 6), 4, 8)


def test_rows_of_every_channel_are_one_repeated_run() -> None:
    place = Place((2, 3, 16, 8), contiguous_strides((2, 3, 16, 8)), 4)
    assert slice_bytes(place, Axis(2, 16), (2, 4)) == ByteSet(64, 64, ((6, 512),))
