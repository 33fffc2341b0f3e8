"""The graph with what is kept: weights cut, sizes in arguments replaced, shapes inferred anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from vgcomp import infer, ir
from vgcomp.axes import operands, slice_args
from vgcomp.elastic.kept import moved, spans
from vgcomp.elastic.solve import Solution
from vgcomp.elastic.system import System
from vgcomp.errors import UsageError
from vgcomp.weights import Spans, Weight

aten = ir.aten


class Rewriter:
    """Cuts the nodes of one graph, in place. Sizes are read off the values of before, so :meth:`run` infers last."""

    def __init__(self, graph: fx.Graph, system: System, solution: Solution) -> None:
        self.graph, self.system, self.solution = graph, system, solution

    def run(self, weights: dict[str, Weight]) -> dict[str, Weight]:
        """The weights cut, by name. Raises UsageError, naming the node, where a norm's groups do not come out even."""
        found = {str(n.target): self._cut(n, weights[str(n.target)]) for n in self.graph.nodes if n.op == "get_attr"}
        edits = [(node, _EDITS[node.target](self, node)) for node in self.graph.nodes if node.target in _EDITS]
        for node, args in edits:
            node.args = args
        for node in self.graph.nodes:
            if node.op == "get_attr":
                weight = found[str(node.target)]
                node.meta["val"] = infer.fake_tensor(weight.shape, weight.dtype)
        infer.propagate(self.graph)
        return found

    def shape(self, node: fx.Node) -> list[int]:
        """What a node's shape becomes."""
        return [self.solution.count(var) for var in self.system.dims(node)]

    def _cut(self, node: fx.Node, weight: Weight) -> Weight:
        picked: list[Spans | None] = [spans(self.solution.kept(var)) for var in self.system.dims(node)]
        return weight if all(one is None for one in picked) else weight.picked(picked)


def _shape_at(position: int) -> Callable[[Rewriter, fx.Node], tuple[Any, ...]]:
    def edit(rewriter: Rewriter, node: fx.Node) -> tuple[Any, ...]:
        args = list(node.args)
        args[position] = rewriter.shape(node)
        return tuple(args)

    return edit


def _slice(rewriter: Rewriter, node: fx.Node) -> tuple[Any, ...]:
    base = operands(node)[0]
    dim, start, end, step = slice_args(node)
    kept = rewriter.solution.kept(rewriter.system.dim(base, dim))
    start, end = moved(start, kept), moved(end, kept)
    if start == end:
        raise UsageError(f"{node.name}: nothing is left of what it takes of {base.name}: choose a greater width")
    return (base, dim, start, end, *((step,) if step != 1 else ()))


def _trailing_norm(rewriter: Rewriter, node: fx.Node) -> tuple[Any, ...]:
    count = len(node.args[1])  # type: ignore[arg-type]
    return (node.args[0], rewriter.shape(node)[-count:], *node.args[2:])


def _group_norm(rewriter: Rewriter, node: fx.Node) -> tuple[Any, ...]:
    channels, groups = rewriter.shape(node)[1], int(node.args[1])  # type: ignore[arg-type]
    if channels % groups:
        raise UsageError(f"{node.name}: {channels} channels are not a multiple of its {groups} groups: choose another")
    return node.args


def _convolution(rewriter: Rewriter, node: fx.Node) -> tuple[Any, ...]:
    if node not in rewriter.system.groups:
        return node.args
    return (*node.args[:8], rewriter.solution.count(rewriter.system.groups[node]))


_EDITS: dict[Any, Callable[[Rewriter, fx.Node], tuple[Any, ...]]] = {
    aten.reshape.default: _shape_at(1),
    aten.expand.default: _shape_at(1),
    aten.full.default: _shape_at(0),
    aten.slice.Tensor: _slice,
    aten.layer_norm.default: _trailing_norm,
    aten.rms_norm.default: _trailing_norm,
    aten.group_norm.default: _group_norm,
    aten.convolution.default: _convolution,
}
