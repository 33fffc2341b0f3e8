"""Values of more dimensions than the device takes.

Each gets a stand-in of legal shape with the same elements in the same (row-major) order; its ops are done on
stand-ins whose neighbouring dimensions are merged where all operands allow it:

    %a = reshape(%x, [1, 32, 3, 2, 3, 2, 4, 2])           # rank 8: stands for %x itself
    %b = permute(%a, [0, 1, 5, 2, 6, 3, 7, 4])            # two transpositions of rank 5
    %y = reshape(%b, [1, 32, 6, 6, 8])                    # a reshape of the second one
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from vgcomp import ir
from vgcomp.errors import ModelError
from vgcomp.legalize.editor import Editor, shape_of
from vgcomp.legalize.permutations import steps

aten = ir.aten

#: Does one node of too many dimensions; returns a value with the result's elements in order.
Rule = Callable[["HighRank", Editor, fx.Node], fx.Node]


class HighRank:
    """Rewrites a graph in place until no value that is computed has more than ``limit`` dimensions."""

    def __init__(self, graph: fx.Graph, limit: int) -> None:
        self.graph = graph
        self.limit = limit
        self._stand_ins: dict[fx.Node, fx.Node] = {}

    def run(self) -> int:
        """How many nodes were rewritten. Raises ModelError for inputs and outputs of too many dimensions."""
        rewritten: list[fx.Node] = []
        for node in list(self.graph.nodes):
            if node.op == "placeholder" and self._high(node) and node.users:
                raise ModelError(_refused("input", node, self.limit))
            if node.op != "call_function" or not self._concerns(node):
                continue
            self._rewrite(node)
            rewritten.append(node)
        for node in self.graph.output_node().all_input_nodes:
            if self._high(node):
                raise ModelError(_refused("output", node, self.limit))
        for node in reversed(rewritten):
            self.graph.erase_node(node)
        return len(rewritten)

    def flat(self, node: fx.Node) -> fx.Node:
        """A value of legal shape with this node's elements in order (a weight is a constant: any shape will do)."""
        return self._stand_ins.get(node, node)

    def seen_as(self, at: Editor, node: fx.Node, shape: Sequence[int]) -> fx.Node:
        """A node's elements in another shape."""
        return at.reshape(self.flat(node), shape)

    def _concerns(self, node: fx.Node) -> bool:
        """True for a node of too many dimensions, its own or its inputs'; a weight seen in fewer is legal."""
        if self._high(node):
            return True
        high = [x for x in node.all_input_nodes if self._high(x)]
        return bool(high) and not (node.target is aten.reshape.default and high[0].op == "get_attr")

    def _high(self, node: fx.Node) -> bool:
        return node.op != "output" and not ir.is_loop(node) and ir.val(node).dim() > self.limit

    def _rewrite(self, node: fx.Node) -> None:
        rule = RULES.get(node.target, _pointwise if node.target in ir.POINTWISE_OPS else None)
        if rule is None:
            raise ModelError(
                f"{node.name} ({node.target}) works on more than {self.limit} dimensions, which the device does not "
                "take, and has no form of fewer: reshape around it in the network"
            )
        at = Editor(self.graph, node)
        made = rule(self, at, node)
        if self._high(node):
            self._stand_ins[node] = made
            return
        node.replace_all_uses_with(at.reshape(made, shape_of(node)))


def _refused(kind: str, node: fx.Node, limit: int) -> str:
    rank = len(shape_of(node))
    return (
        f"{kind} {node.name!r} has {rank} dimensions and the device takes {limit}: "
        f"reshape it to {limit} outside the network"
    )


