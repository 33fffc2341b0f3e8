"""Small tables computed from weights alone (rotations of position embeddings, gates) computed now."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from vgcomp import ir
from vgcomp.normalize.builder import CONSTANT_LIMIT_BYTES
from vgcomp.onnx_import.raising.rewriter import Rewriter
from vgcomp.onnx_import.values import Constant

#: Weights larger than this stay references, whatever is computed from them.
_SOURCE_LIMIT_BYTES = 2**20

#: Layers, not tables: what they make of a table is for a pass to fold. A file without its weights then has the same
#: graph as with them, and so has a network of any width, whose matrices may be above the limit.
_LAYERS = frozenset(
    {
        ir.aten.linear.default,
        ir.aten.matmul.default,
        ir.aten.convolution.default,
        ir.aten.scaled_dot_product_attention.default,
    }
)


def fold_weights(rw: Rewriter) -> None:
    """Replaces what depends on small weights alone, by no layer, and is more than a view of one, by a constant.

    An ONNX file does not tell a module's tables from its parameters; this treats both alike. Nothing
    happens where the data is missing.
    """
    fixed: set[fx.Node] = set()
    for node in rw.graph.nodes:
        if _is_small_weight(rw, node) or _is_computable(node, fixed):
            fixed.add(node)
    computed = {node for node in fixed if not _is_view_of_weight(node)}
    numbers: dict[fx.Node, torch.Tensor] = {}
    for node in [n for n in rw.graph.nodes if n in computed]:
        if any(user not in computed for user in node.users):
            _replace(rw, node, _evaluate(rw, node, numbers))


def _is_small_weight(rw: Rewriter, node: fx.Node) -> bool:
    return node.op == "get_attr" and ir.nbytes(ir.val(node)) <= _SOURCE_LIMIT_BYTES and rw.has_numbers(node)


def _is_computable(node: fx.Node, fixed: set[fx.Node]) -> bool:
    if node.op != "call_function" or node.target in _LAYERS:
        return False
    if not all(source in fixed for source in node.all_input_nodes):
        return False
    return node.target in ir.VIEW_OPS or ir.nbytes(ir.val(node)) <= CONSTANT_LIMIT_BYTES


def _evaluate(rw: Rewriter, node: fx.Node, numbers: dict[fx.Node, torch.Tensor]) -> torch.Tensor:
    """The node's value; ``numbers`` keeps what it is computed from."""
    if node not in numbers:
        numbers[node] = _computed(rw, node, numbers)
    return numbers[node]


def _computed(rw: Rewriter, node: fx.Node, numbers: dict[fx.Node, torch.Tensor]) -> torch.Tensor:
    if node.op == "get_attr":
        found = rw.numbers(node)
        assert found is not None
        return found
    args: Any = fx.node.map_arg(node.args, lambda source: _evaluate(rw, source, numbers))
    with torch.no_grad():
        result: torch.Tensor = node.target(*args, **node.kwargs)  # type: ignore[operator]
    return result


def _is_view_of_weight(node: fx.Node) -> bool:
    while node.op == "call_function" and node.target in ir.VIEW_OPS:
        node = node.all_input_nodes[0]
    return node.op == "get_attr"


def _replace(rw: Rewriter, node: fx.Node, number: torch.Tensor) -> None:
    with rw.graph.inserting_before(node):
        constant = rw.b.node(Constant(number))
    rw.replace(node, constant)
