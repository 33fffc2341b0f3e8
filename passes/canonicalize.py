"""``canonicalize``: one spelling for one meaning, before anything else looks.

Given::

    %a = reshape(%x, [4, 8])            %c = reshape(%a, [32])
    %b = reshape(%x, [4, 8])            %s = slice(%c, 0, 0, 32)
    %y = add(%s, %b') ...               %u = neg(%x)              # nobody reads it

results::

    %a = reshape(%x, [4, 8])            # once, for both readers
    %c = reshape(%x, [32])              # a view of a view is a view of the base
                                        # the whole slice and the dead node are gone

Rewrites, each bit-exact, repeated until none applies:

* nodes that nothing reads go;
* views that change nothing (same shape, same strides) go: their readers read the base;
* a ``reshape`` or ``permute`` of the same kind of node reads that one's base;
* a node equal to an earlier one (same op, same arguments) takes that one's place where this cannot
  hold a tensor alive for longer: views, and ops whose result is at most ``cheap_bytes`` and is nowhere
  written over.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from vgcomp import infer, ir
from vgcomp.loops import Root, operands_of, storage_root
from vgcomp.passes.base import PassContext, PassResult
from vgcomp.program import Program
from vgcomp.result import Equivalence
from vgcomp.slices import view_strides

aten = torch.ops.aten


@dataclass(frozen=True)
class Canonicalize:
    """See the module's text. ``cheap_bytes``: largest result that a merge may keep alive between its readers."""

    name: ClassVar[str] = "canonicalize"
    equivalence: ClassVar[Equivalence] = "exact"

    cheap_bytes: int = 1 << 20

    def run(self, program: Program, context: PassContext) -> PassResult:
        new = program.copy()
        totals = {"dead": 0, "views": 0, "merged": 0}
        while (found := self._sweep(new.graph)) and any(found.values()):
            totals = {key: totals[key] + found[key] for key in totals}
        if not any(totals.values()):
            return PassResult(program, changed=False, stats=totals)
        return PassResult(program.with_graph(new.graph), changed=True, stats=totals)

    def _sweep(self, graph: fx.Graph) -> dict[str, int]:
        return {
            "views": _count(graph, _simplify_view),
            "merged": _merge_equal(graph, self.cheap_bytes),
            "dead": _remove_dead(graph),
        }


def _count(graph: fx.Graph, rewrite: Callable[[fx.Node], bool]) -> int:
    return sum(rewrite(node) for node in list(graph.nodes) if node.target in ir.VIEW_OPS)


def _remove_dead(graph: fx.Graph) -> int:
    """Erases calls and weights without readers, last first; inputs stay."""
    removed = 0
    for node in reversed(list(graph.nodes)):
        if node.op in ("call_function", "get_attr") and not node.users:
            graph.erase_node(node)
            removed += 1
    return removed


def _simplify_view(node: fx.Node) -> bool:
    """Drops a view that changes nothing, or takes a view of a view from the base."""
    if not node.users:
        return False
    base = _arg(node)
    # An output stays a node of its own: a graph that returns its input is a special case for everybody else.
    returned = any(user.op == "output" for user in node.users)
    if _same(node, base) and (base.op == "call_function" or not returned):
        node.replace_all_uses_with(base)
        return True
    if base.target is aten.reshape.default and node.target is aten.reshape.default:
        return _reshape_of_reshape(node, base)
    if base.target is aten.permute.default and node.target is aten.permute.default:
        return _permute_of_permute(node, base)
    return False


def _reshape_of_reshape(node: fx.Node, inner: fx.Node) -> bool:
    """Only where both are true views: a copy in between may be what a later reader's stride rests on."""
    source = _arg(inner)
    if not (_is_view(inner) and _is_view(node)):
        return False
    strides = view_strides(ir.val(source).shape, ir.val(source).stride(), ir.val(node).shape)
    if strides is None or tuple(strides) != tuple(ir.val(node).stride()):
        return False
    node.update_arg(0, source)
    return True


def _permute_of_permute(node: fx.Node, inner: fx.Node) -> bool:
    first, second = inner.args[1], node.args[1]
    assert isinstance(first, (list, tuple))
    assert isinstance(second, (list, tuple))
    node.args = (_arg(inner), [first[d] for d in second])  # type: ignore[index]
    node.meta["val"] = infer.node_value(node)
    return True


def _is_view(node: fx.Node) -> bool:
    """A ``reshape`` that its base's strides do not allow is a copy; the other views always are views."""
    if node.target is not aten.reshape.default:
        return True
    base = ir.val(_arg(node))
    return view_strides(base.shape, base.stride(), ir.val(node).shape) is not None


def _merge_equal(graph: fx.Graph, cheap_bytes: int) -> int:
    """Readers of a repeated node read its first occurrence."""
    seen: dict[Hashable, fx.Node] = {}
    written_over = _written_over(graph)
    merged = 0
    for node in list(graph.nodes):
        if node.op not in ("call_function", "get_attr") or ir.is_loop(node) or "reuse" in node.meta:
            continue
        # A read of a loop's result is a name, not a tensor; views and small results hold little.
        free = node.op == "get_attr" or ir.is_getitem(node) or (node.target in ir.VIEW_OPS and _is_view(node))
        if not free and (ir.nbytes(ir.val(node)) > cheap_bytes or storage_root(node) in written_over):
            continue
        first = seen.setdefault((node.op, node.target, _key(node.args), _key(node.kwargs)), node)
        if first is not node and node.users:
            node.replace_all_uses_with(first)
            merged += 1
    return merged


def _written_over(graph: fx.Graph) -> set[Root]:
    """Storages that an op or a loop takes for its result: another reader of the value might come too late."""
    found: set[Root] = set()
    for node in graph.nodes:
        if "reuse" in node.meta:
            found.add(storage_root(node))
        if ir.is_loop(node):
            operands = operands_of(node)
            found.update(storage_root(operands[r.into]) for r in ir.loop_of(node).results if r.into is not None)
    return found


def _key(value: Any) -> Hashable:
    """A hashable of equal meaning only: 1, 1.0 and True are three things to an op."""
    if isinstance(value, fx.Node):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(_key(item) for item in value)
    if isinstance(value, dict):
        return tuple(sorted((name, _key(item)) for name, item in value.items()))
    return (type(value).__name__, value)


def _same(node: fx.Node, base: fx.Node) -> bool:
    a, b = ir.val(node), ir.val(base)
    return a.shape == b.shape and a.stride() == b.stride()


def _arg(node: fx.Node) -> fx.Node:
    base = node.args[0]
    assert isinstance(base, fx.Node)
    return base
