"""Writes in place, turned into values.

A write through a chain of views (``x[..., 0::2].copy_(a)``) becomes a new value of each tensor up the
chain, the written elements put in by ``cat``; views taken before the write are taken again when read.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from vgcomp.errors import ModelError
from vgcomp.normalize.builder import Builder, Value
from vgcomp.normalize.call import Call, Table
from vgcomp.normalize.views import scatter_slice

aten = torch.ops.aten

Env = dict[fx.Node, Any]
Rewrite = Callable[[fx.Node], Any]

_RESHAPES = frozenset(
    {
        aten.view.default, aten._unsafe_view.default, aten.flatten.using_ints, aten.unflatten.int,
        aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.alias.default,
        aten.detach.default, aten.reshape.default,
    }
)  # fmt: skip
_PERMUTES = frozenset({aten.permute.default, aten.transpose.int, aten.t.default})
_SPLITS = frozenset(
    {aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int, aten.narrow.default}
)
_VIEWS = _RESHAPES | _PERMUTES | _SPLITS | {aten.slice.Tensor, aten.select.int, aten.expand.default}
_FILLS = frozenset({aten.fill_.Scalar, aten.zero_.default})
_COPIES = frozenset({aten.copy_.default, aten.fill_.Tensor})
_EMPTY = frozenset({aten.empty_like.default, aten.empty.memory_format, aten.new_empty.default})


def is_mutation(node: fx.Node) -> bool:
    """True for a call that writes to its first argument."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and schema.is_mutable


def parent_of(node: fx.Node) -> fx.Node | None:
    """The tensor that a node is a view of (a write in place gives its own first argument)."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    if node.target in _VIEWS or node.target is operator.getitem or is_mutation(node):
        return node.args[0]
    return None


def root_of(node: fx.Node) -> fx.Node:
    """The tensor at the start of a chain of views."""
    parent = parent_of(node)
    while parent is not None:
        node, parent = parent, parent_of(parent)
    return node


class Mutations:
    """Versions of the tensors of one graph that are written to."""

    def __init__(self, graph: fx.Graph, constant: set[fx.Node]) -> None:
        writes = [n for n in graph.nodes if is_mutation(n) and n not in constant]
        self._version = {root_of(n.args[0]): 0 for n in writes}
        self._seen: dict[fx.Node, int] = {}

    def write(self, b: Builder, env: Env, node: fx.Node, rewrite: Rewrite) -> Value:
        """Makes the new values of the tensor written to and of all it is a view of."""
        target: Any = node.args[0]
        self.refresh_value(b, env, target, rewrite)
        value = self._written(b, env, node, rewrite)
        self._store(b, env, target, value)
        root = root_of(target)
        self._version[root] += 1
        self._mark(root, target)
        self._mark(root, node)
        return value

    def refresh(self, b: Builder, env: Env, node: fx.Node, rewrite: Rewrite) -> None:
        """Brings the arguments of a call up to the latest write."""
        if not self._version:
            return
        for source in node.all_input_nodes:
            self.refresh_value(b, env, source, rewrite)
        root = root_of(node)
        if root in self._version:
            self._seen[node] = self._version[root]

    def refresh_value(self, b: Builder, env: Env, node: fx.Node, rewrite: Rewrite) -> None:
        """Takes a view again if its root has been written to since."""
        root = root_of(node)
        version = self._version.get(root)
        if version is None or node is root or self._seen.get(node, version) == version:
            return
        parent = parent_of(node)
        assert parent is not None
        self.refresh_value(b, env, parent, rewrite)
        env[node] = env[parent] if is_mutation(node) else rewrite(node)
        self._seen[node] = version

    def _mark(self, root: fx.Node, node: fx.Node | None) -> None:
        while node is not None:
            self._seen[node] = self._version[root]
            node = parent_of(node)

    def _written(self, b: Builder, env: Env, node: fx.Node, rewrite: Rewrite) -> Value:
        """The value that the written region takes."""
        target: Any = node.args[0]
        for source in node.all_input_nodes:
            self.refresh_value(b, env, source, rewrite)
        shape, dtype = list(target.meta["val"].shape), target.meta["val"].dtype
        if node.target in _COPIES:
            return b.expand(b.cast(_value(b, env, node.args[1], dtype), dtype), shape)
        if node.target in _FILLS:
            fill: Any = node.args[1] if len(node.args) > 1 else 0
            return b.full(shape, fill, dtype)
        functional = _functional(node)
        return b.cast(rewrite(functional), dtype)

    def _store(self, b: Builder, env: Env, node: fx.Node, value: Value) -> None:
        """Sets a tensor's value, and puts it in its place in what it is a view of."""
        env[node] = value
        parent = parent_of(node)
        if parent is None:
            return
        self._store(b, env, parent, _put_back(b, env, node, parent, value))


