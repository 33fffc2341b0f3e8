"""Emits calls for values that may be known, referenced or live; what is known is computed at once.

Every emitter goes through :meth:`Builder.call`. When all its operands are known constants the call
runs on real tensors, so the emitters *are* the partial evaluator: chains of ``Shape``, ``Gather``,
``Cast`` and ``Concat`` vanish without a second table of semantics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from vgcomp import ir
from vgcomp.errors import ModelError
from vgcomp.normalize.builder import Builder as GraphBuilder
from vgcomp.onnx_import.tensors import StoredTensor
from vgcomp.onnx_import.values import Constant, Live, Parameter, Value
from vgcomp.program import is_constant_name
from vgcomp.weights import Weight, from_tensor

aten = torch.ops.aten
prims = torch.ops.prims

Target = Callable[..., Any]


class Builder:
    """Builds one graph. ``base`` holds the graph and its weights; values of this class wrap its nodes."""

    def __init__(self) -> None:
        self.base = GraphBuilder()
        #: What each weight node by reference stands for, so that patterns can look at its data.
        self.parameters: dict[fx.Node, Parameter] = {}
        self._referenced: dict[tuple[StoredTensor, tuple[int, ...]], fx.Node] = {}

    # -- values ---------------------------------------------------------------------------------

    def node(self, value: Value) -> fx.Node:
        """The value as a node; constants and parameters become weights."""
        if isinstance(value, Live):
            return value.node
        if isinstance(value, Constant):
            return self.base.constant(value.tensor)
        key = (value.stored, value.shape)
        if key not in self._referenced:
            node = self._referenced[key] = self.base.weight(_weight(value))
            self.parameters[node] = value
        return self._referenced[key]

    def peek(self, value: Value) -> torch.Tensor | None:
        """The value's numbers if they are at hand."""
        if isinstance(value, Constant):
            return value.tensor
        if isinstance(value, Parameter):
            return value.load() if value.stored.present else None
        return self.peek_node(value.node)

    def peek_node(self, node: fx.Node) -> torch.Tensor | None:
        """The numbers of a weight node if they are at hand."""
        if node.op != "get_attr":
            return None
        parameter = self.parameters.get(node)
        if parameter is not None:
            return parameter.load() if parameter.stored.present else None
        return self.base.weights[str(node.target)].load()

    # -- calls ----------------------------------------------------------------------------------

    def call(self, target: Target, *args: Any, **kwargs: Any) -> Value:
        """One op. Computed at once when every operand is constant, a node otherwise.

        Raises ModelError when the op is outside the dialect and an operand is not constant.
        """
        if not any(isinstance(v, (Live, Parameter)) for v in _leaves(args)):
            return self._computed(target, args, kwargs)
        self._check_dialect(target)
        return Live(self.base.op(target, *_map(args, self._argument), **kwargs))

    def pointwise(self, target: Target, *args: Any) -> Value:
        """A pointwise op: a fill among the operands becomes a scalar where the shape allows."""
        if not any(isinstance(v, (Live, Parameter)) for v in args):
            return self._computed(target, args, {})
        self._check_dialect(target)
        return Live(self.base.pointwise(target, *(self._argument(a) for a in self._scalars(args))))

    def binary(self, target: Target, a: Value, b: Value) -> Value:
        """A commutative pointwise op; a constant goes second, where it may become a scalar."""
        return self.pointwise(target, b, a) if isinstance(a, Constant) else self.pointwise(target, a, b)

    def _computed(self, target: Target, args: Sequence[Any], kwargs: dict[str, Any]) -> Value:
        with torch.no_grad():
            result = target(*_map(args, lambda a: a.tensor if isinstance(a, Constant) else a), **kwargs)
        return Constant(result)

    def _check_dialect(self, target: Target) -> None:
        if target not in ir.DIALECT:
            raise ModelError("it is supported only where all its operands are constants, and here they are not")

    def _argument(self, arg: Any) -> Any:
        if isinstance(arg, (Constant, Parameter, Live)):
            return self.node(arg)
        return arg

    def _scalars(self, args: Sequence[Any]) -> list[Any]:
        """Replaces constant fills by scalars unless they broadcast the other operands."""
        out = list(args)
        shapes = [a.shape for a in args if isinstance(a, (Constant, Parameter, Live))]
        wanted = torch.broadcast_shapes(*shapes)
        for i, arg in enumerate(args):
            if not isinstance(arg, Constant) or not arg.is_fill or arg.dtype == torch.bool:
                continue
            others = [a.shape for a in (*out[:i], *out[i + 1 :]) if isinstance(a, (Constant, Parameter, Live))]
            if others and torch.broadcast_shapes(*others) == wanted:
                out[i] = arg.item()
        return out

    # -- views ----------------------------------------------------------------------------------

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        """Same elements, another shape. A parameter stays one: its bytes are seen under the new shape."""
        sizes = tuple(int(s) for s in shape)
        if math.prod(sizes) != math.prod(value.shape):
            raise ModelError(f"its input of shape {list(value.shape)} cannot take the shape {list(sizes)}")
        if isinstance(value, Constant):
            return Constant(value.tensor.reshape(sizes))
        if isinstance(value, Parameter):
            return value.reshaped(sizes)
        return Live(self.base.reshape(value.node, sizes))

    def permute(self, value: Value, order: Sequence[int]) -> Value:
        if list(order) == list(range(len(value.shape))):
            return value
        if isinstance(value, Constant):
            return Constant(value.tensor.permute(tuple(order)))
        return Live(self.base.permute(self.node(value), order))

    def swap_last(self, value: Value) -> Value:
        """The last two dims exchanged."""
        rank = len(value.shape)
        return self.permute(value, [*range(rank - 2), rank - 1, rank - 2])

    def expand(self, value: Value, shape: Sequence[int]) -> Value:
        if value.shape == tuple(shape):
            return value
        if isinstance(value, Constant):
            return Constant(value.tensor.expand(tuple(shape)))
        return Live(self.base.expand(self.node(value), shape))

    def slice(self, value: Value, dim: int, start: int, end: int, step: int = 1) -> Value:
        """Elements ``start:end:step`` (a positive step) of a dim, bounds clipped."""
        if isinstance(value, Constant):
            return Constant(aten.slice.Tensor(value.tensor, dim, start, end, step))
        return Live(self.base.slice(self.node(value), dim, start, end, step))

    def cat(self, values: Sequence[Value], dim: int) -> Value:
        if all(isinstance(v, Constant) for v in values):
            return Constant(torch.cat([v.tensor for v in values if isinstance(v, Constant)], dim))
        return Live(self.base.cat([self.node(v) for v in values], dim))

    def cast(self, value: Value, dtype: torch.dtype) -> Value:
        if isinstance(value, Constant):
            return Constant(value.tensor.to(dtype))
        return value if value.dtype == dtype else Live(self.base.cast(self.node(value), dtype))

    # -- small compositions -----------------------------------------------------------------------

    def constant(self, number: float | int | bool, dtype: torch.dtype, shape: Sequence[int] = ()) -> Constant:
        """A fill; an expanded scalar, so that its size costs nothing."""
        return Constant(torch.tensor(number, dtype=dtype).expand(tuple(shape)))

    def mul(self, value: Value, number: float | int) -> Value:
        return value if number == 1 else self.pointwise(aten.mul.Tensor, value, self.constant(number, value.dtype))

    def add(self, value: Value, number: float | int) -> Value:
        return value if number == 0 else self.pointwise(aten.add.Tensor, value, self.constant(number, value.dtype))

    def clamp(self, value: Value, low: float | None, high: float | None) -> Value:
        bounds = (low,) if high is None else (low, high)
        return self.call(aten.clamp.default, value, *bounds)

    def select(self, condition: Value, yes: Value, no: Value) -> Value:
        """Elementwise choice; made at once where the condition is the same everywhere."""
        shape = torch.broadcast_shapes(condition.shape, yes.shape, no.shape)
        if isinstance(condition, Constant) and condition.tensor.numel():
            if bool(condition.tensor.all()):
                return self.expand(yes, shape)
            if not bool(condition.tensor.any()):
                return self.expand(no, shape)
        return self.call(aten.where.self, condition, yes, no)


def _leaves(args: Any) -> list[Any]:
    if isinstance(args, (list, tuple)):
        return [leaf for arg in args for leaf in _leaves(arg)]
    return [args]


def _map(args: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(args, (list, tuple)):
        return [_map(arg, function) for arg in args]
    return function(args)


def plain_name(stored: StoredTensor) -> str:
    """An initializer's name, kept apart from the names of computed constants."""
    return f"{stored.name}.init" if is_constant_name(stored.name) else stored.name


def _weight(parameter: Parameter) -> Weight:
    """The reference a parameter becomes. Two shapes of one initializer are two weights of the same bytes."""
    stored = parameter.stored
    name = plain_name(stored)
    if parameter.shape != stored.shape:
        name = f"{name}.as_{'x'.join(map(str, parameter.shape))}"
    if stored.data is None:
        return from_tensor(name, parameter.load())
    return Weight(name, parameter.shape, parameter.dtype, stored.data)
