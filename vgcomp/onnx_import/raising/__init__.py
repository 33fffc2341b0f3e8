"""Exporters' patterns raised back to the ops they came from.

They are matched on the emitted graph, not on the ONNX one: there shapes are static, constants are folded
and spellings are few, so one matcher serves every exporter and operator set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from vgcomp import infer
from vgcomp.errors import InternalError
from vgcomp.ir import val
from vgcomp.onnx_import.builder import Builder
from vgcomp.onnx_import.raising import activations, contractions, norms
from vgcomp.onnx_import.raising.folding import fold_weights
from vgcomp.onnx_import.raising.rewriter import Rewriter

aten = torch.ops.aten
prims = torch.ops.prims

#: Looks at the last node of a pattern; gives the node that replaces it, or None.
Pattern = Callable[[Rewriter, fx.Node], fx.Node | None]

_PATTERNS: Mapping[Any, tuple[Pattern, ...]] = {
    aten.mul.Tensor: (activations.silu, activations.gelu, norms.moments_norm, norms.take_weight),
    aten.div.Tensor: (activations.gelu, norms.moments_norm, activations.rsqrt),
    aten.add.Tensor: (contractions.linear_bias, norms.take_bias),
    aten.reshape.default: (norms.group_norm,),
    aten.matmul.default: (contractions.attention,),
    aten.reciprocal.default: (activations.rsqrt,),
    aten.layer_norm.default: (norms.unweighted,),
    prims.convert_element_type.default: (norms.cast_around,),
}


def raise_patterns(b: Builder, outputs: list[fx.Node]) -> list[fx.Node]:
    """Rewrites the graph in place until nothing matches; gives the outputs' nodes after it.

    A pattern is found at its last node, and larger ones are made of smaller ones found before, so one
    sweep in order nearly always suffices.
    """
    marker = b.base.graph.output(tuple(outputs))
    b.base.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    rewriter = Rewriter(b)
    fold_weights(rewriter)
    while _sweep(rewriter):
        pass
    infer.propagate(b.base.graph)
    results = list(marker.all_input_nodes) if not marker.args else list(marker.args[0])  # type: ignore[arg-type]
    b.base.graph.erase_node(marker)
    return results  # type: ignore[return-value]


def _sweep(rewriter: Rewriter) -> bool:
    """One pass over the graph; True when something was replaced."""
    changed = False
    for node in list(rewriter.graph.nodes):
        if node._erased or node.op != "call_function":
            continue
        replacement = _first_match(rewriter, node)
        if replacement is None:
            continue
        if val(replacement).shape != val(node).shape or val(replacement).dtype != val(node).dtype:
            raise InternalError(f"pattern at {node.name} gave {val(replacement)}, not {val(node)}")
        rewriter.replace(node, replacement)
        changed = True
    return changed


def _first_match(rewriter: Rewriter, node: fx.Node) -> fx.Node | None:
    for pattern in _PATTERNS.get(node.target, ()):
        replacement = pattern(rewriter, node)
        if replacement is not None:
            return replacement
    return None
