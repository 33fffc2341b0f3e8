"""What depends on what: the nodes that a cut graph still computes, their FLOPs, and which inputs they read."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from vgcomp import ir
from vgcomp.cost_models.work import work_of
from vgcomp.program import Program
from vgcomp.step_cuts.cut import upstream


def node_flops(node: fx.Node) -> float:
    """FLOPs of one call; those of a loop's bodies are all its steps'. 0 for what computes nothing."""
    if ir.is_loop(node):
        loop = ir.loop_of(node)
        bodies = [sum(node_flops(inner) for inner in body.graph.nodes) for body in loop.bodies]
        return sum(bodies[step.body] for step in loop.steps)
    if node.op != "call_function" or ir.is_getitem(node):
        return 0.0
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), ir.val)
    return work_of(node.target, args, kwargs, ir.val(node)).flops


def downstream(roots: Iterable[fx.Node]) -> set[fx.Node]:
    """``roots`` and all that is computed from them."""
    found = set(roots)
    stack = list(found)
    while stack:
        for node in stack.pop().users:
            if node not in found:
                found.add(node)
                stack.append(node)
    return found


def read_inputs(program: Program, outputs: Iterable[int] | None = None) -> frozenset[str]:
    """Names of the inputs that some output (of those numbered) depends on: the proof is a path in the graph."""
    results = program.outputs
    chosen = results if outputs is None else [results[i] for i in outputs]
    return frozenset(str(node.target) for node in upstream(chosen) if node.op == "placeholder")
