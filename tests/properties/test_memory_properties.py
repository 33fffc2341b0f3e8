"""On random graphs of views, copies and ops, predicted peaks are measured peaks, buffers reused or not."""

from __future__ import annotations

import random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from tests.graph_builder import Builder, aten, random_inputs, random_weights
from vgcomp import ir
from vgcomp.backends.torch_module import run_graph
from vgcomp.memory import analyse
from vgcomp.slicing.prepare import assign_reuse
from vgcomp.track import LiveTracker

UNARY = [aten.silu.default, aten.neg.default, aten.tanh.default, aten.relu.default]


def random_graph(seed: int) -> fx.Graph:
    rng = random.Random(seed)
    b = Builder()
    values = [b.input(f"x{i}", (2, 4, 6)) for i in range(rng.randint(1, 2))]
    weight = b.weight("w", (6, 6))
    for _ in range(rng.randint(1, 14)):
        values.append(_step(b, rng, values, weight))
    calls = [value for value in values if value.op == "call_function"]
    outputs = rng.sample(calls, k=min(len(calls), rng.randint(1, 2)))
    graph = b.done(*outputs)
    graph.eliminate_dead_code()
    return graph


def _step(b: Builder, rng: random.Random, values: list[fx.Node], weight: fx.Node) -> fx.Node:
    x = rng.choice(values[-4:])
    shape = list(ir.val(x).shape)
    kind = rng.choice(
        ["unary", "unary", "binary", "binary", "permute", "reshape", "slice", "cat", "linear", "scalar", "sum"]
    )
    if kind == "permute":
        return b.call(aten.permute.default, x, rng.sample(range(len(shape)), len(shape)))
    if kind == "reshape":
        return b.call(aten.reshape.default, x, _regrouped(rng, shape))
    if kind == "slice":
        dim = rng.randrange(len(shape))
        return b.call(aten.slice.Tensor, x, dim, 0, max(1, shape[dim] // 2))
    if kind == "cat":
        return b.call(aten.cat.default, [x, x], rng.randrange(len(shape)))
    if kind == "linear" and shape[-1] == 6:
        return b.call(aten.linear.default, x, weight)
    if kind == "binary":
        other = rng.choice([value for value in values if ir.val(value).shape == ir.val(x).shape])
        return b.call(rng.choice([aten.add.Tensor, aten.mul.Tensor]), x, other)
    if kind == "scalar":
        return b.call(aten.mul.Tensor, x, 0.5)
    if kind == "sum" and len(shape) > 1:
        return b.call(aten.sum.dim_IntList, x, [rng.randrange(len(shape))], True)
    return b.call(rng.choice(UNARY), x)


def _regrouped(rng: random.Random, shape: list[int]) -> list[int]:
    if len(shape) > 1 and rng.random() < 0.7:
        at = rng.randrange(len(shape) - 1)
        return [*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :]]
    at = rng.randrange(len(shape))
    part = 2 if shape[at] % 2 == 0 else 1
    return [*shape[:at], part, shape[at] // part, *shape[at + 1 :]]


def measured(graph: fx.Graph) -> tuple[int, tuple[torch.Tensor, ...]]:
    inputs, weights = random_inputs(graph), random_weights(graph)
    with torch.no_grad(), LiveTracker(inputs) as tracker:
        out = run_graph(graph, inputs, weights)
    return tracker.peak, out


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_predicted_is_measured(seed: int) -> None:
    graph = random_graph(seed)
    peak, wanted = measured(graph)
    assert analyse(graph, workspace="cpu").peak == peak
    assign_reuse(graph)
    reused, found = measured(graph)
    assert analyse(graph, workspace="cpu").peak == reused <= peak
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
