"""Sliced loops as plain ops: every step's slices, its body, and one concatenation at the end.

For backends without loops that write into a buffer. What a loop wrote in place then exists twice while its pieces are
joined; ``vgcomp.memory`` of the unrolled graph says what that comes to. Merges of combined results are spelled out, in
fp32 as their ops have it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import fx

from vgcomp import infer, ir
from vgcomp.errors import InternalError
from vgcomp.legalize.editor import Editor, shape_of
from vgcomp.loops import operands_of, output_nodes

aten = ir.aten


def unroll(graph: fx.Graph) -> int:
    """Replaces every loop of a graph, in place, and drops what was said of buffers; returns the number of steps."""
    weights = {str(node.target): node for node in graph.nodes if node.op == "get_attr"}
    steps = 0
    for node in list(graph.nodes):
        if ir.is_loop(node):
            steps += _replace(graph, node, weights)
    if steps:
        for node in graph.nodes:
            node.meta.pop("reuse", None)
        infer.propagate(graph)
    return steps


def _replace(graph: fx.Graph, node: fx.Node, weights: dict[str, fx.Node]) -> int:
    results = _Unroller(graph, node, weights).run(ir.loop_of(node), operands_of(node))
    for user in list(node.users):
        user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
        graph.erase_node(user)
    graph.erase_node(node)
    return ir.loop_of(node).n_slices


@dataclass
class _State:
    """What the steps so far have put out."""

    carries: dict[int, fx.Node] = field(default_factory=dict)
    totals: dict[int, fx.Node] = field(default_factory=dict)
    pieces: dict[int, list[tuple[ir.Span, fx.Node]]] = field(default_factory=dict)


class _Unroller:
    """Puts the steps of a loop, and of the loops in its bodies, before an anchor."""

    def __init__(self, graph: fx.Graph, anchor: fx.Node, weights: dict[str, fx.Node]) -> None:
        self.graph = graph
        self.at = Editor(graph, anchor)
        self.weights = weights

    def run(self, loop: ir.Loop, operands: Sequence[fx.Node]) -> list[fx.Node]:
        """The loop's results."""
        state = _State()
        for step in loop.steps:
            self._step(loop, operands, step, state)
        return [self._result(loop.results[k], k, state) for k in range(len(loop.results))]

    def _step(self, loop: ir.Loop, operands: Sequence[fx.Node], step: ir.Step, state: _State) -> None:
        body = loop.bodies[step.body]
        slices = [read(self.at, operands[k], loop.operand_axes[k], step.reads[k]) for k in body.operands]
        carries = [state.carries.pop(c) for c in body.carries_in]
        outputs = self._body(body.graph, [*slices, *carries])
        for k, value in zip(body.results, outputs, strict=False):
            combine, span = loop.results[k].combine, step.writes[k]
            if combine is not None:
                before = state.totals.get(k)
                state.totals[k] = value if before is None else _MERGES[combine](self.at, before, value)
            elif span is not None:
                state.pieces.setdefault(k, []).append((span, value))
        state.carries.update(zip(body.carries_out, outputs[len(body.results) :], strict=True))

    def _body(self, graph: fx.Graph, inputs: Sequence[fx.Node]) -> list[fx.Node]:
        env: dict[fx.Node, fx.Node] = {}
        several: dict[fx.Node, list[fx.Node]] = {}
        given = iter(inputs)
        for node in graph.nodes:
            if node.op == "placeholder":
                env[node] = next(given)
            elif node.op == "get_attr":
                env[node] = self._weight(node)
            elif ir.is_loop(node):
                several[node] = self.run(ir.loop_of(node), [env[x] for x in operands_of(node)])
            elif ir.is_getitem(node):
                env[node] = several[node.args[0]][node.args[1]]  # type: ignore[index]
            elif node.op == "call_function":
                args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)  # type: ignore[misc]
                env[node] = self.at.call(node.target, *args, **kwargs)  # type: ignore[misc]
        return [env[node] for node in output_nodes(graph)]

    def _weight(self, node: fx.Node) -> fx.Node:
        """The graph's own node of a weight; weights come after the inputs and before the calls."""
        name = str(node.target)
        if name not in self.weights:
            first = next(n for n in self.graph.nodes if n.op not in ("placeholder", "get_attr"))
            with self.graph.inserting_before(first):
                self.weights[name] = self.graph.get_attr(name)
            self.weights[name].meta = dict(node.meta)
        return self.weights[name]

    def _result(self, result: ir.Result, k: int, state: _State) -> fx.Node:
        if result.axis is None:
            return state.totals[k]
        return joined(self.at, result, state.pieces.get(k, []))


