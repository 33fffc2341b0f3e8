"""Orders: the same ops, each before its uses, closer to them; the same again for a second time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx

from tests.graph_builder import Builder, aten
from tests.properties.graphs import programs, quick, run
from tests.properties.test_memory_properties import random_graph
from tests.sliced_examples import EXAMPLES
from tests.slicing.loops import outputs_of
from vgcomp.program import Program
from vgcomp.slicing.order import reorder
from vgcomp.verify import verify


def names(graph: fx.Graph) -> list[str]:
    return [node.name for node in graph.nodes if node.op == "call_function"]


def test_a_small_producer_moves_down_to_its_use() -> None:
    b = Builder()
    x, e, w = b.input("x", (4, 8)), b.input("e", (1, 4)), b.weight("w", (8, 4))
    scale = b.call(aten.linear.default, e, w)
    h = b.call(aten.silu.default, x)
    for _ in range(3):
        h = b.call(aten.tanh.default, h)
    graph = b.done(b.call(aten.mul.Tensor, h, scale))
    ordered, moved = reorder(graph)
    # The chain reads and makes as much: it sinks as well, in its order.
    assert names(ordered).index(scale.name) == len(names(ordered)) - 2
    assert moved


def test_what_reads_more_than_it_makes_stays() -> None:
    b = Builder()
    x, y = b.input("x", (4, 8)), b.input("y", (4, 8))
    large = b.call(aten.tanh.default, x)
    small = b.call(aten.mean.dim, large, [1], True)
    h = b.call(aten.silu.default, y)
    graph = b.done(b.call(aten.mul.Tensor, b.call(aten.mean.dim, h, [1], True), small))
    ordered, _ = reorder(graph)
    order = names(ordered)
    assert order.index(small.name) < order.index(h.name), "down below, the large operand would live on"


def test_keys_and_values_come_before_queries() -> None:
    b = Builder()
    x, w = b.input("x", (1, 6, 8)), b.weight("w", (8, 8))
    q, k, v = (b.call(aten.linear.default, x, w) for _ in range(3))
    graph = b.done(b.call(aten.scaled_dot_product_attention.default, q, k, v))
    assert names(reorder(graph)[0])[:3] == [k.name, v.name, q.name]


def test_dead_ops_and_inputs_stay() -> None:
    b = Builder()
    x = b.input("x", (4,))
    b.input("unused", (2,))
    b.call(aten.neg.default, x)
    graph = b.done(b.call(aten.exp.default, x))
    ordered, moved = reorder(graph)
    assert [node.name for node in ordered.nodes] == [node.name for node in graph.nodes]
    assert moved == 0


@pytest.mark.parametrize("name", EXAMPLES)
def test_loops_keep_their_place(name: str) -> None:
    for graph in EXAMPLES[name]():
        ordered, _ = reorder(graph)
        ordered.lint()
        assert sorted(names(ordered)) == sorted(names(graph))
        assert all(torch.equal(a, b) for a, b in zip(outputs_of(ordered), outputs_of(graph), strict=True))


@quick
@given(st.integers(0, 2**32))
def test_any_graph_stays_what_it_is(seed: int) -> None:
    graph = random_graph(seed)
    ordered, moved = reorder(graph)
    ordered.lint()
    assert sorted(names(ordered)) == sorted(names(graph))
    assert (names(ordered) == names(graph)) == (moved == 0)
    assert all(torch.equal(a, b) for a, b in zip(outputs_of(ordered), outputs_of(graph), strict=True))
    assert reorder(ordered)[1] == 0, "a second time there is nothing to move"


@quick
@given(programs())
def test_any_network_stays_what_it_is(program: Program) -> None:
    ordered, _ = reorder(program.graph)
    result = program.with_graph(ordered)
    verify(result)
    assert all(torch.equal(a, b) for a, b in zip(run(result), run(program), strict=True))
    assert reorder(ordered)[1] == 0