def grouped(shapes: Sequence[Sequence[int]], out: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of neighbouring dimensions of ``out`` that each of the shapes (aligned to it) has whole or not at all."""
    aligned = [[1] * (len(out) - len(shape)) + list(shape) for shape in shapes]
    groups: list[tuple[int, int]] = []
    last: tuple[bool, ...] | None = None
    for d, size in enumerate(out):
        pattern = tuple(shape[d] == size for shape in aligned)
        if groups and (size == 1 or last is None or pattern == last):
            groups[-1] = (groups[-1][0], d + 1)
        else:
            groups.append((d, d + 1))
        last = last if size == 1 else pattern
    return groups


def merged(shape: Sequence[int], rank: int, groups: Sequence[tuple[int, int]]) -> list[int]:
    """A shape, aligned to ``rank`` dimensions, with each group as one."""
    aligned = [1] * (rank - len(shape)) + list(shape)
    return [math.prod(aligned[a:b]) for a, b in groups]


def _around(shape: Sequence[int], dim: int) -> list[int]:
    """(before, the dimension, after)."""
    return [math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :])]


def _tensors(node: fx.Node) -> list[fx.Node]:
    return [arg for arg in node.args if isinstance(arg, fx.Node)]


def _pointwise(ranks: HighRank, at: Editor, node: fx.Node) -> fx.Node:
    out = shape_of(node)
    operands = _tensors(node)
    groups = grouped([shape_of(x) for x in operands], out)
    if len(groups) <= ranks.limit:
        shapes = [merged(shape_of(x), len(out), groups) for x in operands]
        views = {x: ranks.seen_as(at, x, shape) for x, shape in zip(operands, shapes, strict=True)}
    else:
        # Broadcast in too many places: repeat first, one place after the other.
        rows = [math.prod(out[:-1]), out[-1]]
        views = {x: at.reshape(_repeated(ranks, at, x, out), rows) for x in operands}
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda x: views[x])  # type: ignore[misc]
    return at.call(node.target, *args, **kwargs)  # type: ignore[misc]


def _repeated(ranks: HighRank, at: Editor, x: fx.Node, out: Sequence[int]) -> fx.Node:
    """``x`` broadcast to ``out``, its elements in order."""
    shape = [1] * (len(out) - len(shape_of(x))) + list(shape_of(x))
    value = ranks.flat(x)
    for a, b in grouped([shape], out):
        wanted = math.prod(out[a:b])
        if math.prod(shape[a:b]) == wanted:
            continue
        before, after = math.prod(out[:a]), math.prod(shape[b:])
        value = at.expand(at.reshape(value, [before, 1, after]), [before, wanted, after])
    return value


def _reshape(ranks: HighRank, at: Editor, node: fx.Node) -> fx.Node:
    return ranks.flat(_tensors(node)[0])


def _permute(ranks: HighRank, at: Editor, node: fx.Node) -> fx.Node:
    x, dims = node.args
    assert isinstance(x, fx.Node)
    shape = shape_of(x)
    order = [int(d) % len(shape) for d in dims]  # type: ignore[union-attr,arg-type]
    value = ranks.flat(x)
    for step in steps(shape, order, ranks.limit):
        value = at.permute(at.reshape(value, step.shape), step.dims)
    return value


def _expand(ranks: HighRank, at: Editor, node: fx.Node) -> fx.Node:
    return _repeated(ranks, at, _tensors(node)[0], shape_of(node))


def _slice(ranks: HighRank, at: Editor, node: fx.Node) -> fx.Node:
    x, dim, start, end, *step = node.args
    assert isinstance(x, fx.Node)
    view = ranks.seen_as(at, x, _around(shape_of(x), int(dim)))  # type: ignore[arg-type]
    return at.slice(view, 1, int(start), int(end), *step)  # type: ignore[arg-type]


def _cat(ranks: HighRank, at: Editor, node: fx.Node) -> fx.Node:
    tensors: Any = node.args[0]
    dim = int(node.args[1]) % len(shape_of(node)) if len(node.args) > 1 else 0  # type: ignore[arg-type]
    return at.cat([ranks.seen_as(at, x, _around(shape_of(x), dim)) for x in tensors], 1)


def _reduce(ranks: HighRank, at: Editor, node: fx.Node) -> fx.Node:
    """The reduced dimensions go last, where they are one."""
    given: list[Any] = [*node.args, *[None] * (3 - len(node.args))]
    x, dims, keepdim, *rest = given
    assert isinstance(x, fx.Node)
    shape = shape_of(x)
    reduced = sorted({int(d) % len(shape) for d in dims or range(len(shape))})  # type: ignore[union-attr,arg-type]
    kept = [d for d in range(len(shape)) if d not in reduced]
    value = ranks.flat(x)
    for step in steps(shape, [*kept, *reduced], ranks.limit):
        value = at.permute(at.reshape(value, step.shape), step.dims)
    rows = [math.prod(shape[d] for d in kept), math.prod(shape[d] for d in reduced)]
    return at.call(node.target, at.reshape(value, rows), [1], bool(keepdim), *rest, **node.kwargs)


def _rows(ranks: HighRank, at: Editor, node: fx.Node) -> fx.Node:
    """Ops on the last dimensions of their first operand: linear, and norms of a row."""
    x, *rest = node.args
    assert isinstance(x, fx.Node)
    shape = shape_of(x)
    last = 1 if node.target is aten.linear.default else len(rest[0])  # type: ignore[arg-type]
    n = len(shape) - last
    view = ranks.seen_as(at, x, [math.prod(shape[:n]), *shape[n:]])
    return at.call(node.target, view, *rest, **node.kwargs)


def _softmax(ranks: HighRank, at: Editor, node: fx.Node) -> fx.Node:
    x, dim, *rest = node.args
    assert isinstance(x, fx.Node)
    shape = shape_of(x)
    view = ranks.seen_as(at, x, _around(shape, int(dim) % len(shape)))  # type: ignore[arg-type]
    return at.call(node.target, view, 1, *rest, **node.kwargs)


def _products(ranks: HighRank, at: Editor, node: fx.Node) -> fx.Node:
    """Matrix products: the batch dimensions become one, repeated where an operand lacks some."""
    operands = _tensors(node)
    lead = shape_of(node)[:-2]
    views = {}
    for x in operands:
        shape = shape_of(x)
        repeated = _repeated(ranks, at, x, [*lead, *shape[-2:]])
        views[x] = at.reshape(repeated, [math.prod(lead), *shape[-2:]])
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda x: views[x])  # type: ignore[misc]
    return at.call(node.target, *args, **kwargs)  # type: ignore[misc]


def _pad(ranks: HighRank, at: Editor, node: fx.Node) -> fx.Node:
    x, pads, *rest = node.args
    assert isinstance(x, fx.Node)
    shape = list(shape_of(x))
    value = ranks.flat(x)
    sides: Any = pads
    for i in range(len(sides) // 2):
        before, after = sides[2 * i], sides[2 * i + 1]
        if (before, after) == (0, 0):
            continue
        dim = len(shape) - 1 - i
        value = at.reshape(value, _around(shape, dim))
        value = at.call(node.target, value, [0, 0, before, after], *rest, **node.kwargs)
        shape[dim] += before + after
    return value


RULES: dict[Any, Rule] = {
    aten.reshape.default: _reshape,
    aten.permute.default: _permute,
    aten.expand.default: _expand,
    aten.slice.Tensor: _slice,
    aten.cat.default: _cat,
    aten.sum.dim_IntList: _reduce,
    aten.mean.dim: _reduce,
    aten.amax.default: _reduce,
    aten.linear.default: _rows,
    aten.layer_norm.default: _rows,
    aten.rms_norm.default: _rows,
    aten.softmax.int: _softmax,
    aten.matmul.default: _products,
    aten.scaled_dot_product_attention.default: _products,
    aten.constant_pad_nd.default: _pad,
}
