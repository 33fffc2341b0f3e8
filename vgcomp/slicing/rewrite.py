"""Writes a plan into a graph: each region becomes its statistics loops and one loop of results."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import fx

from vgcomp import ir
from vgcomp.axes import AxisMap
from vgcomp.infer import evaluate_fake
from vgcomp.ir import Loop
from vgcomp.slicing.emit import BuiltLoop, build_loop
from vgcomp.slicing.plan import Choice, Plan
from vgcomp.slicing.prepare import assign_reuse, fuse_group_norms
from vgcomp.slicing.problem import Problem
from vgcomp.slicing.spans import LoopSpec, reads_of


def rewrite(problem: Problem, plan: Plan) -> fx.Graph:
    """The problem's graph with the plan's regions as loops; a new graph."""
    writer = _Writer(problem)
    by_first = {choice.region.first: choice for choice in plan.choices}
    for node in problem.graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            writer.copy(node)
    i = 0
    while i < problem.n:
        choice = by_first.get(i)
        if choice is None:
            writer.copy(problem.nodes[i])
            i += 1
            continue
        writer.region(choice)
        i = choice.region.end
    writer.copy(problem.graph.output_node())
    fuse_group_norms(writer.graph)
    drop_dead(writer.graph)
    assign_reuse(writer.graph)
    return writer.graph


def drop_dead(graph: fx.Graph) -> None:
    """Removes calls and weights that nothing uses."""
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op in ("call_function", "get_attr"):
            graph.erase_node(node)


class _Writer:
    """The new graph under construction, and where each old value is found in it."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.graph = fx.Graph()
        self.env: dict[fx.Node, fx.Node] = {}
        self.loops = 0

    def copy(self, node: fx.Node) -> None:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: self.env[n])
        new = self.graph.create_node(node.op, node.target, args, kwargs, node.name)
        new.meta = {k: v for k, v in node.meta.items() if k != "reuse"}
        self.env[node] = new

    def region(self, choice: Choice) -> None:
        region, problem = choice.region, self.problem
        for node in sorted((*region.prologue, *region.foreign), key=problem.index.__getitem__):
            self.copy(node)
        for barrier, axis in reversed(region.barriers):
            axis_of = {**region.axis_of, barrier: axis}
            spec = _spec(choice, axis_of, (barrier,), frozenset((barrier,)), problem.amap, problem.index)
            self._loop(spec, {}, f"statistics of {barrier.name}")
        results = exposed(region.axis_of, problem, region.end)
        spec = _spec(choice, region.axis_of, results, frozenset(), problem.amap, problem.index)
        pairs = {p.result: p.source for p in region.into[int(choice.carry)]}
        overwritten = frozenset(pairs.values()) if choice.carry else frozenset()
        self._loop(replace(spec, overwritten=overwritten), pairs, "")

    def _loop(self, spec: LoopSpec, into: Mapping[fx.Node, fx.Node], note: str) -> None:
        name = f"loop_{self.loops}"
        self.loops += 1
        into = {r: s for r, s in into.items() if r in spec.targets}
        built = build_loop(name, spec, self.problem.amap, into, note)
        loop = without_hazards(built, self.problem)
        for body in loop.bodies:
            fuse_group_norms(body.graph)
            drop_dead(body.graph)
            assign_reuse(body.graph)
        operands = tuple(self.env[x] for x in built.operands)
        node = self._call(ir.sliced, (loop, operands), name)
        for k, target in enumerate(built.targets):
            self.env[target] = self._call(operator.getitem, (node, k), target.name)

    def _call(self, target: Any, args: tuple[Any, ...], name: str) -> fx.Node:
        node = self.graph.create_node("call_function", target, args, {}, name)
        fake = fx.node.map_arg(args, lambda n: n.meta["val"])
        node.meta["val"] = evaluate_fake(target, fake)
        return node




def _spec(
    choice: Choice,
    axis_of: Mapping[fx.Node, ir.Axis],
    targets: tuple[fx.Node, ...],
    merged: frozenset[fx.Node],
    amap: AxisMap,
    index: Mapping[fx.Node, int],
) -> LoopSpec:
    """The loop that delivers ``targets``: they and all that leads to them in the region."""
    bare = LoopSpec((), axis_of, targets, merged, choice.n_slices, choice.carry)
    needed: set[fx.Node] = set()
    stack = list(targets)
    while stack:
        node = stack.pop()
        if node in needed:
            continue
        needed.add(node)
        stack.extend(x for _, x, _ in reads_of(bare, amap, node) if x in axis_of)
    nodes = tuple(sorted(needed, key=index.__getitem__))
    return replace(bare, nodes=nodes, axis_of={n: axis_of[n] for n in nodes})


def exposed(axis_of: Mapping[fx.Node, ir.Axis], problem: Problem, end: int) -> tuple[fx.Node, ...]:
    """Sliced ops whose values are used after the region, in order."""
    found = [n for n in axis_of if any(problem.index.get(user, end) >= end for user in n.users)]
    return tuple(sorted(found, key=problem.index.__getitem__))


def without_hazards(built: BuiltLoop, problem: Problem) -> Loop:
    """Takes back in-place results that would overwrite what a later step still reads."""
    loop = built.loop
    results = list(loop.results)
    for k, result in enumerate(results):
        if result.into is None:
            continue
        buffer = problem.buffer.get(built.operands[result.into])
        readers = [i for i, x in enumerate(built.operands) if problem.buffer.get(x) is buffer]
        if readers != [result.into] or _overwrites_unread(loop, k, result.into):
            results[k] = replace(result, into=None)
    return replace(loop, results=tuple(results))


def _overwrites_unread(loop: Loop, result: int, operand: int) -> bool:
    written: list[ir.Span] = []
    for step in loop.steps:
        read = step.reads[operand]
        if read is not None and _overlap(written, read):
            return True
        span = step.writes[result]
        if span is not None:
            written.append(span)
    return False


def _overlap(spans: Iterable[ir.Span], other: ir.Span) -> bool:
    return any(lo < other[1] and other[0] < hi for lo, hi in spans)
