"""The static programs of a cut: the full one with the values kept as outputs, the reuse one with them as inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import fx

from vgcomp import infer, ir
from vgcomp.ir import aten
from vgcomp.program import Program
from vgcomp.step_cuts.cut import Cut, Kept


def cache_names(cut: Cut) -> tuple[str, ...]:
    """Names of the values kept, as outputs of the full and inputs of the reuse program."""
    return tuple(f"cache_{i}" for i in range(len(cut.kept)))


def full_program(program: Program, cut: Cut) -> Program:
    """The program with the cut's values as further outputs: what it computed before stays bit for bit."""
    new = watched(program, cut.kept)
    return replace(new, output_names=(*program.output_names, *cache_names(cut)))


def watched(program: Program, values: Sequence[Kept]) -> Program:
    """The program with values of its graph as further outputs, ``watch_0`` and so on."""
    new = program.copy()
    pairs = Cut(tuple(values)).nodes(new)
    graph, results = new.graph, new.outputs
    end, order = graph.output_node(), _order(graph)
    for node, base in pairs:
        with graph.inserting_after(node if base is None else _later(order, node, base)):
            results.append(node if base is None else call(graph, aten.sub.Tensor, (node, base)))
    end.args = (tuple(_distinct(graph, results)),)
    names = (*program.output_names, *(f"watch_{i}" for i in range(len(pairs))))
    return replace(new, output_names=names)


def reuse_program(program: Program, cut: Cut) -> Program:
    """The program with the cut's values as further inputs, and what only they needed gone.

    All inputs of the original stay, read or not, so that both programs are called alike.
    """
    new = program.copy()
    graph = new.graph
    pairs, order = cut.nodes(new), _order(graph)
    for name, (node, base) in zip(cache_names(cut), pairs, strict=True):
        cache = _input(graph, name, _kept_value(node, base))
        taken = cache
        if base is not None:
            with graph.inserting_after(_later(order, node, base)):
                taken = call(graph, aten.add.Tensor, (base, cache))
        elif node in new.outputs:
            with graph.inserting_before(graph.output_node()):
                taken = call(graph, aten.clone.default, (cache,))
        _replace(node, taken)
    remove_dead(graph)
    sort_graph(graph)
    # A sum need not lie in memory as what it stands for did, nor what is computed from it.
    infer.propagate(graph)
    return new.with_graph(graph)


def call(graph: fx.Graph, target: object, args: tuple[object, ...]) -> fx.Node:
    """One more call at the graph's insertion point, with its value."""
    node = graph.call_function(target, args)  # type: ignore[arg-type]
    node.meta["val"] = infer.node_value(node)
    return node


def remove_dead(graph: fx.Graph) -> int:
    """Erases calls and weights without readers; how many."""
    dead = [node for node in reversed(list(graph.nodes)) if node.op in ("call_function", "get_attr")]
    before = len(graph.nodes)
    for node in dead:
        if not node.users:
            graph.erase_node(node)
    return before - len(graph.nodes)


def _replace(node: fx.Node, taken: fx.Node) -> None:
    """Readers of ``node`` read ``taken``."""
    for user in list(node.users):
        if user is not taken:
            user.replace_input_with(node, taken)


def sort_graph(graph: fx.Graph) -> None:
    """Moves each call right before the first reader that stood before it, and what it reads along."""
    placed = {node for node in graph.nodes if node.op in ("placeholder", "get_attr")}
    for node in [node for node in graph.nodes if node.op not in ("placeholder", "get_attr")]:
        _place(node, placed)


def _place(node: fx.Node, placed: set[fx.Node]) -> None:
    stack = [node]
    while stack:
        top = stack[-1]
        missing = [other for other in top.all_input_nodes if other not in placed]
        if missing:
            stack.extend(missing)
            continue
        stack.pop()
        if top is not node and top not in placed:
            node.prepend(top)
        placed.add(top)


def _kept_value(node: fx.Node, base: fx.Node | None) -> torch.Tensor:
    """What the full program puts out."""
    if base is None:
        return ir.val(node)
    found: torch.Tensor = infer.evaluate_fake(aten.sub.Tensor, (ir.val(node), ir.val(base)))
    return found


def _input(graph: fx.Graph, name: str, value: torch.Tensor) -> fx.Node:
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    with graph.inserting_after(last):
        node = graph.placeholder(name)
    node.meta["val"] = infer.fake_tensor(value.shape, value.dtype, value.stride())
    return node


def _order(graph: fx.Graph) -> dict[fx.Node, int]:
    """Where each node stands."""
    return {node: i for i, node in enumerate(graph.nodes)}


def _later(order: Mapping[fx.Node, int], a: fx.Node, b: fx.Node) -> fx.Node:
    """Whichever comes later, so that both have been computed after it; the last input or weight where both are."""
    last = max(a, b, key=order.__getitem__)
    if last.op == "call_function":
        return last
    return [node for node in order if node.op in ("placeholder", "get_attr")][-1]


def _distinct(graph: fx.Graph, results: Sequence[fx.Node]) -> list[fx.Node]:
    """Outputs, each a node of its own: a value that is put out twice is copied."""
    seen: set[fx.Node] = set()
    found = []
    for node in results:
        if node in seen:
            with graph.inserting_before(graph.output_node()):
                node = call(graph, aten.clone.default, (node,))
        seen.add(node)
        found.append(node)
    return found
