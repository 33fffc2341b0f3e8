"""Runs a Program in PyTorch: loops in place, every value dropped right after its last use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn

from vgcomp import ir
from vgcomp.backends.torch_runtime import compile_graph
from vgcomp.errors import UsageError

if TYPE_CHECKING:
    from vgcomp.program import Program


class TorchModule(nn.Module):
    """A Program as a module: call it with the inputs in order; it returns the tuple of outputs.

    Weights are loaded once, at construction, and are buffers of the module. ``weights`` gives
    tensors for some or all of them instead (for weights whose data is absent, say). Inference
    only: call it under ``torch.no_grad()`` or ``torch.inference_mode()``; it never records gradients.

    Raises ModelError where a weight has no data, and UsageError for inputs that are not those of the program.
    """

    def __init__(self, program: Program, *, weights: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.input_names = tuple(program.input_names)
        self.output_names = tuple(program.output_names)
        self._specs = [(tuple(ir.val(node).shape), ir.val(node).dtype) for node in program.inputs]
        self._buffer_names: dict[str, str] = {}
        given = weights or {}
        for i, name in enumerate(_weight_names(program.graph)):
            data = given[name] if name in given else program.weights[name].load()
            self._buffer_names[name] = f"weight_{i}"
            self.register_buffer(f"weight_{i}", data)
        self._code = compile_graph(program.graph)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Runs the program; shapes and dtypes must be those it was captured with."""
        self._check(inputs)
        weights = {name: self.get_buffer(buffer) for name, buffer in self._buffer_names.items()}
        with torch.no_grad():
            return self._code.run(inputs, weights)

    def _check(self, inputs: Sequence[Tensor]) -> None:
        if len(inputs) != len(self._specs):
            raise UsageError(f"{len(self._specs)} inputs wanted ({', '.join(self.input_names)}), {len(inputs)} given")
        for name, value, (shape, dtype) in zip(self.input_names, inputs, self._specs, strict=True):
            if tuple(value.shape) != shape or value.dtype != dtype:
                raise UsageError(
                    f"input {name!r} must be {dtype} of shape {shape}, not {value.dtype} of {tuple(value.shape)}: "
                    "shapes are fixed when the network is captured"
                )


def _weight_names(graph: fx.Graph) -> list[str]:
    """Weights of a graph and of its loops' bodies, each once."""
    found = {str(node.target): None for node in graph.nodes if node.op == "get_attr"}
    for node in graph.nodes:
        if ir.is_loop(node):
            found |= dict.fromkeys(name for body in ir.loop_of(node).bodies for name in _weight_names(body.graph))
    return list(found)


def run_graph(graph: fx.Graph, inputs: Sequence[Tensor], weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Compiles and runs a graph of the dialect once; ``weights`` by the targets of its ``get_attr`` nodes."""
    with torch.no_grad():
        return compile_graph(graph).run(inputs, weights)
