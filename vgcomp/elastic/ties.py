"""What each op says about the dimensions of its operands and its result: a table of small rules.

Dimensions that a rule does not mention are free: a reduction's, a convolution's height. An op without a rule keeps all
of its operands' dimensions whole, so that a width that reaches it is an error and never a wrong result.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from torch import fx

from vgcomp import ir
from vgcomp.axes import cat_dim, operands, pad_of, slice_args
from vgcomp.elastic.system import System, Var
from vgcomp.legalize.editor import shape_of

aten, own = ir.aten, ir.own

Rule = Callable[[System, fx.Node], None]


def build_system(graph: fx.Graph) -> System:
    """The system of a graph without loops. Inputs keep their shapes."""
    system = System()
    for node in graph.nodes:
        if node.op == "placeholder":
            for var in system.dims(node):
                system.keep_whole(var, node)
        if node.op == "call_function":
            rule = _pointwise if node.target in ir.POINTWISE_OPS else _RULES.get(node.target, _unknown)
            rule(system, node)
    for node in graph.output_node().all_input_nodes:
        for var in system.dims(node):
            system.keep_whole(var, graph.output_node())
    _splits(system, graph)
    return system


# -- rules -------------------------------------------------------------------------------------------


def _unknown(s: System, node: fx.Node) -> None:
    for x in (*operands(node), *((node,) if hasattr(node.meta.get("val"), "dim") else ())):
        for var in s.dims(x):
            s.keep_whole(var, node)


def _aligned(s: System, node: fx.Node, *sources: fx.Node, skip: int = 0) -> None:
    """Broadcasting operands, aligned at the last dimension; the last ``skip`` dimensions are left out."""
    out = s.dims(node)
    for x in sources:
        dims = s.dims(x)
        for back in range(1 + skip, min(len(out), len(dims)) + 1):
            s.tie(out[-back], dims[-back], node)


def _pointwise(s: System, node: fx.Node) -> None:
    _aligned(s, node, *operands(node))


def _reshape(s: System, node: fx.Node) -> None:
    """Runs of dimensions of equal products belong together; one against several is a merge or a split."""
    x = operands(node)[0]
    for before, after in _runs(shape_of(x), shape_of(node)):
        left, right = (_longer(s.dim(y, d) for d in dims) for y, dims in ((x, before), (node, after)))
        if len(left) == 1:
            s.product(left[0], right, node)
        elif len(right) == 1:
            s.product(right[0], left, node)
        elif left and right:
            flat = s.new(math.prod(s.size(var) for var in left))
            s.product(flat, left, node)
            s.product(flat, right, node)


def _longer(found: Iterable[Var]) -> list[int]:
    """Dimensions of more than one element."""
    return [var for var in found if var is not None]


def _runs(src: tuple[int, ...], dst: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The shortest runs of dimensions with as many elements on both sides."""
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(src) and j < len(dst):
        before, after, a, b = [i], [j], src[i], dst[j]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                before.append(i)
                a, i = a * src[i], i + 1
            else:
                after.append(j)
                b, j = b * dst[j], j + 1
        found.append((before, after))
    return found  # what is left over on one side has one element each


def _permute(s: System, node: fx.Node) -> None:
    x = operands(node)[0]
    dims: Any = node.args[1]
    for d, source in enumerate(dims):
        s.tie(s.dim(node, d), s.dim(x, source % len(dims)), node)


def _slice(s: System, node: fx.Node) -> None:
    x = operands(node)[0]
    dim, start, end, step = slice_args(node)
    for d in range(len(shape_of(node))):
        if d != dim:
            s.tie(s.dim(node, d), s.dim(x, d), node)
    if step != 1:
        s.keep_whole(s.dim(x, dim), node)
    s.window(s.dim(node, dim), s.dim(x, dim), (start, end, step), node)


def _cat(s: System, node: fx.Node) -> None:
    dim = cat_dim(node)
    parts = operands(node)
    for x in parts:
        for d in range(len(shape_of(node))):
            if d != dim:
                s.tie(s.dim(node, d), s.dim(x, d), node)
    s.concat(s.dim(node, dim), [s.dim(x, dim) for x in parts], node)


