"""Whole graphs as one hand-asked loop, and real runs of both: what tests of spans and loops share."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from tests.graph_builder import random_inputs, random_weights
from vgcomp import infer, ir
from vgcomp.axes import AxisMap, Window
from vgcomp.backends.torch_module import run_graph
from vgcomp.ir import Axis
from vgcomp.program import copy_graph
from vgcomp.slicing.emit import BuiltLoop, build_loop
from vgcomp.slicing.spans import LoopSpec


def spec_of(
    graph: fx.Graph, axis: Axis, n_slices: int, *, carry: bool = False, outside: Sequence[str] = (), **more: Any
) -> LoopSpec:
    """One loop over every call of a graph but those named, by ``axis`` of its last output, however it goes on.

    Every output is delivered, along the axis that the demands of the last one give it.
    """
    outputs = graph.output_node().all_input_nodes
    axis_of: dict[fx.Node, Axis] = {outputs[-1]: axis}
    amap = AxisMap()
    nodes = []
    for node in reversed(list(graph.nodes)):
        if node not in axis_of or node.op != "call_function" or node.name in outside:
            continue
        nodes.append(node)
        found = amap.demands(node, axis_of[node])
        assert found is not None, f"{node} cannot be sliced along {axis_of[node]}"
        for x, demand in zip(amap.operands(node), found, strict=True):
            if isinstance(demand, Window) and x.op == "call_function" and x.name not in outside:
                assert axis_of.setdefault(x, demand.axis) == demand.axis
    kept = {node: axis_of[node] for node in reversed(nodes)}
    targets = tuple(node for node in outputs if node in kept)
    return LoopSpec(tuple(kept), kept, targets, frozenset(), n_slices, carry, **more)


def with_loop(
    graph: fx.Graph, spec: LoopSpec, into: dict[fx.Node, fx.Node] | None = None
) -> tuple[fx.Graph, BuiltLoop]:
    """The graph with the ops of ``spec`` as a loop."""
    built = build_loop("loop", spec, AxisMap(), into or {}, "")
    new, env = fx.Graph(), dict[fx.Node, fx.Node]()
    inside = set(spec.nodes)
    last = max(list(graph.nodes).index(x) for x in built.operands)
    placed = False
    for i, node in enumerate(graph.nodes):
        if node not in inside and node.op != "output":
            env[node] = _copy(new, node, env)
        if i >= last and not placed:
            placed = True
            _place(new, built, env)
    new.output(tuple(env[x] for x in graph.output_node().args[0]))  # type: ignore[union-attr]
    new.lint()
    return new, built


def _place(new: fx.Graph, built: BuiltLoop, env: dict[fx.Node, fx.Node]) -> None:
    args: tuple[Any, ...] = (built.loop, tuple(env[x] for x in built.operands))
    node = new.create_node("call_function", ir.sliced, args, {}, "loop")
    node.meta["val"] = infer.node_value(node)
    for k, target in enumerate(built.targets):
        env[target] = new.create_node("call_function", operator.getitem, (node, k), {}, target.name)
        env[target].meta["val"] = infer.node_value(env[target])


def _copy(new: fx.Graph, node: fx.Node, env: dict[fx.Node, fx.Node]) -> fx.Node:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), env.__getitem__)
    copied = new.create_node(node.op, node.target, args, kwargs, node.name)
    copied.meta = dict(node.meta)
    return copied


def outputs_of(graph: fx.Graph) -> tuple[Tensor, ...]:
    """The graph on random inputs and weights, the same for graphs of the same inputs."""
    return run_graph(copy_graph(graph), random_inputs(graph), random_weights(graph))


def assert_same(graph: fx.Graph, sliced: fx.Graph) -> None:
    """Both graphs compute the same, up to rounding, in the same layouts."""
    for wanted, found in zip(outputs_of(graph), outputs_of(sliced), strict=True):
        assert found.dtype == wanted.dtype
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