def _value(b: Builder, env: Env, arg: Any, dtype: torch.dtype) -> Value:
    if not isinstance(arg, fx.Node):
        return torch.tensor(arg, dtype=dtype)
    value = env[arg]
    weight = getattr(value, "weight", None)
    if weight is not None:
        value = env[arg] = b.weight(weight)
    return value  # type: ignore[no-any-return]


class _Functional:
    """A call in place, seen as the same call out of place."""

    def __init__(self, node: fx.Node, target: Any) -> None:
        self.target, self.args, self.kwargs = target, node.args, node.kwargs
        self.meta, self.name, self.op = node.meta, node.name, node.op


def _functional(node: fx.Node) -> Any:
    """``add_`` as ``add``, and so on."""
    packet: Any = node.target.overloadpacket  # type: ignore[union-attr]
    found = getattr(aten, packet.__name__.removesuffix("_"), None)
    overload = getattr(found, node.target._overloadname, None) if found is not None else None  # type: ignore[union-attr]
    if overload is None or packet.__name__.endswith("__"):
        raise ModelError(
            f"operator {node.target} at node {node.name!r} writes in place and has no form that does not: "
            "replace it in the module"
        )
    return _Functional(node, overload)


def _put_back(b: Builder, env: Env, node: fx.Node, parent: fx.Node, value: Value) -> Value:
    """The parent's new value when its view ``node`` becomes ``value``."""
    if is_mutation(node):
        return value
    shape = list(parent.meta["val"].shape) if hasattr(parent.meta["val"], "shape") else []
    args: Any = node.args
    if node.target in _RESHAPES:
        return b.reshape(value, shape)
    if node.target in _PERMUTES:
        return b.permute(value, _inverse(node, len(shape)))
    base = env[parent]
    if node.target is aten.slice.Tensor:
        dim, start, end, step = _slice_bounds(args)
        return scatter_slice(b, base, value, dim % len(shape), start, end, step)
    if node.target is aten.select.int:
        dim, index = args[1] % len(shape), args[2] % shape[args[1]]
        return scatter_slice(b, base, b.unsqueeze(value, dim), dim, index, index + 1)
    raise ModelError(
        f"node {node.name!r}: a write in place through {node.target} is not supported; "
        "write to the tensor itself or to a slice of it"
    )


def _slice_bounds(args: tuple[Any, ...]) -> tuple[int, int, int, int]:
    """dim, start, end and step of a slice call, with the defaults put in."""
    given = (*args[1:], *(0, None, None, 1)[len(args) - 1 :])
    return given[0], given[1] or 0, sys.maxsize if given[2] is None else given[2], given[3]


def _inverse(node: fx.Node, rank: int) -> list[int]:
    args: Any = node.args
    if node.target is aten.permute.default:
        order = [d % rank for d in args[1]]
    elif node.target is aten.t.default:
        order = list(range(rank))[::-1]
    else:
        order = list(range(rank))
        first, second = args[1] % rank, args[2] % rank
        order[first], order[second] = second, first
    return sorted(range(rank), key=order.__getitem__)


def uninitialised(b: Builder, call: Call) -> Value:
    """A tensor that will be written to: its first value is never read, and goes as dead code."""
    return b.full(call.shape, 0, call.dtype)


def filled(b: Builder, call: Call) -> Value:
    """zeros, ones and full, too large to be kept as numbers or written to later."""
    if call.target in _VALUED:
        return b.full(call.shape, call["fill_value"], call.dtype)
    return b.full(call.shape, int(call.target in _ONES), call.dtype)


_ONES = frozenset({aten.ones.default, aten.ones_like.default, aten.new_ones.default})
_ZEROS = frozenset({aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default})
_VALUED = frozenset({aten.full.default, aten.full_like.default, aten.new_full.default})

TABLE: Table = {**dict.fromkeys(_EMPTY, uninitialised), **dict.fromkeys(_ONES | _ZEROS | _VALUED, filled)}
