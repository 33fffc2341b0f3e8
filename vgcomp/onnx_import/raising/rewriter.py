"""What every pattern needs: looking at nodes, and putting one call in a pattern's place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import fx

from vgcomp import infer
from vgcomp.ir import val
from vgcomp.onnx_import.builder import Builder
from vgcomp.onnx_import.values import Constant

aten = torch.ops.aten
prims = torch.ops.prims


class Rewriter:
    """Edits the graph of a Builder in place."""

    def __init__(self, b: Builder) -> None:
        self.b = b
        self.graph = b.base.graph

    # -- looking ----------------------------------------------------------------------------------

    def numbers(self, arg: Any) -> torch.Tensor | None:
        """The numbers of a weight node if they are at hand."""
        return self.b.peek_node(arg) if isinstance(arg, fx.Node) else None

    def has_numbers(self, node: fx.Node) -> bool:
        """True when the data of a weight node is at hand."""
        parameter = self.b.parameters.get(node)
        return parameter is None or parameter.stored.present

    def vector(self, arg: Any, shape: Sequence[int], anchor: fx.Node) -> fx.Node | None:
        """A weight node seen under ``shape`` (its bytes, no copy); None when it is no such weight."""
        if not isinstance(arg, fx.Node) or arg.op != "get_attr" or val(arg).numel() != math.prod(shape):
            return None
        if tuple(val(arg).shape) == tuple(shape):
            return arg
        parameter = self.b.parameters.get(arg)
        with self.graph.inserting_before(anchor):
            if parameter is not None:
                return self.b.node(parameter.reshaped(tuple(shape)))
            return self.b.node(Constant(self.b.base.weights[str(arg.target)].load().reshape(tuple(shape))))

    # -- writing ----------------------------------------------------------------------------------

    def emit(self, anchor: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A call before ``anchor``, in its scope."""
        with self.graph.inserting_before(anchor):
            name = target.overloadpacket.__name__
            node = self.graph.create_node("call_function", target, args, kwargs, name)
        node.meta["val"] = infer.node_value(node)
        if "scope" in anchor.meta:
            node.meta["scope"] = anchor.meta["scope"]
        return node

    def reshape(self, anchor: fx.Node, x: fx.Node, shape: Sequence[int]) -> fx.Node:
        while x.target is aten.reshape.default and tuple(val(x).shape) != tuple(shape):
            x = x.all_input_nodes[0]
        return x if tuple(val(x).shape) == tuple(shape) else self.emit(anchor, aten.reshape.default, x, list(shape))

    def permute(self, anchor: fx.Node, x: fx.Node, order: Sequence[int]) -> fx.Node:
        dims = list(order)
        if x.target is aten.permute.default:
            inner: Any = x.args[1]
            x, dims = x.all_input_nodes[0], [inner[d] for d in dims]
        return x if dims == sorted(dims) else self.emit(anchor, aten.permute.default, x, dims)

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Puts ``new`` in ``old``'s place and removes what only ``old`` needed."""
        old.replace_all_uses_with(new)
        dead = [old]
        while dead:
            node = dead.pop()
            if node.users or node._erased or node.op in ("placeholder", "output"):
                continue
            sources = node.all_input_nodes
            if node.op != "get_attr":  # weights stay: another pattern may take them up again
                self.graph.erase_node(node)
            dead.extend(sources)


def is_call(arg: Any, *targets: Any) -> TypeGuard[fx.Node]:
    """True for a node that calls one of ``targets``."""
    return isinstance(arg, fx.Node) and arg.op == "call_function" and arg.target in targets


def args_of(node: Any) -> tuple[Any, ...]:
    """A node's arguments, of any type: patterns look before they use them."""
    found: tuple[Any, ...] = node.args
    return found


def used_once(node: fx.Node) -> bool:
    return len(node.users) == 1


def without_casts(node: Any) -> Any:
    """The node behind conversions between floating dtypes that nothing else uses."""
    while is_call(node, prims.convert_element_type.default) and used_once(node):
        source = args_of(node)[0]
        if not val(source).dtype.is_floating_point or not val(node).dtype.is_floating_point:
            break
        node = source
    return node


def same_value(a: Any, b: Any) -> bool:
    """True when two arguments are one node, or two equal calls on the same arguments."""
    if a is b:
        return True
    if not isinstance(a, fx.Node) or not isinstance(b, fx.Node) or a.op != "call_function":
        return False
    return a.target == b.target and a.args == b.args and a.kwargs == b.kwargs


def scaled(arg: Any, *, first: bool = True) -> tuple[float, Any]:
    """(c, x) of c * x: multiplications and divisions by numbers are peeled off, inner ones only if used once."""
    factor = 1.0
    while isinstance(arg, fx.Node) and (first or used_once(arg)):
        step = _number_factor(arg)
        if step is None:
            break
        factor, arg, first = factor * step[0], step[1], False
    return factor, arg


def _number_factor(node: fx.Node) -> tuple[float, Any] | None:
    """One multiplication or division by a number."""
    if is_call(node, prims.convert_element_type.default) and isinstance(node.args[0], fx.Node):
        widened = val(node).dtype.is_floating_point and val(node.args[0]).dtype.is_floating_point
        return (1.0, node.args[0]) if widened else None
    if not is_call(node, aten.mul.Tensor, aten.div.Tensor):
        return None
    a, b = node.args
    if isinstance(b, (int, float)) and isinstance(a, fx.Node):
        return (float(b) if node.target is aten.mul.Tensor else 1.0 / b), a
    if isinstance(a, (int, float)) and node.target is aten.mul.Tensor:
        return float(a), b
    return None


def factors(node: fx.Node) -> tuple[float, list[fx.Node]]:
    """A product as a number and its other factors; inner products are opened only if used once."""
    number, found = 1.0, []
    todo: list[Any] = [node]
    while todo:
        opened = todo.pop()
        coefficient, rest = scaled(opened, first=opened is node)
        number *= coefficient
        if is_call(rest, aten.mul.Tensor) and (rest is node or used_once(rest)):
            todo.extend(rest.args)
        else:
            found.append(rest)
    return number, found


def close(a: float, b: float, dtype: torch.dtype) -> bool:
    """Equal up to the rounding of a constant to ``dtype``."""
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}.get(dtype, 1e-5)
    return math.isclose(a, b, rel_tol=tolerance)
