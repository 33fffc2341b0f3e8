"""Compiles Programs and runs them beside PyTorch. Skips where TVM is not installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, fx

from tests.backends.tvm import cuda_emulator
from tests.graph_builder import random_weights
from vgcomp import ir
from vgcomp.program import Program, Source
from vgcomp.weights import without_data

pytest.importorskip("tvm", reason="TVM is not installed: pip install 'vgcomp[tvm]'")

#: Largest difference over the largest value.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2}


def program_of(graph: fx.Graph, outputs: Sequence[str] = ("out",)) -> Program:
    """A Program of a hand-made graph; its weights have no data."""
    nodes = [node for node in graph.nodes if node.op == "get_attr"]
    weights = {
        str(node.target): without_data(str(node.target), ir.val(node).shape, ir.val(node).dtype) for node in nodes
    }
    return Program("example", graph, weights, tuple(outputs), Source("torch", "example"))


class Compiled:
    """A Program compiled in this process; ``folder`` takes the library. CUDA devices are emulated."""

    def __init__(
        self, program: Program, folder: Path, device: Literal["cpu", "cuda"] = "cpu", tuned: Any = None
    ) -> None:
        import tvm
        from tvm import relax

        from vgcomp.backends.tvm.compile import compile_module, host_target
        from vgcomp.backends.tvm.lower import lower

        if device == "cuda":
            cuda_emulator.load()
        self.lowered = lower(program, device)
        self.library = folder / "model.so"
        host = host_target()[0]
        target = host if device == "cpu" else tvm.target.Target({"kind": "cuda", "arch": "sm_80"}, host=host)
        compile_module(self.lowered, target, tuned=tuned).export_library(str(self.library))
        self._device = tvm.device(device)
        self._main = relax.VirtualMachine(tvm.runtime.load_module(str(self.library)), self._device)["main"]

    def __call__(self, inputs: Sequence[Tensor], weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        from vgcomp.backends.tvm.runtime import moved, shared

        given = [*inputs, *(weights[name] for name in self.lowered.weight_names)]
        outputs = self._main(*(moved(shared(value), self._device) for value in given))
        return tuple(torch.utils.dlpack.from_dlpack(moved(found)).clone() for found in outputs)


def weights_of(program: Program) -> dict[str, Tensor]:
    """The data, or random numbers for a hand-made graph."""
    if all(weight.present for weight in program.weights.values()):
        return {name: weight.load() for name, weight in program.weights.items()}
    return random_weights(program.graph)


def relative_error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Largest difference of any output over that output's largest value."""
    pairs: Any = zip(found, wanted, strict=True)
    return max(float((a.double() - b.double()).abs().max() / b.double().abs().max()) for a, b in pairs)