def _convolution(s: System, node: fx.Node) -> None:
    x, weight = operands(node)[:2]
    bias, transposed, groups = node.args[2], bool(node.args[6]), int(node.args[8])  # type: ignore[arg-type]
    s.tie(s.dim(node, 0), s.dim(x, 0), node)
    if isinstance(bias, fx.Node):
        s.tie(s.dim(node, 1), s.dim(bias, 0), node)
    near, far = (s.dim(node, 1), s.dim(x, 1)) if not transposed else (s.dim(x, 1), s.dim(node, 1))
    # weight: (near, far / groups, …); near and far are (groups, …) each.
    s.tie(s.dim(weight, 0), near, node)
    if groups == 1:
        s.tie(s.dim(weight, 1), far, node)
        return
    group = s.groups[node] = s.new(groups)
    s.product(far, [group, s.dim(weight, 1)], node)
    s.product(near, [group, s.new(s.size(near) // groups)], node)


def _linear(s: System, node: fx.Node) -> None:
    x, weight, *bias = operands(node)
    _aligned(s, node, x, skip=1)
    s.tie(s.dim(x, len(shape_of(x)) - 1), s.dim(weight, 1), node)
    for source in ((weight, 0), *((b, 0) for b in bias)):
        s.tie(s.dim(node, len(shape_of(node)) - 1), s.dim(*source), node)


def _matmul(s: System, node: fx.Node) -> None:
    a, b = operands(node)
    rows, columns = s.dims(a), s.dims(b)
    if len(rows) < 2 or len(columns) < 2:
        _unknown(s, node)
        return
    s.tie(rows[-1], columns[-2], node)
    s.tie(s.dims(node)[-1], columns[-1], node)
    s.tie(s.dims(node)[-2], rows[-2], node)
    _aligned(s, node, a, b, skip=2)


def _attention(s: System, node: fx.Node) -> None:
    q, k, v, *masks = operands(node)
    out, query, key, value = (s.dims(x) for x in (node, q, k, v))
    s.tie(query[-1], key[-1], node)
    s.tie(key[-2], value[-2], node)
    s.tie(out[-1], value[-1], node)
    s.tie(out[-2], query[-2], node)
    _aligned(s, node, q, k, v, skip=2)
    for mask in masks:
        _aligned(s, node, mask, skip=2)
        s.tie(s.dims(mask)[-1], key[-2], node)
        s.tie(s.dims(mask)[-2], query[-2], node)


def _elementwise(s: System, node: fx.Node) -> None:
    """Ops that keep the first operand's shape."""
    _aligned(s, node, operands(node)[0])


def _trailing_norm(s: System, node: fx.Node) -> None:
    _aligned(s, node, *operands(node))


def _group_norm(s: System, node: fx.Node) -> None:
    x, *affine = operands(node)
    _aligned(s, node, x)
    for weight in affine:
        s.tie(s.dim(x, 1), s.dim(weight, 0), node)


def _leading(s: System, node: fx.Node) -> None:
    """Batch and channels stay; height and width are made anew."""
    x = operands(node)[0]
    for d in range(min(2, len(shape_of(node)))):
        s.tie(s.dim(node, d), s.dim(x, d), node)


def _pad(s: System, node: fx.Node) -> None:
    x = operands(node)[0]
    for d in range(len(shape_of(node))):
        if pad_of(node, d) == (0, 0):
            s.tie(s.dim(node, d), s.dim(x, d), node)
        else:
            s.keep_whole(s.dim(x, d), node)


def _reduce(s: System, node: fx.Node) -> None:
    x = operands(node)[0]
    at = 2 if node.target is aten.linalg_vector_norm.default else 1
    dims: Any = node.args[at] if len(node.args) > at else ()
    rank = len(shape_of(x))
    gone = {d % rank for d in dims} if dims else set(range(rank))
    kept = [d for d in range(rank) if d not in gone]
    results = kept if len(shape_of(node)) == rank else range(len(kept))
    for d, out in zip(kept, results, strict=True):
        s.tie(s.dim(x, d), s.dim(node, out), node)


def _embedding(s: System, node: fx.Node) -> None:
    table, places = operands(node)
    s.keep_whole(s.dim(table, 0), node)
    s.tie(s.dim(node, len(shape_of(node)) - 1), s.dim(table, 1), node)
    for d in range(len(shape_of(places))):
        s.tie(s.dim(node, d), s.dim(places, d), node)


def _index_select(s: System, node: fx.Node) -> None:
    x, index = operands(node)
    dim = int(node.args[1]) % len(shape_of(x))  # type: ignore[arg-type]
    for d in range(len(shape_of(x))):
        if d != dim:
            s.tie(s.dim(node, d), s.dim(x, d), node)
    s.keep_whole(s.dim(x, dim), node)
    s.keep_whole(s.dim(index, 0), node)


def _free(s: System, node: fx.Node) -> None:
    """A fill has no operands."""


def _splits(s: System, graph: fx.Graph) -> None:
    """Slices that take a dimension apart without a rest: what is known of all the parts is known of the whole."""
    found: dict[tuple[fx.Node, int], dict[int, tuple[int, fx.Node]]] = defaultdict(dict)
    for node in graph.nodes:
        if node.target is aten.slice.Tensor:
            dim, start, end, step = slice_args(node)
            if step == 1:
                found[operands(node)[0], dim].setdefault(start, (end, node))
    for (base, dim), pieces in found.items():
        parts: list[Var] = []
        at, size, last = 0, shape_of(base)[dim], base
        while at < size and at in pieces:
            end, last = pieces[at]
            parts.append(s.dim(last, dim))
            at = end
        if at == size and len(parts) > 1:
            s.concat(s.dim(base, dim), parts, last)


_RULES: dict[Any, Rule] = {
    aten.reshape.default: _reshape,
    aten.permute.default: _permute,
    aten.expand.default: _pointwise,
    aten.slice.Tensor: _slice,
    aten.cat.default: _cat,
    aten.convolution.default: _convolution,
    aten.linear.default: _linear,
    aten.matmul.default: _matmul,
    aten.scaled_dot_product_attention.default: _attention,
    aten.softmax.int: _elementwise,
    aten.layer_norm.default: _trailing_norm,
    aten.rms_norm.default: _trailing_norm,
    aten.group_norm.default: _group_norm,
    aten.upsample_nearest1d.vec: _leading,
    aten.upsample_nearest2d.vec: _leading,
    aten.upsample_nearest3d.vec: _leading,
    aten.avg_pool2d.default: _leading,
    aten.avg_pool3d.default: _leading,
    aten.max_pool2d.default: _leading,
    aten.constant_pad_nd.default: _pad,
    aten.pad.default: _pad,
    aten.sum.dim_IntList: _reduce,
    aten.mean.dim: _reduce,
    aten.amax.default: _reduce,
    aten.linalg_vector_norm.default: _reduce,
    aten.embedding.default: _embedding,
    aten.index_select.default: _index_select,
    aten.full.default: _free,
}
