"""Small networks made by hand from a list of layers and two widths: the same ones that a supernet's choice leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import fx

from tests.graph_builder import Builder, aten
from tests.passes.support import program
from vgcomp.elastic import AxisMark, BlockMark, Marks
from vgcomp.program import Program
from vgcomp.weights import from_tensor

#: Images, their sides, and channels of a head.
N, SIDE, HEAD = 2, 4, 4
GROUPS = 2


class Net(Builder):
    """A builder that numbers weights. ``outer``: the stream's width; ``inner``: that within layers."""

    def __init__(self, outer: int, inner: int) -> None:
        super().__init__()
        self.outer, self.inner, self.count = outer, inner, 0
        self.axes: list[AxisMark] = []
        self.blocks: list[BlockMark] = []

    def fresh(self, *shape: int, decides: str = "", axis: int = 0, repeat: int = 1) -> fx.Node:
        """A new weight; one axis of it may be what a choice decides."""
        self.count += 1
        if decides:
            extents = {str(n): n for n in range(1, shape[axis] // repeat + 1)}
            self.axes.append(AxisMark(f"w{self.count}", axis, decides, extents, repeat))
        return self.weight(f"w{self.count}", shape)

    def convolution(
        self, x: fx.Node, before: int, after: int, kernel: int = 3, groups: int = 1, decides: str = ""
    ) -> fx.Node:
        weight, bias = self.fresh(after, before // groups, kernel, kernel, decides=decides), self.fresh(after)
        pad = [kernel // 2] * 2
        return self.call(aten.convolution.default, x, weight, bias, [1, 1], pad, [1, 1], False, [0, 0], groups)

    def norm(self, x: fx.Node, width: int) -> fx.Node:
        return self.call(aten.group_norm.default, x, GROUPS, self.fresh(width), self.fresh(width), 1e-5)

    def tokens(self, x: fx.Node, width: int) -> fx.Node:
        flat = self.call(aten.reshape.default, x, [N, width, SIDE * SIDE])
        return self.call(aten.permute.default, flat, [0, 2, 1])

    def image(self, x: fx.Node, width: int) -> fx.Node:
        turned = self.call(aten.permute.default, x, [0, 2, 1])
        return self.call(aten.reshape.default, turned, [N, width, SIDE, SIDE])

    def linear(self, x: fx.Node, before: int, after: int, decides: str = "", repeat: int = 1) -> fx.Node:
        weight = self.fresh(after, before, decides=decides, repeat=repeat)
        return self.call(aten.linear.default, x, weight, self.fresh(after))


def residual(net: Net, x: fx.Node) -> fx.Node:
    h = net.convolution(net.norm(x, net.outer), net.outer, net.inner, decides="inner")
    return net.call(aten.add.Tensor, x, net.convolution(net.call(aten.silu.default, h), net.inner, net.outer))


def depthwise(net: Net, x: fx.Node) -> fx.Node:
    return net.convolution(
        net.convolution(x, net.outer, net.outer, groups=net.outer), net.outer, net.outer, 1, decides="outer"
    )


def concat(net: Net, x: fx.Node) -> fx.Node:
    h = net.convolution(x, net.outer, net.inner, decides="inner")
    both = net.call(aten.cat.default, [x, h, x], 1)
    return net.convolution(
        net.norm(both, 2 * net.outer + net.inner), 2 * net.outer + net.inner, net.outer, 1, decides="outer"
    )


def _heads(net: Net, x: fx.Node, heads: int) -> fx.Node:
    parts = net.call(aten.reshape.default, x, [N, SIDE * SIDE, heads, HEAD])
    return net.call(aten.permute.default, parts, [0, 2, 1, 3])


def attention(net: Net, x: fx.Node) -> fx.Node:
    tokens = net.tokens(x, net.outer)
    weights = net.fresh(net.outer), net.fresh(net.outer)
    normed = net.call(aten.layer_norm.default, tokens, [net.outer], *weights, 1e-5)
    heads = net.inner // HEAD
    q, k, v = (_heads(net, net.linear(normed, net.outer, net.inner, decides=d), heads) for d in ("inner", "", ""))
    out = net.call(aten.permute.default, net.call(aten.scaled_dot_product_attention.default, q, k, v), [0, 2, 1, 3])
    out = net.call(aten.reshape.default, out, [N, SIDE * SIDE, net.inner])
    return net.call(aten.add.Tensor, x, net.image(net.linear(out, net.inner, net.outer), net.outer))


def split(net: Net, x: fx.Node) -> fx.Node:
    """A gated layer: the halves of one product."""
    both = net.linear(net.tokens(x, net.outer), net.outer, 2 * net.inner, decides="inner", repeat=2)
    value = net.call(aten.slice.Tensor, both, 2, 0, net.inner)
    gate = net.call(aten.slice.Tensor, both, 2, net.inner, 2 * net.inner)
    product = net.call(aten.mul.Tensor, value, net.call(aten.gelu.default, gate))
    return net.call(aten.add.Tensor, x, net.image(net.linear(product, net.inner, net.outer), net.outer))


def product(net: Net, x: fx.Node) -> fx.Node:
    """Weights in the other order, by matmul, and a bias that is a reshape."""
    out = net.call(
        aten.matmul.default, net.tokens(x, net.outer), net.fresh(net.outer, net.inner, decides="inner", axis=1)
    )
    bias = net.call(aten.reshape.default, net.fresh(net.inner), [1, 1, net.inner])
    out = net.call(aten.add.Tensor, out, net.call(aten.expand.default, bias, [N, SIDE * SIDE, net.inner]))
    last = net.fresh(net.inner, net.outer, decides="outer", axis=1)
    return net.image(net.call(aten.matmul.default, out, last), net.outer)


def pooled(net: Net, x: fx.Node) -> fx.Node:
    """Channels weighed by their means."""
    mean = net.call(aten.mean.dim, x, [2, 3], True)
    return net.call(aten.mul.Tensor, x, net.call(aten.sigmoid.default, net.convolution(mean, net.outer, net.outer, 1)))


LAYERS: dict[str, Callable[[Net, fx.Node], fx.Node]] = {
    layer.__name__: layer for layer in (residual, depthwise, concat, attention, split, product, pooled)
}

REMOVABLE = ("residual", "attention", "split")


def network(layers: Sequence[str], outer: int, inner: int) -> tuple[Program, Marks]:
    """A stream of ``outer`` channels through these layers, its weights absent; and marks of both widths.

    Marked are the weights that make channels, in one place each; what reads them follows. Layer n may go by
    ``block.<n>`` if it is a residual one.
    """
    net = Net(outer, inner)
    x = net.convolution(net.input("x", (N, 3, SIDE, SIDE)), 3, outer, decides="outer")
    for number, layer in enumerate(layers):
        before, x = x, LAYERS[layer](net, x)
        if layer in REMOVABLE:
            net.blocks.append(BlockMark(f"block.{number}", ("skip",), x.name, before.name))
    graph = net.done(net.convolution(x, outer, 3))
    first = next(node for node in graph.nodes if node.op == "call_function")
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        first.prepend(node)
    return program(graph), Marks(tuple(net.axes), tuple(net.blocks), ("resolution",))


def with_weights(given: Program, seed: int = 0) -> Program:
    """The program with random weights."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((name, weight.shape) for name, weight in given.weights.items())
    return replace(given, weights={n: from_tensor(n, torch.randn(shape, generator=generator)) for n, shape in shapes})
