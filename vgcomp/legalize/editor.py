"""Changes a graph in place: new nodes go before the one that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from vgcomp import infer, ir

aten = ir.aten


class Editor:
    """Puts nodes before ``anchor``, with its scope; views that change nothing are not made."""

    def __init__(self, graph: fx.Graph, anchor: fx.Node) -> None:
        self.graph = graph
        self.anchor = anchor

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A call with its value."""
        with self.graph.inserting_before(self.anchor):
            node = self.graph.call_function(target, args, kwargs)
        node.meta["val"] = infer.node_value(node)
        if "scope" in self.anchor.meta:
            node.meta["scope"] = self.anchor.meta["scope"]
        return node

    def reshape(self, x: fx.Node, shape: Sequence[int]) -> fx.Node:
        """``x`` with another shape."""
        if tuple(ir.val(x).shape) == tuple(shape):
            return x
        return self.call(aten.reshape.default, x, list(shape))

    def permute(self, x: fx.Node, dims: Sequence[int]) -> fx.Node:
        """``x`` with its dimensions in this order."""
        if list(dims) == list(range(len(dims))):
            return x
        return self.call(aten.permute.default, x, list(dims))

    def slice(self, x: fx.Node, dim: int, start: int, end: int, step: int = 1) -> fx.Node:
        """Elements ``start`` to ``end`` of a dimension."""
        size = ir.val(x).shape[dim]
        if (start, end, step) == (0, size, 1):
            return x
        bounds = (start, end) if step == 1 else (start, end, step)
        return self.call(aten.slice.Tensor, x, dim, *bounds)

    def cat(self, parts: Sequence[fx.Node], dim: int) -> fx.Node:
        """The parts side by side."""
        return parts[0] if len(parts) == 1 else self.call(aten.cat.default, list(parts), dim)

    def expand(self, x: fx.Node, shape: Sequence[int]) -> fx.Node:
        """``x`` with dimensions of 1 repeated."""
        if tuple(ir.val(x).shape) == tuple(shape):
            return x
        return self.call(aten.expand.default, x, list(shape))


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's value."""
    return tuple(int(size) for size in ir.val(node).shape)
