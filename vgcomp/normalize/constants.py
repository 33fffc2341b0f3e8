"""Which calls depend on nothing but numbers that are at hand, and are small enough to be made now."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.export.graph_signature import InputKind

from vgcomp.normalize.builder import CONSTANT_LIMIT_BYTES
from vgcomp.normalize.mutation import is_mutation, root_of

_NUMBERS = frozenset({InputKind.BUFFER, InputKind.CONSTANT_TENSOR})


def constant_nodes(exported: torch.export.ExportedProgram) -> set[fx.Node]:
    """Nodes whose value can be computed at once: real buffers, literals, and calls on only these.

    A tensor that is written to from a value that is no constant is none itself, nor are its views.
    """
    constant = _real_buffers(exported)
    excluded: set[fx.Node] = set()
    while True:
        found = _spread(exported.graph, constant, excluded)
        more = _written_from_outside(exported.graph, found) - excluded
        if not more:
            return found
        excluded |= more


def _real_buffers(exported: torch.export.ExportedProgram) -> set[fx.Node]:
    specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    found = set()
    for node in exported.graph.nodes:
        if node.op != "placeholder" or specs[node.name].kind not in _NUMBERS:
            continue
        target = specs[node.name].target
        data: Any = exported.state_dict.get(target)
        data = exported.constants.get(target) if data is None else data
        if isinstance(data, Tensor) and not isinstance(data, FakeTensor) and data.device.type != "meta":
            found.add(node)
    return found


def _spread(graph: fx.Graph, constant: set[fx.Node], excluded: set[fx.Node]) -> set[fx.Node]:
    found = set(constant)
    for node in graph.nodes:
        if node.op != "call_function" or node in excluded:
            continue
        if all(source in found for source in node.all_input_nodes) and _small(node) and _repeatable(node):
            found.add(node)
    return found


def _written_from_outside(graph: fx.Graph, constant: set[fx.Node]) -> set[fx.Node]:
    """Roots of tensors that a call which is no constant writes to."""
    return {
        root_of(node.args[0])  # type: ignore[arg-type]
        for node in graph.nodes
        if is_mutation(node) and node not in constant
    }


def _small(node: fx.Node) -> bool:
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    tensors = [v for v in values if isinstance(v, Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors) <= CONSTANT_LIMIT_BYTES


def _repeatable(node: fx.Node) -> bool:
    """False for random numbers: they are drawn anew at each run."""
    tags = getattr(node.target, "tags", ())
    return torch.Tag.nondeterministic_seeded not in tags
