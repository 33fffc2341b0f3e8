"""Writes a plan into a graph: each region becomes its statistics loops and one loop of results."""

from __future__ import annotations

import operator
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from vgcomp import ir
from vgcomp.axes import AxisMap, is_summed
from vgcomp.infer import evaluate_fake
from vgcomp.ir import Loop, Result
from vgcomp.slice_bytes import first_overwrite
from vgcomp.slicing.choices import Choice, Plan
from vgcomp.slicing.emit import BuiltLoop, build_loop
from vgcomp.slicing.plan import PlanSpace
from vgcomp.slicing.prepare import assign_reuse, fuse_attentions, fuse_group_norms
from vgcomp.slicing.problem import Problem
from vgcomp.slicing.regions import Region
from vgcomp.slicing.spans import LoopSpec, reads_of


@dataclass(frozen=True)
class Written:
    """A plan as a graph, and the nodes that each of its choices became."""

    graph: fx.Graph
    nodes_of: tuple[tuple[Choice, tuple[fx.Node, ...]], ...]


def rewrite(space: PlanSpace, plan: Plan) -> Written:
    """The problem's graph with the plan's regions as loops; a new graph."""
    problem = space.problem
    writer = _Writer(space)
    by_first = {choice.first: choice for choice in plan.choices}
    for node in problem.graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            writer.copy(node)
    made: list[tuple[Choice, tuple[fx.Node, ...]]] = []
    i = 0
    while i < problem.n:
        choice = by_first.get(i)
        if choice is None:
            writer.copy(problem.nodes[i])
            i += 1
            continue
        made.append((choice, writer.region(choice, space.region(choice))))
        i = choice.end
    writer.copy(problem.graph.output_node())
    tidy(writer.graph)
    return Written(writer.graph, tuple(made))


def tidy(graph: fx.Graph) -> None:
    """Buffers reused; norms (that overwrite nothing) and attentions whole again where no slice parts them."""
    drop_dead(graph)
    assign_reuse(graph)
    fuse_group_norms(graph)
    fuse_attentions(graph)


def drop_dead(graph: fx.Graph) -> None:
    """Removes calls and weights that nothing uses."""
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op in ("call_function", "get_attr"):
            graph.erase_node(node)


class _Writer:
    """The new graph under construction, and where each old value is found in it."""

    def __init__(self, space: PlanSpace) -> None:
        self.problem = space.problem
        self.built = space.built
        self.graph = fx.Graph()
        self.env: dict[fx.Node, fx.Node] = {}
        self.loops = 0

    def copy(self, node: fx.Node) -> None:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: self.env[n])
        new = self.graph.create_node(node.op, node.target, args, kwargs, node.name)
        new.meta = {k: v for k, v in node.meta.items() if k != "reuse"}
        if node.op == "call_function" and any(_moved(x, self.env[x]) for x in node.all_input_nodes):
            fake_args, fake_kwargs = fx.node.map_arg((args, kwargs), lambda n: n.meta["val"])
            new.meta["val"] = evaluate_fake(node.target, fake_args, fake_kwargs)
        self.env[node] = new

    def region(self, choice: Choice, region: Region) -> tuple[fx.Node, ...]:
        """Writes the region's loops; returns their nodes."""
        problem = self.problem
        made: list[fx.Node] = []
        for node in sorted((*region.prologue, *region.foreign), key=problem.index.__getitem__):
            self.copy(node)
        floating = views_from_outside(region.axis_of, problem)
        for node in floating:
            self.copy(node)
        for barrier, axis in reversed(region.barriers):
            axis_of = {**region.axis_of, barrier: axis}
            spec = _spec(choice, axis_of, (barrier,), frozenset((barrier,)), problem.amap, problem.index)
            made.append(self._loop((choice.edge, barrier), spec, {}, f"statistics of {barrier.name}"))
        results = exposed(region.axis_of, problem, region.end, set(floating))
        merged = frozenset(node for node in results if is_summed(node, region.axis_of[node]))
        spec = _spec(choice, region.axis_of, results, merged, problem.amap, problem.index)
        pairs = {p.result: p.source for p in region.into[int(choice.carry)]}
        if choice.grow and region.grow is not None:
            pairs = {region.grow.result: region.grow.source}
        overwritten = frozenset(pairs.values()) if choice.carry else frozenset()
        spec = replace(spec, overwritten=overwritten, reverse=choice.grow)
        made.append(self._loop((choice.edge, None), spec, pairs, "", choice.reserve))
        return tuple(made)

    def _loop(
        self,
        key: tuple[int, fx.Node | None],
        spec: LoopSpec,
        into: Mapping[fx.Node, fx.Node],
        note: str,
        reserve: tuple[int, int] | None = None,
    ) -> fx.Node:
        name = f"loop_{self.loops}"
        self.loops += 1
        if key not in self.built:
            self.built[key] = _finished(build_loop(name, spec, self.problem.amap, into, note))
        built = self.built[key]
        loop = replace(built.loop, name=name, results=tuple(self._reserved(built, reserve)))
        operands = tuple(self.env[x] for x in built.operands)
        node = self._call(ir.sliced, (loop, operands), name)
        for k, target in enumerate(built.targets):
            self.env[target] = self._call(operator.getitem, (node, k), target.name)
        return node

    def _reserved(self, built: BuiltLoop, reserve: tuple[int, int] | None) -> Iterator[Result]:
        """The results, one of them with the room that a later one will need."""
        for target, result in zip(built.targets, built.loop.results, strict=True):
            mine = reserve is not None and id(self.problem.buffer[target]) == reserve[0] and result.into is None
            yield replace(result, capacity=reserve[1]) if mine and reserve else result

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


def views_from_outside(axis_of: Mapping[fx.Node, ir.Axis], problem: Problem) -> list[fx.Node]:
    """Views in the region of what lies before it, in order: whoever uses them later may view it again."""
    found: dict[fx.Node, None] = {}
    for node in sorted(axis_of, key=problem.index.__getitem__):
        base = node.all_input_nodes[0] if node.all_input_nodes else node
        if problem.is_view[problem.index[node]] and (base not in axis_of or base in found):
            found[node] = None
    return list(found)


def exposed(
    axis_of: Mapping[fx.Node, ir.Axis], problem: Problem, end: int, floating: Container[fx.Node]
) -> tuple[fx.Node, ...]:
    """Sliced ops whose values are used after the region, in order."""
    outside = (n for n in axis_of if n not in floating)
    found = [n for n in outside if any(problem.index.get(user, end) >= end for user in n.users)]
    return tuple(sorted(found, key=problem.index.__getitem__))


def _moved(old: fx.Node, new: fx.Node) -> bool:
    """True when the new value lies in memory otherwise than the old one."""
    before, after = old.meta["val"], new.meta["val"]
    return before is not after and bool(before.stride() != after.stride())


def _finished(built: BuiltLoop) -> BuiltLoop:
    """Bodies tidied as the outer graph is, and unsafe in-place results taken back."""
    for body in built.loop.bodies:
        tidy(body.graph)
    return replace(built, loop=without_hazards(built))


def without_hazards(built: BuiltLoop) -> Loop:
    """Takes back in-place results that would overwrite what a later step still reads."""
    loop = built.loop
    into = (k for k, result in enumerate(loop.results) if result.into is not None)
    unsafe = {k for k in into if first_overwrite(loop, built.operands, k) is not None}
    results = (replace(result, into=None) if k in unsafe else result for k, result in enumerate(loop.results))
    return replace(loop, results=tuple(results)) if unsafe else loop
