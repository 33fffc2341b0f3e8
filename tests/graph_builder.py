"""Hand-made graphs of the dialect, and the loops that tests run and measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from vgcomp import infer, ir
from vgcomp.slices import read_slice

aten = torch.ops.aten
own = torch.ops.vgcomp


class Builder:
    """Builds one graph; every node gets its value."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.shapes: dict[str, tuple[int, ...]] = {}

    def input(self, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> fx.Node:
        return self.value(name, infer.fake_tensor(shape, dtype))

    def value(self, name: str, value: Tensor) -> fx.Node:
        """A placeholder with this fake value."""
        node = self.graph.placeholder(name)
        node.meta["val"] = value
        return node

    def weight(self, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> fx.Node:
        node = self.graph.get_attr(name)
        node.meta["val"] = infer.fake_tensor(shape, dtype)
        self.shapes[name] = tuple(shape)
        return node

    def call(self, target: Any, *args: Any, reuse: int | None = None, **kwargs: Any) -> fx.Node:
        node = self.graph.call_function(target, args, kwargs)
        node.meta["val"] = infer.node_value(node)
        if reuse is not None:
            node.meta["reuse"] = reuse
        return node

    def conv(self, x: fx.Node, weight: fx.Node, padding: Sequence[int]) -> fx.Node:
        ones, zeros = [1] * len(padding), [0] * len(padding)
        return self.call(aten.convolution.default, x, weight, None, ones, list(padding), ones, False, zeros, 1)

    def loop(self, loop: ir.Loop, operands: Sequence[fx.Node]) -> list[fx.Node]:
        """The loop's results."""
        import operator

        node = self.call(ir.sliced, loop, tuple(operands))
        return [self.call(operator.getitem, node, k) for k in range(len(loop.results))]

    def done(self, *outputs: fx.Node) -> fx.Graph:
        self.graph.output(tuple(outputs))
        self.graph.lint()
        return self.graph


def slice_of(node: fx.Node, axis: ir.Axis | None, span: ir.Span | None) -> Tensor:
    """The fake value of an operand's slice, with the strides that the runtime gives it."""
    with infer.shared_fake_mode():
        return read_slice(ir.val(node), axis, span)


def spans(extent: int, length: int) -> list[ir.Span]:
    return [(start, min(start + length, extent)) for start in range(0, extent, length)]


def random_inputs(graph: fx.Graph, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = [ir.val(node) for node in graph.nodes if node.op == "placeholder"]
    return [torch.randn(value.shape, generator=generator, dtype=value.dtype) for value in values]


def random_weights(graph: fx.Graph, seed: int = 1) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            generator = torch.Generator().manual_seed(seed + len(str(node.target)))
            value = ir.val(node)
            found[str(node.target)] = torch.randn(value.shape, generator=generator, dtype=value.dtype) * 0.3
    return found
