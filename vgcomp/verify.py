"""Is this a Program? A table of small rules, each a generator of complaints.

``verify`` runs after every pass. A broken rule is a bug of the compiler, so it raises InternalError,
naming the rule and the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from vgcomp import infer, ir
from vgcomp.errors import InternalError
from vgcomp.verify_loops import loop_complaints

if TYPE_CHECKING:
    from vgcomp.program import Program

#: (node, or None for the Program as a whole; what is wrong).
Complaint = tuple[fx.Node | None, str]


@dataclass(frozen=True)
class Rule:
    """One thing that holds in every Program."""

    name: str
    complaints: Callable[[Program], Iterator[Complaint]]


def verify(program: Program) -> None:
    """Raises InternalError at the first broken rule."""
    for rule in RULES:
        for node, what in rule.complaints(program):
            where = f" at node {node.name!r}" if node is not None else ""
            raise InternalError(f"{program.name}: rule {rule.name!r} is broken{where}: {what}")


def all_graphs(graph: fx.Graph) -> Iterator[fx.Graph]:
    """A graph and the bodies of its loops, at any depth."""
    yield graph
    for node in graph.nodes:
        if ir.is_loop(node):
            for body in ir.loop_of(node).bodies:
                yield from all_graphs(body.graph)


def all_nodes(program: Program) -> Iterator[fx.Node]:
    """Every node, those of loop bodies included."""
    for graph in all_graphs(program.graph):
        yield from graph.nodes


# -- the rules ---------------------------------------------------------------------------------------

_RANKS = {"placeholder": 0, "get_attr": 1, "call_function": 2, "output": 3}


def _sections(program: Program) -> Iterator[Complaint]:
    """Inputs, weights, calls and one output, in this order."""
    for graph in all_graphs(program.graph):
        rank = 0
        for node in graph.nodes:
            own = _RANKS.get(node.op, -1)
            if own < rank:
                yield node, f"a {node.op} node here (the order is inputs, weights, calls, output)"
            rank = max(rank, own)
        if rank != _RANKS["output"]:
            yield None, "a graph has no output"


def _order(program: Program) -> Iterator[Complaint]:
    """Every argument comes before its use, in the same graph."""
    for graph in all_graphs(program.graph):
        seen: set[fx.Node] = set()
        for node in graph.nodes:
            for source in node.all_input_nodes:
                if source not in seen:
                    yield node, f"it uses {source.name!r}, which does not come before it in its graph"
            seen.add(node)


def _names(program: Program) -> Iterator[Complaint]:
    """Names are distinct within a graph."""
    for graph in all_graphs(program.graph):
        seen: set[str] = set()
        for node in graph.nodes:
            if node.name in seen:
                yield node, "another node of the graph has its name"
            seen.add(node.name)


def _dialect(program: Program) -> Iterator[Complaint]:
    """Calls are of the dialect; getitem only takes a loop apart."""
    for node in all_nodes(program):
        if node.op != "call_function" or node.target in ir.DIALECT or ir.is_loop(node):
            continue
        if not ir.is_getitem(node):
            yield node, f"{node.target} is not in the dialect"
        elif not ir.is_loop(node.args[0]):  # type: ignore[arg-type]
            yield node, "getitem of a node that is no loop"


def _arguments(program: Program) -> Iterator[Complaint]:
    """Sizes are numbers; shapes, dims and slice bounds are spelled out."""
    for node in all_nodes(program):
        if node.op != "call_function" or ir.is_loop(node):
            continue
        if any(isinstance(leaf, torch.SymInt) for leaf in _leaves(node.args)):
            yield node, "a symbolic size among its arguments"
        check = _SPELLING.get(node.target)
        complaint = check(node) if check is not None else None
        if complaint:
            yield node, complaint


def _values(program: Program) -> Iterator[Complaint]:
    """``meta["val"]`` is what the call gives on its arguments' values: shape, dtype and strides."""
    for node in all_nodes(program):
        if node.op == "output":
            continue
        value = node.meta.get("val")
        if value is None:
            yield node, "it has no value"
        elif node.op == "call_function":
            complaint = _differs(node, value)
            if complaint:
                yield node, complaint


