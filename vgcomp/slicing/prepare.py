"""Graph rewrites around planning: norms taken apart, buffers reused, norms put together again."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from vgcomp import ir
from vgcomp.infer import evaluate_fake
from vgcomp.inplace import can_reuse
from vgcomp.ir import aten, own
from vgcomp.memory import analyse


def call(graph: fx.Graph, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> fx.Node:
    """A new call at the graph's insertion point, with its fake value."""
    node = graph.call_function(target, args, kwargs or {})
    fake_args, fake_kwargs = fx.node.map_arg((args, kwargs or {}), lambda n: n.meta["val"])
    node.meta["val"] = evaluate_fake(target, fake_args, fake_kwargs)
    return node


def split_group_norms(graph: fx.Graph) -> int:
    """``group_norm`` becomes ``group_moments`` and ``group_norm_apply``, so that a slice can stand between.

    Not where the halves would lay the result out otherwise: sizes of 1 leave it open what the order in memory is.
    """
    count = 0
    moved: set[fx.Node] = set()
    for node in [n for n in graph.nodes if n.target is aten.group_norm.default]:
        x, groups, weight, bias, eps = group_norm_args(node)
        with graph.inserting_before(node):
            moments = call(graph, own.group_moments.default, (x, groups))
            applied = call(graph, own.group_norm_apply.default, (x, moments, groups, weight, bias, eps))
        if _layout(applied) != _layout(node):
            graph.erase_node(applied)
            graph.erase_node(moments)
            continue
        if ir.val(applied).stride() != ir.val(node).stride():
            moved.add(applied)
        node.replace_all_uses_with(applied)
        graph.erase_node(node)
        count += 1
    _refresh(graph, moved)
    return count


def _refresh(graph: fx.Graph, moved: set[fx.Node]) -> None:
    """Values anew of what reads those that moved: some ops choose a layout by the stride of a dimension of size 1."""
    for node in graph.nodes if moved else ():
        if node.op != "call_function" or moved.isdisjoint(node.all_input_nodes):
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
        value = evaluate_fake(node.target, args, kwargs)
        if value.stride() != ir.val(node).stride():
            node.meta["val"] = value
            moved.add(node)


def _layout(node: fx.Node) -> list[int]:
    """The strides that say where elements lie: those of dimensions of size 1 do not."""
    value = ir.val(node)
    return [stride for size, stride in zip(value.shape, value.stride(), strict=True) if size != 1]


def group_norm_args(node: fx.Node) -> tuple[Any, Any, Any, Any, float]:
    """(x, groups, weight, bias, eps) of a group_norm node, defaults filled in."""
    args: list[Any] = [*node.args, *[None] * (5 - len(node.args))]
    return args[0], args[1], args[2], args[3], 1e-5 if args[4] is None else float(args[4])


def fuse_group_norms(graph: fx.Graph) -> int:
    """Moments and apply of the same tensor, both unsliced, become ``group_norm`` again.

    Not where the apply overwrites its operand: there the pair is what saves the memory.
    """
    count = 0
    for node in list(graph.nodes):
        if node.target is not own.group_norm_apply.default or "reuse" in node.meta:
            continue
        x, moments, groups, weight, bias, eps = node.args
        if moments.target is not own.group_moments.default or moments.args[0] is not x:
            continue
        with graph.inserting_before(node):
            fused = call(graph, aten.group_norm.default, (x, groups, weight, bias, eps))
        if ir.val(fused).stride() != ir.val(node).stride():
            graph.erase_node(fused)
            continue
        node.replace_all_uses_with(fused)
        graph.erase_node(node)
        if not moments.users:
            graph.erase_node(moments)
        count += 1
    return count


