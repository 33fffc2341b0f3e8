"""Builds a graph in the canonical spelling: the one place where an importer creates nodes.

The importers (:mod:`vgcomp.capture`, ONNX) walk their own graph and call a Builder. It evaluates the
fake value of each node, shares equal views, drops those that do nothing, turns constants into weights
and moves broadcasts into pointwise ops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from vgcomp import infer, ir
from vgcomp.errors import InternalError
from vgcomp.weights import Weight, from_tensor, row_major

aten = torch.ops.aten
prims = torch.ops.prims

#: A constant that is larger than this is computed by the graph instead of stored.
CONSTANT_LIMIT_BYTES = 16 * 2**20

#: What a handler may take or give: a node, a constant with its numbers, or several of these.
Value = fx.Node | Tensor | tuple[Any, ...]

_UNARY = frozenset({aten.clone.default, prims.convert_element_type.default})


class Builder:
    """A graph under construction. ``scope`` is written to each new node's ``meta["scope"]``.

    ``constants_change``: tensors given as constants may be written to afterwards, so they are copied.
    """

    def __init__(self, *, constants_change: bool = False) -> None:
        self.graph = fx.Graph()
        self.weights: dict[str, Weight] = {}
        self.scope = ""
        self._attrs: dict[str, fx.Node] = {}
        self._shared: dict[Any, fx.Node] = {}
        self._constants: dict[bytes, str] = {}
        #: Constants already stored, by place and layout; the tensors are kept, so no place is used twice.
        self._stored: dict[Any, tuple[Tensor, Weight]] = {}
        self._constants_change = constants_change
        #: Numbers that already have a name (a module's buffers), by identity; the tensor is kept alive.
        self._named: dict[int, tuple[Tensor, str]] = {}
        #: How a cat came together: node -> (dim, parts); lets a slice of it find its part again.
        self.parts: dict[fx.Node, tuple[int, tuple[fx.Node, ...]]] = {}

    # -- leaves ------------------------------------------------------------------------------

    def input(self, name: str, value: Tensor) -> fx.Node:
        """A placeholder with the shape, dtype and strides of ``value``."""
        node = self.graph.placeholder(name)
        node.meta["val"] = infer.fake_tensor(value.shape, value.dtype, value.stride())
        return node

    def weight(self, weight: Weight) -> fx.Node:
        """The ``get_attr`` node of a weight, made at its first use."""
        found = self._attrs.get(weight.name)
        if found is not None:
            return found
        self.weights[weight.name] = weight
        node = self.graph.create_node("get_attr", weight.name)
        node.meta["val"] = infer.fake_tensor(weight.shape, weight.dtype)
        self._attrs[weight.name] = node
        return node

    def name_constant(self, tensor: Tensor, name: str) -> None:
        """If this very tensor becomes a weight, it is called ``name``."""
        self._named[id(tensor)] = (tensor, name)

    def constant(self, tensor: Tensor) -> fx.Node:
        """A weight with these numbers; broadcast dims are stored once and expanded."""
        node = self.weight(self._constant_weight(_without_broadcast(tensor)))
        return self.expand(node, tensor.shape)

    def _constant_weight(self, tensor: Tensor) -> Weight:
        named = self._named.get(id(tensor))
        if named is not None:
            return from_tensor(named[1], tensor)
        if self._constants_change:
            return self._hashed(tensor.clone(memory_format=torch.contiguous_format))
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        found = self._stored.get(place)
        if found is None:
            found = self._stored[place] = (tensor, self._hashed(tensor))
        return found[1]

    def _hashed(self, tensor: Tensor) -> Weight:
        """The weight with these numbers, whatever tensor they were given in first."""
        dense = row_major(tensor)
        name = self._constants.setdefault(_digest(dense), f"const_{len(self._constants)}")
        return self.weights.get(name) or from_tensor(name, dense)

    def node(self, value: Any) -> fx.Node:
        """``value`` as a node of the graph."""
        if isinstance(value, fx.Node):
            return value
        if isinstance(value, Tensor):
            return self.constant(value)
        raise InternalError(f"a tensor was expected, not {type(value).__name__}")

    # -- calls -------------------------------------------------------------------------------

    def op(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """One call; constants among the arguments become weights. Views that are equal are shared."""
        nodes = tuple(self._argument(arg) for arg in args)
        if target not in ir.VIEW_OPS:
            return self._call(target, nodes, kwargs)
        key = (target, tuple(tuple(arg) if isinstance(arg, list) else arg for arg in nodes))
        found = self._shared.get(key)
        if found is None:
            found = self._shared[key] = self._call(target, nodes, kwargs)
        return found

    def pointwise(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A pointwise call: single-element constants become scalars, broadcasts are left to the op."""
        plain = [_scalar_if_zero_dim(arg) for arg in args]
        nodes = [self._argument(arg) for arg in plain]
        if target not in _UNARY:
            nodes = self._unexpanded(nodes)
        return self._call(target, tuple(nodes), kwargs)

    def _argument(self, arg: Any) -> Any:
        if isinstance(arg, Tensor):
            return self.constant(arg)
        if isinstance(arg, (list, tuple)):
            return [self._argument(item) for item in arg]
        return arg

    def _call(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
        if not any(isinstance(arg, (fx.Node, list)) for arg in args):
            raise InternalError(f"{target} was called without a tensor")
        value = infer.evaluate_fake(target, _values(args), _values(kwargs) if kwargs else None)
        node = self.graph.create_node("call_function", target, args, kwargs, _short_name(target))
        node.meta["val"] = value
        if self.scope:
            node.meta["scope"] = self.scope
        return node

    def _unexpanded(self, args: list[Any]) -> list[Any]:
        """Replaces expand nodes by their inputs where the op's own broadcast gives the same shape."""
        shapes = [ir.val(arg).shape for arg in args if isinstance(arg, fx.Node)]
        wanted = torch.broadcast_shapes(*shapes)
        out = list(args)
        for i, arg in enumerate(args):
            if not isinstance(arg, fx.Node) or arg.target is not aten.expand.default:
                continue
            trial = [*out[:i], arg.args[0], *out[i + 1 :]]
            if torch.broadcast_shapes(*(ir.val(t).shape for t in trial if isinstance(t, fx.Node))) == wanted:
                out = trial
        return out

    # -- views, with those that do nothing dropped --------------------------------------------

    def reshape(self, x: Value, shape: Sequence[int]) -> fx.Node:
        """``x`` with another shape of as many elements; a reshape of a reshape is one."""
        node, sizes = self.node(x), list(shape)
        if list(ir.val(node).shape) == sizes:
            return node
        if node.target is aten.reshape.default:
            return self.reshape(node.args[0], sizes)  # type: ignore[arg-type]
        return self.op(aten.reshape.default, node, sizes)

    def permute(self, x: Value, order: Sequence[int]) -> fx.Node:
        """``x`` with its dims in ``order``; a permutation of a permutation is one."""
        node = self.node(x)
        rank = ir.val(node).dim()
        dims = [d % rank for d in order]
        if node.target is aten.permute.default:
            inner: Any = node.args[1]
            node, dims = node.args[0], [inner[d] for d in dims]  # type: ignore[assignment]
        if dims == list(range(rank)):
            return node
        return self.op(aten.permute.default, node, dims)

    def expand(self, x: Value, shape: Sequence[int]) -> fx.Node:
        """``x`` broadcast to ``shape`` (-1 keeps a size)."""
        node = self.node(x)
        own = ir.val(node).shape
        lead = len(shape) - len(own)
        sizes = [own[i - lead] if size == -1 else int(size) for i, size in enumerate(shape)]
        if list(own) == sizes:
            return node
        if node.target is aten.expand.default:
            return self.expand(node.args[0], sizes)  # type: ignore[arg-type]
        return self.op(aten.expand.default, node, sizes)

    def slice(self, x: Value, dim: int, start: int, end: int, step: int = 1) -> fx.Node:
        """Elements ``start:end:step`` of a dim; Python's rules for negative and large bounds."""
        node = self.node(x)
        shape = ir.val(node).shape
        dim %= len(shape)
        start, end, step = slice(start, end, step).indices(shape[dim])
        end = max(start, end)
        if (start, end, step) == (0, shape[dim], 1):
            return node
        part = self._part(node, dim, start, end) if step == 1 else None
        if part is not None:
            return part
        steps = () if step == 1 else (step,)
        return self.op(aten.slice.Tensor, node, dim, start, end, *steps)

    def select(self, x: Value, dim: int, index: int) -> fx.Node:
        """One element of a dim; the dim goes."""
        node = self.node(x)
        shape = list(ir.val(node).shape)
        dim %= len(shape)
        index %= shape[dim]
        return self.reshape(self.slice(node, dim, index, index + 1), shape[:dim] + shape[dim + 1 :])

    def unsqueeze(self, x: Value, dim: int) -> fx.Node:
        """A new dim of size 1 at ``dim``."""
        node = self.node(x)
        shape = list(ir.val(node).shape)
        shape.insert(dim % (len(shape) + 1), 1)
        return self.reshape(node, shape)

    def cat(self, parts: Iterable[Value], dim: int) -> fx.Node:
        """Concatenation; empty parts are left out and one part is itself."""
        nodes = [self.node(part) for part in parts]
        full = [n for n in nodes if ir.val(n).numel()] or nodes[:1]
        if len(full) == 1:
            return full[0]
        dim %= ir.val(full[0]).dim()
        node = self.op(aten.cat.default, full, dim)
        self.parts[node] = (dim, tuple(full))
        return node

    def stack(self, parts: Iterable[Value], dim: int) -> fx.Node:
        """Parts of one shape along a new dim."""
        nodes = [self.node(part) for part in parts]
        dim %= ir.val(nodes[0]).dim() + 1
        return self.cat([self.unsqueeze(node, dim) for node in nodes], dim)

    def _part(self, node: fx.Node, dim: int, start: int, end: int) -> fx.Node | None:
        """The part of a cat that a slice picks out whole."""
        along, parts = self.parts.get(node, (-1, ()))
        if along != dim:
            return None
        offset = 0
        for part in parts:
            size = ir.val(part).shape[dim]
            if (offset, offset + size) == (start, end):
                return part
            offset += size
        return None

    # -- other spellings ----------------------------------------------------------------------

    def contiguous(self, x: Value) -> fx.Node:
        """``x`` row-major: itself, or a copy."""
        node = self.node(x)
        if ir.val(node).is_contiguous():
            return node
        return self.op(aten.clone.default, node, memory_format=torch.contiguous_format)

    def cast(self, x: Value, dtype: torch.dtype) -> fx.Node:
        """``x`` in another dtype, or itself."""
        node = self.node(x)
        if ir.val(node).dtype == dtype:
            return node
        return self.op(prims.convert_element_type.default, node, dtype)

    def full(self, shape: Sequence[int], fill: float | int | bool, dtype: torch.dtype) -> fx.Node:
        """A fill: a scalar weight, expanded."""
        return self.constant(torch.full((), fill, dtype=dtype).expand(tuple(shape)))

    # -- the end --------------------------------------------------------------------------------

    def finish(self, outputs: Sequence[Value]) -> fx.Graph:
        """Adds the output, drops dead code and puts the weights first, in order of use."""
        self.graph.output(tuple(self.node(value) for value in outputs))
        self.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        used = {str(node.target) for node in self.graph.nodes if node.op == "get_attr"}
        for name in [name for name in self.weights if name not in used]:
            del self.weights[name]
        self._weights_first()
        return self.graph

    def _weights_first(self) -> None:
        """Moves get_attr nodes behind the placeholders; they were created in order of first use."""
        calls = (node for node in self.graph.nodes if node.op not in ("placeholder", "get_attr"))
        first = next(calls)
        moved = [node for node in self.graph.nodes if node.op == "get_attr"]
        moved.sort(key=_first_use(self.graph))
        for node in moved:
            first.prepend(node)
        ordered = {str(node.target): self.weights[str(node.target)] for node in moved}
        self.weights.clear()
        self.weights.update(ordered)


def _first_use(graph: fx.Graph) -> Any:
    """Sort key: the position at which a node is used first."""
    first: dict[fx.Node, int] = {}
    position = 0
    for node in graph.nodes:
        for source in node.all_input_nodes:
            first.setdefault(source, position)
            position += 1
    return first.__getitem__


def _values(args: Any) -> Any:
    """Arguments with nodes replaced by their fake values."""
    if isinstance(args, fx.Node):
        return args.meta["val"]
    if isinstance(args, (list, tuple)):
        return [_values(arg) for arg in args]
    if isinstance(args, dict):
        return {name: _values(arg) for name, arg in args.items()}
    return args


def _short_name(target: Any) -> str:
    packet = getattr(target, "overloadpacket", None)
    return packet.__name__ if packet is not None else getattr(target, "__name__", "call")


def _scalar_if_zero_dim(arg: Any) -> Any:
    """A zero-dim constant promotes like a Python scalar when it is floating or integral."""
    if isinstance(arg, Tensor) and arg.dim() == 0 and arg.dtype != torch.bool:
        return arg.item()
    return arg


def _without_broadcast(tensor: Tensor) -> Tensor:
    """The tensor with dims of stride 0 cut to size 1."""
    if 0 not in tensor.stride() or tensor.numel() == 0:
        return tensor
    for dim, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[dim] > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def _digest(dense: Tensor) -> bytes:
    """Identity of a constant's shape, dtype and bits."""
    head = f"{dense.dtype}{tuple(dense.shape)}".encode()
    if dense.numel() == 0:
        return head
    raw = dense.reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(raw.data, key=hashlib.sha256(head).digest()).digest()