def _merged_moments(at: Editor, a: fx.Node, b: fx.Node) -> fx.Node:
    """As ``vgcomp::merge_moments``: counts, means, sums of squared deviations."""
    (count_a, mean_a, squares_a), (count_b, mean_b, squares_b) = (
        [at.slice(x, 0, i, i + 1) for i in range(3)] for x in (a, b)
    )
    count = at.call(aten.add.Tensor, count_a, count_b)
    delta = at.call(aten.sub.Tensor, mean_b, mean_a)
    share = at.call(aten.div.Tensor, count_b, count)
    mean = at.call(aten.add.Tensor, mean_a, at.call(aten.mul.Tensor, delta, share))
    between = at.call(aten.mul.Tensor, at.call(aten.mul.Tensor, delta, delta), at.call(aten.mul.Tensor, count_a, share))
    squares = at.call(aten.add.Tensor, at.call(aten.add.Tensor, squares_a, squares_b), between)
    return at.cat([count, mean, squares], 0)


def _merged_softmax(at: Editor, a: fx.Node, b: fx.Node) -> fx.Node:
    """As ``vgcomp::merge_softmax``: weighted values, the row's maximum, the sum of its exponentials."""
    dim, end = len(shape_of(a)) - 1, shape_of(a)[-1]
    bounds = ((0, end - 2), (end - 2, end - 1), (end - 1, end))
    parts = [[at.slice(x, dim, lo, hi) for lo, hi in bounds] for x in (a, b)]
    top = at.call(aten.maximum.default, parts[0][1], parts[1][1])
    factors = [at.call(aten.exp.default, at.call(aten.sub.Tensor, part[1], top)) for part in parts]
    sums = []
    for k in (0, 2):
        left, right = (at.call(aten.mul.Tensor, part[k], factor) for part, factor in zip(parts, factors, strict=True))
        sums.append(at.call(aten.add.Tensor, left, right))
    return at.cat([sums[0], top, sums[1]], dim)


_MERGES: dict[ir.Combine, Callable[[Editor, fx.Node, fx.Node], fx.Node]] = {
    "moments": _merged_moments,
    "softmax": _merged_softmax,
}


def read(at: Editor, x: fx.Node, axis: ir.Axis | None, span: ir.Span | None) -> fx.Node:
    """The elements ``span`` of ``axis``; a factor of a merged dimension by way of three dimensions."""
    if axis is None or span is None or span == (0, axis.extent):
        return x
    lo, hi = span[0] * axis.inner, span[1] * axis.inner
    if axis.outer == 1:
        return at.slice(x, axis.dim, lo, hi)
    shape = shape_of(x)
    rows = at.slice(at.reshape(x, _rows(shape, axis, axis.extent)), 1, lo, hi)
    return at.reshape(rows, axis.narrowed_shape(shape, span[1] - span[0]))


def joined(at: Editor, result: ir.Result, pieces: Sequence[tuple[ir.Span, fx.Node]]) -> fx.Node:
    """The whole result; where spans overlap, the later piece counts."""
    axis = result.axis
    assert axis is not None
    parts = [(span, _cut(at, result, piece, span)) for span, piece in _visible(pieces)]
    spans = [span for span, _ in parts]
    if (
        not spans
        or (spans[0][0], spans[-1][1]) != (0, axis.extent)
        or any(a[1] != b[0] for a, b in zip(spans, spans[1:], strict=False))
    ):
        raise InternalError(f"a result is not written whole: steps write {spans} of {axis.extent}")
    if axis.outer == 1:
        return at.cat([node for _, node in parts], axis.dim)
    rows = [at.reshape(node, _rows(result.shape, axis, hi - lo)) for (lo, hi), node in parts]
    return at.reshape(at.cat(rows, 1), result.shape)


def _rows(shape: Sequence[int], axis: ir.Axis, length: int) -> list[int]:
    before, after = math.prod(shape[: axis.dim]), math.prod(shape[axis.dim + 1 :])
    return [before * axis.outer, length * axis.inner, after]


def _visible(pieces: Sequence[tuple[ir.Span, fx.Node]]) -> list[tuple[ir.Span, tuple[ir.Span, fx.Node]]]:
    """What no later piece covers, in order along the axis: (span, the piece that it is of)."""
    parts: list[tuple[ir.Span, tuple[ir.Span, fx.Node]]] = []
    for (lo, hi), node in pieces:
        kept = []
        for (a, b), earlier in parts:
            kept += [((a, min(b, lo)), earlier)] if a < lo else []
            kept += [((max(a, hi), b), earlier)] if b > hi else []
        parts = [*kept, ((lo, hi), ((lo, hi), node))]
    return sorted(parts, key=lambda part: part[0])


def _cut(at: Editor, result: ir.Result, piece: tuple[ir.Span, fx.Node], span: ir.Span) -> fx.Node:
    (lo, hi), node = piece
    axis = result.axis
    assert axis is not None
    own = ir.Axis(axis.dim, hi - lo, axis.outer, axis.inner)
    return read(at, node, own, (span[0] - lo, span[1] - lo))
