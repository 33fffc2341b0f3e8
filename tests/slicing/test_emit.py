"""Loops written from spans: they verify, compute what the ops did, and have few bodies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import fx

from tests.graph_builder import Builder, aten, own
from tests.slicing.loops import assert_same, outputs_of, spec_of, with_loop
from tests.slicing.test_spans import branches, conv_chain, rolled
from tests.test_simulate import program_of
from vgcomp import infer, ir
from vgcomp.axes import AxisMap
from vgcomp.ir import Axis
from vgcomp.slicing.emit import build_loop, dense_stride
from vgcomp.slicing.spans import LoopSpec
from vgcomp.verify import verify

BOTH = pytest.mark.parametrize("carry", [False, True], ids=["recompute", "carry"])


def check(graph: fx.Graph, spec: LoopSpec, into: dict[fx.Node, fx.Node] | None = None) -> ir.Loop:
    sliced, built = with_loop(graph, spec, into)
    program = program_of(sliced)
    verify(replace(program, output_names=tuple(f"out{k}" for k in range(len(program.outputs)))))
    assert_same(graph, sliced)
    return built.loop


def residual() -> fx.Graph:
    """A convolution, its input added: two windows on one operand."""
    b = Builder()
    x, w = b.input("x", (2, 3, 12)), b.weight("w", (3, 3, 3))
    y = b.call(aten.mul.Tensor, x, 2.0)
    return b.done(b.call(aten.add.Tensor, b.conv(b.call(aten.silu.default, y), w, [1]), y))


def first_frame_repeated() -> fx.Graph:
    """The first frame three times before the rest, as networks pad video in time; then a window."""
    b = Builder()
    x, w = b.input("x", (1, 3, 12)), b.weight("w", (3, 3, 3))
    y = b.call(aten.tanh.default, x)
    first = b.call(aten.slice.Tensor, y, 2, 0, 1)
    return b.done(b.conv(b.call(aten.cat.default, [first, first, y], 2), w, [0]))


def down_and_up() -> fx.Graph:
    """Stride 2, a window, and nearest neighbours back; a skip over all of it."""
    b = Builder()
    x, w = b.input("x", (1, 3, 12)), b.weight("w", (3, 3, 3))
    y = b.call(aten.silu.default, x)
    low = b.call(aten.convolution.default, y, w, None, [2], [1], [1], False, [0], 1)
    low = b.conv(b.call(aten.tanh.default, low), w, [1])
    up = b.call(aten.upsample_nearest1d.vec, low, [12], None)
    return b.done(b.call(aten.cat.default, [up, y], 1))


def strided_windows() -> fx.Graph:
    """Windows that skip elements, a step, and padding that no neighbour sees."""
    b = Builder()
    x, w = b.input("x", (1, 3, 24)), b.weight("w", (3, 3, 2))
    y = b.call(aten.slice.Tensor, b.call(aten.silu.default, x), 2, 1, 24, 2)
    y = b.call(aten.constant_pad_nd.default, y, [5, 6], 0.5)
    return b.done(b.call(aten.convolution.default, y, w, None, [2], [1], [1], False, [0], 1))


GRAPHS: dict[str, tuple[Callable[[], fx.Graph], Axis]] = {
    "chain": (conv_chain, Axis(2, 12)),
    "causal": (lambda: conv_chain(causal=True), Axis(2, 12)),
    "rolled": (rolled, Axis(1, 8)),
    "branches": (branches, Axis(2, 16)),
    "residual": (residual, Axis(2, 12)),
    "first frame repeated": (first_frame_repeated, Axis(2, 12)),
    "down and up": (down_and_up, Axis(2, 12)),
    "strided": (strided_windows, Axis(2, 12)),
    "by batch": (residual, Axis(0, 2)),
}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 12])
@BOTH
def test_the_loop_computes_the_same(name: str, n: int, carry: bool) -> None:
    make, axis = GRAPHS[name]
    graph = make()
    check(graph, spec_of(graph, axis, n, carry=carry))


@pytest.mark.parametrize("name", ["chain", "residual", "down and up"])
def test_slices_run_in_reverse(name: str) -> None:
    make, axis = GRAPHS[name]
    graph = make()
    loop = check(graph, spec_of(graph, axis, 3, reverse=True))
    written = [step.writes[0] for step in loop.steps]
    assert written == sorted(written, reverse=True)


@BOTH
def test_many_slices_share_few_bodies(carry: bool) -> None:
    graph = conv_chain(64)
    loop = check(graph, spec_of(graph, Axis(2, 64), 32, carry=carry))
    assert loop.n_slices == 32
    assert len(loop.bodies) <= 6


def test_frames_share_one_body() -> None:
    b = Builder()
    x, w = b.input("x", (12, 3, 4, 4)), b.weight("w", (3, 3, 3, 3))
    graph = b.done(b.conv(b.call(aten.silu.default, x), w, (1, 1)))
    loop = check(graph, spec_of(graph, Axis(0, 12), 6))
    assert (loop.n_slices, len(loop.bodies)) == (6, 1)


def frames_of_merged_batches() -> fx.Graph:
    """(batch*frames, C, H): a causal window over the frames, which are an inner factor."""
    b = Builder()
    x, w = b.input("x", (12, 3, 4)), b.weight("w", (3, 3, 3, 1))
    y = b.call(aten.silu.default, x)
    y = b.call(aten.permute.default, b.call(aten.reshape.default, y, [2, 6, 3, 4]), [0, 2, 1, 3])
    y = b.conv(b.call(aten.constant_pad_nd.default, y, [0, 0, 2, 0]), w, (0, 0))
    y = b.call(aten.reshape.default, b.call(aten.permute.default, y, [0, 2, 1, 3]), [12, 3, 4])
    return b.done(b.call(aten.tanh.default, y))


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@BOTH
def test_factors_of_merged_dimensions(n: int, carry: bool) -> None:
    graph = frames_of_merged_batches()
    check(graph, spec_of(graph, Axis(0, 6, outer=2), n, carry=carry))


@pytest.mark.parametrize("dims", [1, 2])
@BOTH
def test_moments_merge(dims: int, carry: bool) -> None:
    b = Builder()
    x, w = b.input("x", (2, 4, 8, 6)), b.weight("w", (4, 4, 3, 3))
    y = b.conv(b.call(aten.silu.default, x), w, (1, 1))
    graph = b.done(b.call(own.group_moments.default, y, 2))
    calls = [node for node in graph.nodes if node.op == "call_function"]
    axis = Axis(2, 8) if dims == 1 else Axis(3, 3, inner=2)
    kept = calls[-1:] if dims == 2 else calls
    spec = LoopSpec(tuple(kept), dict.fromkeys(kept, axis), (calls[-1],), frozenset(calls[-1:]), 3, carry)
    loop = check(graph, spec)
    assert loop.results[0].combine == "moments"
    assert all(step.writes == (None,) for step in loop.steps)


@BOTH
def test_results_take_over_the_strides_of_what_they_replace(carry: bool) -> None:
    b = Builder()
    x = b.call(aten.permute.default, b.input("x", (4, 6, 3)), [0, 2, 1])
    graph = b.done(b.call(aten.silu.default, b.call(aten.mul.Tensor, x, 2.0)))
    loop = check(graph, spec_of(graph, Axis(2, 6), 3, carry=carry))
    assert loop.results[0].stride == (18, 1, 3)


def test_in_place_over_the_operand_with_its_halo_carried() -> None:
    b = Builder()
    x, w = b.input("x", (1, 3, 12)), b.weight("w", (3, 3, 3))
    y = b.call(aten.mul.Tensor, x, 2.0)
    out = b.call(aten.silu.default, b.conv(y, w, [1]))
    graph = b.done(out)
    for n in (2, 3, 4, 12):
        spec = spec_of(graph, Axis(2, 12), n, carry=True, outside=(y.name,), overwritten=frozenset((y,)))
        loop = check(graph, spec, {out: y})
        assert loop.results[0].into == 0
        reads = [step.reads[0] for step in loop.steps if step.reads[0] is not None]
        assert all(a[1] == b[0] for a, b in zip(reads, reads[1:], strict=False)), "each element is read once"


def test_an_operand_read_along_two_axes_comes_twice() -> None:
    b = Builder()
    x = b.input("x", (6, 6))
    y = b.call(aten.neg.default, x)
    graph = b.done(b.call(aten.add.Tensor, y, b.call(aten.permute.default, y, [1, 0])))
    built = build_loop("loop", spec_of(graph, Axis(0, 6), 3, outside=(y.name,)), AxisMap(), {}, "a note")
    assert built.operands == [y, y]
    assert set(built.loop.operand_axes) == {Axis(0, 6), Axis(1, 6)}
    assert built.loop.note == "a note"
    check(graph, spec_of(graph, Axis(0, 6), 3, outside=(y.name,)))


def test_dense_stride() -> None:
    make = infer.fake_tensor
    assert dense_stride(make((2, 3), torch.float32)) is None
    assert dense_stride(make((2, 3), torch.float32, (1, 2))) == (1, 2)
    assert dense_stride(make((2, 3), torch.float32, (6, 1))) is None, "with gaps"


def test_the_same_loop_twice_is_the_same_loop() -> None:
    graph = conv_chain()
    one, two = (with_loop(graph, spec_of(graph, Axis(2, 12), 4, carry=True))[0] for _ in range(2))
    assert program_of(one).text() == program_of(two).text()
    assert all(torch.equal(a, b) for a, b in zip(outputs_of(one), outputs_of(two), strict=True))
