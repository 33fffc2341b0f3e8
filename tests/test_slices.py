"""Slices of real tensors: what is read, what is a view of it, and that what is written is read back."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from vgcomp.ir import Axis
from vgcomp.slices import contiguous_strides, is_contiguous, read_slice, slice_copies, view_strides, write_slice

AXES = [
    Axis(dim, extent, outer, inner)
    for dim in (0, 1)
    for extent, outer, inner in itertools.product((1, 2, 3, 4, 6, 12), repeat=3)
    if extent * outer * inner == 12
]


def tensors() -> list[Tensor]:
    whole = torch.arange(12 * 12 * 2, dtype=torch.float32).reshape(12, 12, 2)
    return [whole, whole.permute(1, 0, 2), whole.permute(2, 1, 0).permute(2, 1, 0), whole[:1].expand(12, 12, 2)]


@pytest.mark.parametrize("axis", AXES)
def test_a_slice_is_a_view_where_it_says_so(axis: Axis) -> None:
    for x in tensors():
        for span in itertools.combinations(range(axis.extent + 1), 2):
            part = read_slice(x, axis, span)
            index = torch.arange(12).reshape(axis.outer, axis.extent, axis.inner)[:, span[0] : span[1]].flatten()
            assert torch.equal(part, x.index_select(axis.dim, index))
            assert tuple(part.shape) == axis.narrowed_shape(x.shape, span[1] - span[0])
            shared = part.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
            assert shared != slice_copies(x.stride(), axis, span)


@pytest.mark.parametrize("axis", AXES)
def test_what_is_written_is_read_and_nothing_else_changes(axis: Axis) -> None:
    for x in tensors()[:3]:
        for span in itertools.combinations(range(axis.extent + 1), 2):
            buffer = torch.zeros(12, 12, 2)
            value = read_slice(x, axis, span) + 1
            write_slice(buffer, axis, span, value)
            assert torch.equal(read_slice(buffer, axis, span), value)
            assert int(buffer.count_nonzero()) == value.numel()


def test_whole_operands_come_as_they_are() -> None:
    x = torch.zeros(3, 4)
    assert read_slice(x, None, None) is x
    assert read_slice(x, Axis(0, 3), None) is x
    assert not slice_copies(x.stride(), None, None)


@pytest.mark.parametrize("new_shape", [(24,), (4, 6), (2, 12), (2, 3, 4), (6, 1, 4), (12, 2), (3, 8), (2, 2, 2, 3)])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_strides_of_a_view_are_torchs(order: tuple[int, ...], new_shape: tuple[int, ...]) -> None:
    x = torch.zeros(2, 3, 4).permute(order)
    try:
        wanted = x.view(new_shape).stride()
    except RuntimeError:
        wanted = None
    assert view_strides(x.shape, x.stride(), new_shape) == wanted


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (1, 5, 1), (0, 3)])
def test_contiguous_strides(shape: tuple[int, ...]) -> None:
    assert contiguous_strides(shape) == torch.empty(shape).stride()
    assert is_contiguous(shape, contiguous_strides(shape))
