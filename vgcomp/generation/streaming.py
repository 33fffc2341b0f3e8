"""Weights that come op by op: what the device must have for it, and the mapping that brings them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, fx

from vgcomp import ir
from vgcomp.loops import weights_of
from vgcomp.program import Program


def weights_at_use(program: Program) -> Program:
    """The same program, each weight (and what depends on weights alone) taken right before its first use."""
    graph, env = fx.Graph(), dict[fx.Node, fx.Node]()
    early: set[fx.Node] = set()

    def emit(node: fx.Node) -> None:
        for source in node.all_input_nodes:
            if source not in env:
                emit(source)
        env[node] = graph.node_copy(node, env.__getitem__)

    for node in program.graph.nodes:
        sources = node.all_input_nodes
        if node.op == "get_attr" or (sources and early.issuperset(sources)):
            early.add(node)
        elif node.op != "output":
            emit(node)
    emit(program.graph.output_node())
    return program.with_graph(graph)


def most_weights(program: Program) -> int:
    """Bytes of the weights that one op or loop of the program uses, where these are most."""

    def used(size: int, names: Mapping[str, Tensor]) -> int:
        return size + sum(ir.nbytes(value) for value in names.values())

    most = 0
    for node in program.graph.nodes:
        own = sum(ir.nbytes(ir.val(n)) for n in node.all_input_nodes if n.op == "get_attr")
        most = max(most, used(own, weights_of(ir.loop_of(node)) if ir.is_loop(node) else {}))
    return most


class Streamed(Mapping[str, Tensor]):
    """A runtime's weights, kept on the host: each look-up copies one to the device, and nothing here keeps it there."""

    def __init__(self, weights: Mapping[str, Tensor], device: torch.device) -> None:
        self._weights = weights
        self._device = device

    def __getitem__(self, name: str) -> Tensor:
        return self._weights[name].to(self._device, non_blocking=True)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