def split_attentions(graph: fx.Graph) -> int:
    """Attention of few queries to many keys becomes ``attention_partial`` and ``attention_finish``.

    So its keys can come block by block. Only where what is merged between blocks is well below keys and values
    themselves; a block of queries does as well elsewhere.
    """
    count = 0
    for node in [n for n in graph.nodes if n.target is aten.scaled_dot_product_attention.default]:
        if len(node.args) != 3 or set(node.kwargs) - {"scale"}:
            continue
        q, k, v = (ir.val(x) for x in node.args)
        if q.dim() != k.dim() or q.shape[:-2] != k.shape[:-2]:
            continue
        partial_bytes = q[..., 0].numel() * (v.shape[-1] + 2) * 4
        if 2 * partial_bytes > ir.nbytes(k) + ir.nbytes(v):
            continue
        scale = node.kwargs.get("scale")
        with graph.inserting_before(node):
            factor = float(scale) if scale is not None else float(q.shape[-1]) ** -0.5
            partial = call(graph, own.attention_partial.default, (*node.args, factor))
            finished = call(graph, own.attention_finish.default, (partial, ir.val(node).dtype))
        if _layout(finished) != _layout(node):
            graph.erase_node(finished)
            graph.erase_node(partial)
            continue
        node.replace_all_uses_with(finished)
        graph.erase_node(node)
        count += 1
    return count


def fuse_attentions(graph: fx.Graph) -> int:
    """The halves of an attention that no loop parts become one again."""
    count = 0
    for node in [n for n in graph.nodes if n.target is own.attention_finish.default]:
        partial = node.args[0]
        if partial.target is not own.attention_partial.default or len(partial.users) > 1:
            continue
        q, k, v, scale = partial.args
        with graph.inserting_before(node):
            usual = scale == float(ir.val(q).shape[-1]) ** -0.5
            kwargs = {} if usual else {"scale": scale}
            whole = call(graph, aten.scaled_dot_product_attention.default, (q, k, v), kwargs)
        if ir.val(whole).stride() != ir.val(node).stride():
            graph.erase_node(whole)
            continue
        node.replace_all_uses_with(whole)
        graph.erase_node(node)
        graph.erase_node(partial)
        count += 1
    return count


def assign_reuse(graph: fx.Graph) -> int:
    """Marks pointwise nodes that may overwrite an operand which dies in them (``meta["reuse"]``).

    The operand must be the only view of its buffer that the op reads, of the result's very shape,
    dtype and strides, and not the caller's.
    """
    for node in graph.nodes:
        node.meta.pop("reuse", None)
    liveness = analyse(graph)
    index = {node: i for i, node in enumerate(graph.nodes)}
    last: dict[int, int] = {id(b): b.last for b in liveness.buffers}
    merged: dict[int, int] = {}

    def root(buffer: int) -> int:
        while buffer in merged:
            buffer = merged[buffer]
        return buffer

    count = 0
    for node in graph.nodes:
        if not can_reuse(node.target):
            continue
        for k, x in enumerate(node.args):
            if not isinstance(x, fx.Node) or not _may_overwrite(node, x, liveness.buffer_of):
                continue
            buffer = root(id(liveness.buffer_of[x]))
            if last[buffer] != index[node]:
                continue
            node.meta["reuse"] = k
            mine = id(liveness.buffer_of[node])
            merged[mine] = buffer
            last[buffer] = last[mine]
            count += 1
            break
    return count


def _may_overwrite(node: fx.Node, x: fx.Node, buffer_of: dict[fx.Node, Any]) -> bool:
    value, out = ir.val(x), ir.val(node)
    buffer = buffer_of[x]
    if buffer.kind not in ("value", "output") or value.shape != out.shape or value.dtype != out.dtype:
        return False
    if value.stride() != out.stride() or not _all_of_it(value, buffer):
        return False
    return all(other is x or buffer_of[other] is not buffer for other in node.all_input_nodes)


def _all_of_it(value: torch.Tensor, buffer: Any) -> bool:
    """False for a partial view, whose buffer would outlive its other parts. Room to grow into is no part."""
    size = ir.nbytes(value)
    whole = (n for n in buffer.nodes if n is buffer.nodes[0] or ir.is_getitem(n))
    return any(ir.nbytes(ir.val(n)) == size for n in whole)
