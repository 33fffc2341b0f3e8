"""Spans of the steps of a loop: cover everything, need only what is there, and compute nothing twice in carry mode."""

from __future__ import annotations

import pytest
from torch import fx

from tests.graph_builder import Builder, aten
from tests.slicing.loops import spec_of
from vgcomp.axes import AxisMap
from vgcomp.ir import Axis, Span
from vgcomp.slicing.spans import LoopSpec, Schedule, kept_tails, partition, reads_of, schedule_spans


@pytest.mark.parametrize("extent", [1, 2, 5, 7, 12, 64])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 64])
def test_partition_covers_in_order_with_equal_tiles(extent: int, n: int) -> None:
    spans = partition(extent, n)
    assert len(spans) <= n
    assert spans[0][0] == 0 and spans[-1][1] == extent
    assert all(a[1] == b[0] for a, b in zip(spans, spans[1:], strict=False))
    lengths = {hi - lo for lo, hi in spans[:-1]}
    assert len(lengths) <= 1
    assert 0 < spans[-1][1] - spans[-1][0] <= max(lengths, default=extent)


@pytest.mark.parametrize(("extent", "base"), [(12, 6), (6, 12), (3, 12), (7, 5)])
def test_partition_follows_that_of_another_extent(extent: int, base: int) -> None:
    spans = partition(extent, 4, base)
    assert len(spans) == len(partition(base, 4))
    assert spans[0][0] == 0 and spans[-1][1] == extent
    assert all(a[1] == b[0] for a, b in zip(spans, spans[1:], strict=False))


def conv_chain(extent: int = 12, *, causal: bool = False) -> fx.Graph:
    """x -> conv (3) -> silu -> conv (3) along dimension 2."""
    b = Builder()
    x, w, v = b.input("x", (1, 3, extent)), b.weight("w", (3, 3, 3)), b.weight("v", (3, 3, 3))
    y = x
    for weight in (w, v):
        if causal:
            y = b.call(aten.constant_pad_nd.default, y, [2, 0])
        y = b.call(aten.silu.default, b.conv(y, weight, [0 if causal else 1]))
    return b.done(y)


def check(spec: LoopSpec, schedule: Schedule) -> None:
    """Whatever a node computes in a step, it finds: made in this step, or kept from an earlier one."""
    amap = AxisMap()
    steps, tails = schedule.steps, kept_tails(schedule)
    have: dict[object, Span] = {}
    for k, step in enumerate(steps):
        for item, span in step.new.items():
            assert span[0] < span[1]
            old = have.get(item) if item in schedule.carried else None
            have[item] = span if old is None else (old[0], span[1])
        for node in spec.nodes:
            span = step.new.get((node, spec.axis_of[node]))
            if span is None:
                continue
            for _, x, window in reads_of(spec, amap, node):
                lo, hi = window.needs(span)
                held = have.get((x, window.axis), (0, 0))
                assert lo >= hi or held[0] <= lo <= hi <= held[1], f"step {k}: {node} needs {(lo, hi)} of {x}: {held}"
        kept = {item: (max(have[item][0], start), have[item][1]) for item, start in tails[k].items() if item in have}
        assert set(kept) <= schedule.carried
        have = {item: span for item, span in kept.items() if span[0] < span[1]}
    for target in spec.targets:
        delivered = sorted(step.delivered[target] for step in steps if target in step.delivered)
        assert all(lo < hi for lo, hi in delivered)
        assert [0, *(hi for _, hi in delivered)] == [*(lo for lo, _ in delivered), spec.axis_of[target].extent]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("carry", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_chains_of_windows(n: int, carry: bool, causal: bool) -> None:
    spec = spec_of(conv_chain(causal=causal), Axis(2, 12), n, carry=carry)
    check(spec, schedule_spans(spec, AxisMap()))


def test_recompute_repeats_the_halo_and_carry_does_not() -> None:
    graph = conv_chain()
    first = next(node for node in graph.nodes if node.op == "call_function")
    for carry, total in ((False, 12 + 2 + 2), (True, 12)):
        spec = spec_of(graph, Axis(2, 12), 3, carry=carry)
        computed = [step.new[first, Axis(2, 12)] for step in schedule_spans(spec, AxisMap()).steps]
        assert sum(hi - lo for lo, hi in computed) == total
    assert computed == [(0, 5), (5, 9), (9, 12)]


def test_a_causal_chain_streams() -> None:
    """Padded at the start only: each step computes just its own part of every node."""
    graph = conv_chain(causal=True)
    spec = spec_of(graph, Axis(2, 12), 12, carry=True)
    for k, step in enumerate(schedule_spans(spec, AxisMap()).steps):
        for node in spec.nodes:
            if node.target is not aten.constant_pad_nd.default:
                assert step.new[node, Axis(2, 12)] == (k, k + 1)


def test_reverse_runs_the_last_slice_first() -> None:
    spec = spec_of(conv_chain(), Axis(2, 12), 3, reverse=True)
    schedule = schedule_spans(spec, AxisMap())
    assert [step.delivered[spec.targets[0]] for step in schedule.steps] == [(8, 12), (4, 8), (0, 4)]
    check(spec, schedule)


def rolled(extent: int = 8) -> fx.Graph:
    """silu(x) with its halves exchanged: what comes first in the result comes last in the operand."""
    b = Builder()
    x = b.call(aten.silu.default, b.input("x", (2, extent)))
    left, right = b.call(aten.slice.Tensor, x, 1, 0, extent // 2), b.call(aten.slice.Tensor, x, 1, extent // 2, extent)
    return b.done(b.call(aten.cat.default, [right, left], 1))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("carry", [False, True])
def test_what_is_needed_out_of_order_is_computed_when_it_is_needed(n: int, carry: bool) -> None:
    spec = spec_of(rolled(), Axis(1, 8), n, carry=carry)
    check(spec, schedule_spans(spec, AxisMap()))


def branches() -> fx.Graph:
    """A skip of another width beside two windows, and two results of different length."""
    b = Builder()
    x, w = b.input("x", (1, 3, 16)), b.weight("w", (3, 3, 3))
    y = b.call(aten.tanh.default, x)
    small = b.call(aten.convolution.default, b.call(aten.silu.default, y), w, None, [2], [1], [1], False, [0], 1)
    up = b.call(aten.upsample_nearest1d.vec, small, [16], None)
    return b.done(small, b.call(aten.add.Tensor, up, y))


@pytest.mark.parametrize("n", [2, 3, 5, 8, 16])
@pytest.mark.parametrize("carry", [False, True])
def test_results_of_other_lengths(n: int, carry: bool) -> None:
    spec = spec_of(branches(), Axis(2, 16), n, carry=carry)
    assert len(spec.targets) == 2
    check(spec, schedule_spans(spec, AxisMap()))
