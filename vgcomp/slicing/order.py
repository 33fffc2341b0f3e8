"""Another topological order of a graph: operands right before their first use."""

from __future__ import annotations

from torch import fx

from vgcomp import ir
from vgcomp.ir import aten
from vgcomp.loops import alias_base


def reorder(graph: fx.Graph) -> tuple[fx.Graph, int]:
    """A copy of ``graph`` in the new order, and how many ops changed their place.

    Views of weights come first. Any other op is placed when something placed needs it, depth first from the
    outputs, unless moving it down would keep larger operands alive in its stead. Attention's keys and values come
    before its queries.
    """
    nodes = [n for n in graph.nodes if n.op == "call_function"]
    position = {node: i for i, node in enumerate(nodes)}
    anchored = {node for node in nodes if not _sinks(node)}
    order = _weight_views(nodes)
    placed = set(order)
    for node in nodes:
        if node in anchored:
            _place(node, placed, order, position)
    new = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for node in [*(n for n in graph.nodes if n.op in ("placeholder", "get_attr")), *order, graph.output_node()]:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: env[n])
        copied = new.create_node(node.op, node.target, args, kwargs, node.name)
        copied.meta = {key: value for key, value in node.meta.items() if key != "reuse"}
        env[node] = copied
    moved = sum(a is not b for a, b in zip(nodes, order, strict=False)) + len(nodes) - len(order)
    return new, moved


def _weight_views(nodes: list[fx.Node]) -> list[fx.Node]:
    """The views of weights, transposes above all: first, where they hold nothing and cut no region in two."""
    found: dict[fx.Node, None] = {}
    for node in nodes:
        if alias_base(node) is not None and all(x.op == "get_attr" or x in found for x in node.all_input_nodes):
            found[node] = None
    return list(found)


def _sinks(node: fx.Node) -> bool:
    """True for an op that may move down to its first use: it reads no more than it makes, or only lasting values."""
    if not node.users or any(user.op == "output" for user in node.users) or ir.is_loop(node) or ir.is_getitem(node):
        return False
    lasting = ("placeholder", "get_attr")
    read = sum(ir.nbytes(ir.val(x)) for x in node.all_input_nodes if x.op not in lasting)
    return read <= ir.nbytes(ir.val(node)) if node.target not in ir.VIEW_OPS else True


def _place(node: fx.Node, placed: set[fx.Node], order: list[fx.Node], position: dict[fx.Node, int]) -> None:
    """Depth first, without recursion: operands of an op before it."""
    stack = [(node, False)]
    while stack:
        current, ready = stack.pop()
        if current in placed:
            continue
        if ready:
            placed.add(current)
            order.append(current)
            continue
        stack.append((current, True))
        operands = [x for x in current.all_input_nodes if x in position and x not in placed]
        if current.target is aten.scaled_dot_product_attention.default:
            operands.sort(key=lambda x: current.all_input_nodes.index(x) == 0)
        stack.extend((x, False) for x in reversed(operands))