def _weights(program: Program) -> Iterator[Complaint]:
    """Each weight used is there with its shape and dtype; a graph has one node a weight."""
    used = set()
    for graph in all_graphs(program.graph):
        attrs = [node for node in graph.nodes if node.op == "get_attr"]
        if len({str(node.target) for node in attrs}) != len(attrs):
            yield None, "a weight has two get_attr nodes in one graph"
        for node in attrs:
            used.add(str(node.target))
            complaint = _weight_complaint(program, node)
            if complaint:
                yield node, complaint
    for name, weight in program.weights.items():
        if name not in used:
            yield None, f"weight {name!r} is not used"
        if name != weight.name:
            yield None, f"weight {weight.name!r} is filed under {name!r}"


def _outputs(program: Program) -> Iterator[Complaint]:
    """The output is a flat tuple of single tensors, one a name."""
    for graph in all_graphs(program.graph):
        node = graph.output_node()
        results: Any = node.args[0]
        if not isinstance(results, tuple) or not all(isinstance(r, fx.Node) for r in results):
            yield node, "it does not return a flat tuple of nodes"
        elif any(ir.is_loop(r) for r in results):
            yield node, "it returns a loop; take the loop apart by getitem"
    if len(program.outputs) != len(program.output_names):
        yield None, f"{len(program.output_names)} output names for {len(program.outputs)} outputs"


def _loops(program: Program) -> Iterator[Complaint]:
    """Loops: slices fit, writes cover, carries and buffers agree."""
    for graph in all_graphs(program.graph):
        for node in graph.nodes:
            if ir.is_loop(node):
                yield from ((node, what) for what in loop_complaints(node))


RULES = (
    Rule("sections", _sections),
    Rule("order", _order),
    Rule("names", _names),
    Rule("dialect", _dialect),
    Rule("outputs", _outputs),
    Rule("arguments", _arguments),
    Rule("values", _values),
    Rule("weights", _weights),
    Rule("loops", _loops),
)


# -- leaves ------------------------------------------------------------------------------------------


def _weight_complaint(program: Program, node: fx.Node) -> str | None:
    weight = program.weights.get(str(node.target))
    if weight is None:
        return f"weight {node.target!r} is not among the Program's"
    value = node.meta["val"]
    if tuple(value.shape) != weight.shape or value.dtype != weight.dtype:
        return f"it is {_described(value)}, its weight {weight.dtype} {list(weight.shape)}"
    return None


def _differs(node: fx.Node, value: Any) -> str | None:
    """What is wrong with a value, seen from the arguments'."""
    try:
        expected = infer.node_value(node)
    except Exception as error:  # a meta function raises whatever it likes
        return f"its arguments do not fit: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    pairs = zip(_as_tuple(value), _as_tuple(expected), strict=False)
    if len(_as_tuple(value)) != len(_as_tuple(expected)) or any(not _same(a, b) for a, b in pairs):
        return f"its value is {_described(value)}, but the call gives {_described(expected)}"
    return None


def _same(a: Tensor, b: Tensor) -> bool:
    if a is b:
        return True
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return all(x == y for x, y, size in zip(a.stride(), b.stride(), a.shape, strict=True) if size > 1) or not a.numel()


def _described(value: Any) -> str:
    return ", ".join(f"{t.dtype} {list(t.shape)} strides {list(t.stride())}" for t in _as_tuple(value))


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _leaves(args: Any) -> Iterator[Any]:
    if isinstance(args, (tuple, list)):
        for arg in args:
            yield from _leaves(arg)
    else:
        yield args


def _reshape_spelling(node: fx.Node) -> str | None:
    sizes: Any = node.args[1]
    return f"sizes {list(sizes)} are not spelled out" if any(size < 0 for size in sizes) else None


def _permute_spelling(node: fx.Node) -> str | None:
    dims: Any = node.args[1]
    return None if sorted(dims) == list(range(len(dims))) else f"dims {list(dims)} are no permutation"


def _slice_spelling(node: fx.Node) -> str | None:
    args: Any = node.args
    if len(args) < 4 or any(not isinstance(arg, int) for arg in args[1:]):
        return "dim, start and end are not all given"
    dim, start, end = args[1:4]
    shape = ir.val(args[0]).shape
    if not 0 <= dim < len(shape) or not 0 <= start <= end <= shape[dim]:
        return f"dim {dim}, {start}:{end} is outside of {list(shape)}"
    return None


_SPELLING: dict[Any, Callable[[fx.Node], str | None]] = {
    torch.ops.aten.reshape.default: _reshape_spelling,
    torch.ops.aten.expand.default: _reshape_spelling,
    torch.ops.aten.permute.default: _permute_spelling,
    torch.ops.aten.slice.Tensor: _slice_spelling,
}
