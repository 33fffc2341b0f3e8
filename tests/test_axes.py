"""Every axis rule against brute force: one slice of an operand changed, which slices of the output change."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from tests.graph_builder import Builder, aten
from tests.op_cases import CASES, Case, covered_ops, make_case
from vgcomp import ir
from vgcomp.axes import WHOLE, AxisMap, Window, axes_of, conv_args, demands, moved_by_reshape, operands
from vgcomp.ir import Axis, Span
from vgcomp.slices import read_slice, write_slice

#: The dimensions that an op consumes or makes, or that no rule follows (convolutions: their channels).
OPAQUE = {
    "reshape: tear": {0, 1},
    "conv: transposed": {1, 2},
    "upsample: not a multiple": {2},
    "avg_pool2d: ceil": {2, 3},
    "avg_pool2d: padding not counted": {2},
    "max_pool2d: ceil": {2, 3},
    "max_pool2d: dilation": {2, 3},
    "pad: replicate": {2},
    "pad: reflect": {3},
    "embedding": {2},
    "linear": {2},
    "linear: no bias": {1},
    "matmul: vector": {0},
    "attention": {3},
    "attention: causal": {2, 3},
    "attention: mask a head": {3},
    "attention: mask shared": {3},
    "attention: rank 3": {2},
    "attention_partial": {3},
    "attention_finish": {3},
    "softmax": {2},
    "softmax: middle": {1},
    "layer_norm": {2},
    "layer_norm: two dims": {1, 2},
    "rms_norm": {2},
    "group_norm": {1, 2, 3},
    "group_norm_apply": {1},
    "group_moments": {0, 2},
}


def affected(case: Case, which: int, source: Axis, axis: Axis) -> list[set[int]]:
    """For each element of the output's ``axis``: the elements of operand ``which``'s axis that it depends on."""
    found: list[set[int]] = [set() for _ in range(axis.extent)]
    for seed in range(3):
        values = case.values(seed)
        before = case.run(values)
        for j in range(source.extent):
            for changed in perturbed(values[which], source, j):
                after = case.run([*values[:which], changed, *values[which + 1 :]])
                for k in changed_elements(before, after, axis):
                    found[k].add(j)
    return found


def changed_elements(before: Tensor, after: Tensor, axis: Axis) -> list[int]:
    """Elements of an axis whose slices differ; NaN equals itself."""
    differs = (before != after) & ~((before != before) & (after != after))
    rows = differs.unflatten(axis.dim, (axis.outer, axis.extent, axis.inner)).movedim(axis.dim + 1, 0)
    return rows.flatten(1).any(1).nonzero().flatten().tolist()  # type: ignore[no-any-return]


def perturbed(value: Tensor, axis: Axis, j: int) -> list[Tensor]:
    """The value with other numbers in element ``j`` of an axis: larger, smaller, shuffled signs."""
    out = []
    part = read_slice(value, axis, (j, j + 1))
    if value.dtype == torch.bool:
        changes = [~part]
    elif value.is_floating_point():
        changes = [part + 9.7, part - 9.7, -part * 1.5]
    else:
        changes = [(part + 1) % 3]
    for change in changes:
        copy = value.clone()
        write_slice(copy, axis, (j, j + 1), change)
        out.append(copy)
    return out


def hull(elements: set[int]) -> Span | None:
    return (min(elements), max(elements) + 1) if elements else None


@pytest.mark.parametrize("name", CASES)
def test_windows_are_what_the_output_depends_on(name: str) -> None:
    case = make_case(name)
    for axis in case.axes():
        wanted = demands(case.node, axis)
        if wanted is None:
            continue
        assert len(wanted) == len(operands(case.node))
        # An operand that comes twice is changed in one place at a time, as if it were two.
        for which, demand in enumerate(wanted):
            if isinstance(demand, Window):
                check_window(case, which, demand, axis)


def check_window(case: Case, which: int, window: Window, axis: Axis) -> None:
    x = operands(case.node)[which]
    assert window.axis.size == ir.val(x).shape[window.axis.dim], f"{window} does not describe {x}"
    depends = affected(case, which, window.axis, axis)
    for k, elements in enumerate(depends):
        needs = window.needs((k, k + 1))
        if is_exact(case, window):
            assert hull(elements) == (needs if needs[0] < needs[1] else None), (axis, window, k)
        else:
            assert all(needs[0] <= j < needs[1] for j in elements), (axis, window, k)
    for lo, hi in itertools.combinations(range(axis.extent + 1), 2):
        every = hull(set().union(*depends[lo:hi]))
        needs = window.needs((lo, hi))
        assert every is None or (needs[0] <= every[0] and every[1] <= needs[1])
        assert needs == (window.needs((lo, lo + 1))[0], window.needs((hi - 1, hi))[1]) or needs[0] == needs[1]


def is_exact(case: Case, window: Window) -> bool:
    """False where the interval has gaps (dilation), or most numbers give the same answer."""
    if case.node.target is aten.convolution.default:
        return max(conv_args(case.node).dilation) == 1
    return case.node.target is not aten.eq.Scalar


@pytest.mark.parametrize("name", CASES)
def test_every_dimension_is_followed_or_known_not_to_be(name: str) -> None:
    case = make_case(name)
    channels = {1} if name.startswith(("conv1d", "conv2d", "conv3d")) else set()
    found = {axis.dim for axis in axes_of(case.node) if demands(case.node, axis) is None}
    assert found == OPAQUE.get(name, channels)


def test_every_op_of_the_dialect_has_a_case() -> None:
    assert covered_ops() == ir.DIALECT


def test_an_input_has_no_rule() -> None:
    b = Builder()
    x = b.input("x", (4, 6))
    b.done(b.call(aten.neg.default, x))
    assert demands(x, Axis(0, 4)) is None


@pytest.mark.parametrize("src", [(4, 6), (2, 3, 4), (24,), (2, 2, 6), (12, 1, 2), (1, 8, 3)])
@pytest.mark.parametrize("dst", [(4, 6), (8, 3), (24,), (2, 12), (2, 2, 2, 3), (3, 8, 1)])
def test_moved_by_reshape_finds_the_same_elements(src: tuple[int, ...], dst: tuple[int, ...]) -> None:
    """By counting: each element of the axis holds the same flat numbers before and after; and it misses none."""
    flat = torch.arange(24)
    for axis in _axes_of_shape(src):
        moved = moved_by_reshape(src, dst, axis)
        slices = _slices(flat.reshape(src), axis)
        if moved is not None:
            assert _slices(flat.reshape(dst), moved) == slices
        else:
            assert all(_slices(flat.reshape(dst), other) != slices for other in _axes_of_shape(dst))


def _axes_of_shape(shape: tuple[int, ...]) -> list[Axis]:
    return [
        Axis(dim, extent, outer, size // extent // outer)
        for dim, size in enumerate(shape)
        for extent in range(2, size + 1)
        for outer in range(1, size // extent + 1)
        if size % (extent * outer) == 0
    ]


def _slices(value: Tensor, axis: Axis) -> list[set[int]]:
    return [set(read_slice(value, axis, (k, k + 1)).flatten().tolist()) for k in range(axis.extent)]


def test_rules_compose_along_a_path() -> None:
    """Frames of (batch*frames, C, H, W) through a reshape, a permute, a causal convolution and upsampling."""
    b = Builder()
    x, w = b.input("x", (10, 3, 4, 2), torch.float64), b.input("w", (3, 3, 3, 1, 1), torch.float64)
    video = b.call(aten.permute.default, b.call(aten.reshape.default, x, [2, 5, 3, 4, 2]), [0, 2, 1, 3, 4])
    padded = b.call(aten.constant_pad_nd.default, video, [0, 0, 0, 0, 2, 0])
    ones, zeros = [1, 1, 1], [0, 0, 0]
    conv = b.call(aten.convolution.default, padded, w, None, ones, zeros, ones, False, zeros, 1)
    up = b.call(aten.upsample_nearest3d.vec, conv, [10, 4, 2], None)
    b.done(up)
    amap = AxisMap()
    for lo, hi in itertools.combinations(range(11), 2):
        span, axis, node = (lo, hi), Axis(2, 10), up
        while node is not x:
            (first, *_) = amap.operands(node)
            found = amap.demands(node, axis)
            assert found is not None
            assert isinstance(found[0], Window)
            span, axis, node = found[0].needs(span), found[0].axis, first
        assert axis == Axis(0, 5, outer=2)
        assert span == (max(0, lo // 2 - 2), (hi - 1) // 2 + 1)
    assert amap.demands(conv, Axis(2, 5)) is amap.demands(conv, Axis(2, 5))
    assert amap.demands(conv, Axis(2, 5))[1] is WHOLE  # type: ignore[index]


def test_only_the_plain_window_is_the_identity() -> None:
    axis = Axis(0, 9)
    assert Window(axis).identity
    windows = (Window(axis, mul=2), Window(axis, div=2), Window(axis, first=-1), Window(axis, first=1, last=1))
    assert not any(window.identity for window in windows)


def test_axes_of_leaves_out_single_elements() -> None:
    b = Builder()
    x = b.input("x", (1, 4, 1, 6))
    b.done(b.call(aten.neg.default, x))
    assert axes_of(x) == [Axis(1, 4), Axis(3, 6)]
    assert math.prod(axis.extent for axis in axes_of(x)) == 24
