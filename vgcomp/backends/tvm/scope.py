"""Plans the nodes of one graph, a network's or a body's, in their order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from vgcomp import ir
from vgcomp.backends.tvm.layout import View, row_major
from vgcomp.backends.tvm.storage import Buffer, GraphPlan, Run, Value
from vgcomp.errors import InternalError
from vgcomp.loops import Root, alias_base

aten = torch.ops.aten


class Names:
    """Hands out names, each once a program."""

    def __init__(self) -> None:
        self._count = itertools.count()
        #: The storages of weights, each once.
        self.weights: dict[str, Buffer] = {}

    def fresh(self, hint: str) -> str:
        return f"{hint}_{next(self._count)}"


class Scope:
    """A graph under planning. ``now`` is the time: 2i at node i, 2i + 1 right after it."""

    def __init__(self, graph: fx.Graph, plan: GraphPlan, names: Names) -> None:
        self.plan = plan
        self.names = names
        self.nodes = list(graph.nodes)
        self.now = 0
        self.values: dict[fx.Node, Value] = {}
        #: Results of loops.
        self.results: dict[fx.Node, list[Value]] = {}
        #: Storages that are given for what would otherwise get one of its own.
        self.given: dict[Root, Buffer] = {}
        #: Nodes whose kernel stores straight into a value that is given.
        self.direct: dict[fx.Node, Value] = {}
        #: First writes and last reads of storages that are not this plan's.
        self.written: dict[Buffer, int] = {}
        self.read: dict[Buffer, int] = {}
        self._own: set[Buffer] = set()

    def buffer(self, size: int, name: str = "") -> Buffer:
        """A new storage of this plan, in use from now on."""
        made = Buffer(size, self.now, self.now, name=name)
        self.plan.buffers.append(made)
        self._own.add(made)
        return made

    def touch(self, value: Value, *, write: bool = False) -> None:
        """Notes that a value is in use now."""
        buffer = value.buffer
        if buffer in self._own:
            buffer.last = max(buffer.last, self.now)
            return
        if write:
            self.written.setdefault(buffer, self.now)
        else:
            self.read[buffer] = self.now

    def run(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Value) -> None:
        """Adds a kernel."""
        for value in values_of((args, kwargs)):
            self.touch(value)
        self.touch(out, write=True)
        self.plan.instructions.append(Run(target, args, kwargs, out))

    def copy(self, source: Value, to: Value) -> None:
        """Adds a copy; both have one shape."""
        self.run(aten.clone.default, (source,), {}, to)

    def node(self, i: int, node: fx.Node) -> None:
        """Plans node ``i``, which is neither a placeholder, a loop nor the output."""
        self.now = 2 * i
        if node.op == "get_attr":
            name = str(node.target)
            buffer = self.names.weights.setdefault(name, Buffer(ir.nbytes(ir.val(node)), 0, 0, "param", name))
            self.values[node] = Value(buffer, row_major(ir.val(node).shape), ir.val(node).dtype)
            return
        if ir.is_getitem(node):
            source, k = node.args
            self.values[node] = self.results[source][k]  # type: ignore[index]
            return
        base = alias_base(node)
        if base is not None and "reuse" not in node.meta:
            self.values[node] = _view(node, self.values[base])
            return
        out = self._out(node)
        self.values[node] = out
        self.run(node.target, self.filled(node.args), self.filled(node.kwargs), out)

    def _out(self, node: fx.Node) -> Value:
        """Where a kernel stores its result."""
        value = ir.val(node)
        if node in self.direct:
            return self.direct[node]
        reuse = node.meta.get("reuse")
        if reuse is not None:
            base = self.values[node.args[reuse]]  # type: ignore[index]
            return Value(base.buffer, base.view, value.dtype)
        buffer = self.given.get((node, 0)) or self.buffer(ir.nbytes(value), node.name)
        return Value(buffer, View(tuple(value.shape), tuple(value.stride())), value.dtype)

    def filled(self, argument: Any) -> Any:
        """Arguments with Values for nodes; lists become tuples."""
        if isinstance(argument, fx.Node):
            return self.values[argument]
        if isinstance(argument, (list, tuple)):
            return tuple(self.filled(entry) for entry in argument)
        if isinstance(argument, dict):
            return {key: self.filled(entry) for key, entry in argument.items()}
        return argument


def values_of(argument: Any) -> Iterator[Value]:
    """The Values in a structure of arguments."""
    if isinstance(argument, Value):
        yield argument
    elif isinstance(argument, (list, tuple)):
        for entry in argument:
            yield from values_of(entry)
    elif isinstance(argument, dict):
        yield from values_of(tuple(argument.values()))


def _view(node: fx.Node, base: Value) -> Value:
    """A view of a value, as torch makes it."""
    value, view = ir.val(node), base.view
    if node.target is aten.permute.default:
        dims: Any = node.args[1]
        return base.seen_as(view.like(value.shape, [view.strides[d] for d in dims]))
    if node.target is aten.expand.default:
        lead = len(value.shape) - len(view.shape)
        old = [(1, 0)] * lead + list(zip(view.shape, view.strides, strict=True))
        strides = [0 if n != size else s for (n, s), size in zip(old, value.shape, strict=True)]
        return base.seen_as(view.like(value.shape, strides))
    if node.target is aten.slice.Tensor:
        return base.seen_as(_sliced(node, view))
    if node.target is aten.reshape.default:
        return base.seen_as(view.like(value.shape, value.stride()))
    raise InternalError(f"{node.name}: {node.target} is not a view")


def _sliced(node: fx.Node, view: View) -> View:
    given: list[Any] = list(node.args[1:])
    defaults: list[Any] = [0, None, None, 1]
    dim, start, _, step = given + defaults[len(given) :]
    shape = tuple(ir.val(node).shape)
    size = view.shape[dim]
    first = 0 if start is None else max(start + size, 0) if start < 0 else min(start, size)
    strides = list(view.strides)
    skip = first * strides[dim]
    strides[dim] *= step
    return view.like(shape, strides, skip)
