"""A Program in parts: what runs as one model after the other, each with its own weights.

``meta["part"]`` of a call says which part it belongs to; parts do not decrease in the graph's order. Constants (what
follows from weights alone) belong to whichever parts use them, so they never cross from one part to the next.

    for part in split(program):
        part.input_names, part.output_names      # what it takes from before, and what later parts or the user need
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import fx

from vgcomp import infer, ir
from vgcomp.program import Program

PART = "part"


def part_of(node: fx.Node) -> int:
    """The part of a call; 0 where nothing was said."""
    return int(node.meta.get(PART, 0))


def n_parts(program: Program) -> int:
    """How many parts the program has."""
    return 1 + max((part_of(node) for node in program.graph.nodes), default=0)


def constants(graph: fx.Graph) -> set[fx.Node]:
    """Weights, and the calls that depend on nothing else."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        fixed = node.op == "call_function" and not ir.is_loop(node) and all(x in found for x in node.all_input_nodes)
        if node.op == "get_attr" or fixed:
            found.add(node)
    return found


def split(program: Program) -> list[Program]:
    """The parts as Programs of their own, in order; the program itself where it has one.

    An input is named as the program's own or as the node that made it in an earlier part; outputs likewise. Values that
    cross lie row-major. An output of the program that no call makes is put out by the last part.
    """
    count = n_parts(program)
    if count == 1:
        return [program]
    fixed = constants(program.graph)
    return [_part(program, k, count, fixed) for k in range(count)]


def _part(program: Program, k: int, count: int, fixed: set[fx.Node]) -> Program:
    calls = [n for n in program.graph.nodes if n.op == "call_function" and n not in fixed and part_of(n) == k]
    results = _results(program, k, count, fixed)
    order = {node: i for i, node in enumerate(program.graph.nodes)}
    wanted = _with_constants([*calls, *(node for _, node in results)], fixed)
    own = set(calls)
    outside = {x for node in wanted if node in own or node in fixed for x in node.all_input_nodes}
    outside |= {node for _, node in results}
    inputs = sorted((x for x in outside if x not in own and x not in fixed), key=order.__getitem__)
    graph, env = fx.Graph(), {}
    for node in inputs:
        made = graph.placeholder(str(node.target) if node.op == "placeholder" else node.name)
        value = ir.val(node)
        made.meta = _kept(node) | {"val": infer.fake_tensor(value.shape, value.dtype)}
        env[node] = made
    for node in sorted((n for n in wanted if n in own or n in fixed), key=lambda n: (n.op != "get_attr", order[n])):
        env[node] = _copied(graph, node, env.__getitem__)
    graph.output(tuple(env[node] for _, node in results))
    infer.propagate(graph)
    part = replace(program.with_graph(graph), name=f"{program.name}.part{k + 1}")
    return replace(part, output_names=tuple(name for name, _ in results))


def _copied(graph: fx.Graph, node: fx.Node, env: Callable[[fx.Node], fx.Node]) -> fx.Node:
    args: Any = fx.map_arg(node.args, env)
    kwargs: Any = fx.map_arg(node.kwargs, env)
    made = graph.create_node(node.op, node.target, args, kwargs, node.name)
    made.meta = _kept(node)
    return made


def _kept(node: fx.Node) -> dict[str, Any]:
    """What a part's node is told of the whole's: it is of one part now."""
    return {name: value for name, value in node.meta.items() if name != PART}


def _results(program: Program, k: int, count: int, fixed: set[fx.Node]) -> list[tuple[str, fx.Node]]:
    """(name, node) of what a part puts out: the program's outputs among its calls, and what later parts read."""
    found: list[tuple[str, fx.Node]] = []
    for name, node in zip(program.output_names, program.outputs, strict=True):
        made_here = node.op == "call_function" and node not in fixed and part_of(node) == k
        unmade = node.op == "placeholder" or node in fixed
        if made_here or (unmade and k == count - 1):
            found.append((name, node))
    named = {node for _, node in found}
    for node in program.graph.nodes:
        if node.op != "call_function" or node in fixed or node in named or part_of(node) != k:
            continue
        if any(user.op == "call_function" and part_of(user) > k for user in node.users):
            found.append((node.name, node))
    return found


def _with_constants(nodes: list[fx.Node], fixed: set[fx.Node]) -> set[fx.Node]:
    """The nodes and all constants that they rest on."""
    found, queue = set(nodes), list(nodes)
    while queue:
        for used in queue.pop().all_input_nodes:
            if used in fixed and used not in found:
                found.add(used)
                queue.append(used)
    return found
