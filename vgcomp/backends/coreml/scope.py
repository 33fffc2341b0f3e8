"""The values of one MIL function under construction.

Emitters deal in variables of coremltools' builder. A value that follows from weights alone is computed here and put as
one constant, unless that would be larger than what it is computed from (a repeated weight).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from vgcomp import ir
from vgcomp.errors import ModelError
from vgcomp.parts import constants
from vgcomp.program import Program

aten = torch.ops.aten

#: Core ML's element types. int64 is int32 there.
MIL_TYPES = {
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.int32: "int32",
    torch.int64: "int32",
    torch.bool: "bool",
}
_NUMPY = {"fp16": np.float16, "fp32": np.float32, "int32": np.int32, "bool": np.bool_}

#: Constants that grow up to this are folded all the same.
_SMALL_BYTES = 64 * 1024


def mil_type(dtype: torch.dtype) -> str:
    """The builder's name of an element type; ModelError where there is none."""
    if dtype not in MIL_TYPES:
        raise ModelError(
            f"Core ML has no element type for {dtype}: put half-precision before this, or convert the network"
        )
    return MIL_TYPES[dtype]


class Scope:
    """The variables by node, and constants by node; ``mb`` is the builder."""

    def __init__(self, program: Program) -> None:
        from coremltools.converters.mil import Builder

        self.mb: Any = Builder
        self.program = program
        self.vars: dict[fx.Node, Any] = {}
        self._folded = self._foldable(program.graph)
        self._values: dict[fx.Node, Tensor] = {}

    def var(self, node: fx.Node) -> Any:
        """The variable of a node; a constant is put when it is first asked for."""
        if node not in self.vars:
            self.vars[node] = self.constant(self.value(node))
        return self.vars[node]

    def is_constant(self, node: fx.Node) -> bool:
        """True for a value that is known now."""
        return node in self._folded

    def value(self, node: fx.Node) -> Tensor:
        """The numbers of a constant, in its dtype."""
        if node.op == "get_attr":
            return self.program.weights[str(node.target)].load()
        args, kwargs = fx.map_arg((node.args, node.kwargs), self.value)  # type: ignore[misc,arg-type]
        found: Tensor = node.target(*args, **kwargs)  # type: ignore[operator,misc]
        return found

    def constant(self, value: Tensor) -> Any:
        """A constant of these numbers."""
        kind = mil_type(value.dtype)
        return self.mb.const(val=value.detach().contiguous().numpy().astype(_NUMPY[kind], copy=False))

    def scalar(self, value: float, dtype: torch.dtype) -> Any:
        """A number of that dtype, for an argument."""
        return _NUMPY[mil_type(dtype)](value)

    def cast(self, var: Any, dtype: torch.dtype) -> Any:
        """``var`` as ``dtype``; itself where it is that already."""
        kind = mil_type(dtype)
        return var if _kind_of(var) == kind else self.mb.cast(x=var, dtype=kind)

    def reshape(self, var: Any, shape: Sequence[int]) -> Any:
        """``var`` in another shape."""
        if tuple(var.shape) == tuple(shape):
            return var
        if not shape:
            return self.mb.squeeze(x=self.reshape(var, [1]), axes=[0])
        return self.mb.reshape(x=var, shape=[int(size) for size in shape])

    def slice(self, var: Any, dim: int, start: int, end: int, step: int = 1) -> Any:
        """Elements ``start`` to ``end`` of a dimension, bounds constant."""
        rank = len(var.shape)
        begins, ends, steps = [0] * rank, list(map(int, var.shape)), [1] * rank
        begins[dim], ends[dim], steps[dim] = start, end, step
        return self.mb.slice_by_index(x=var, begin=begins, end=ends, stride=steps)

    def _foldable(self, graph: fx.Graph) -> set[fx.Node]:
        found = {node for node in constants(graph) if node.op == "get_attr"}
        for node in graph.nodes:
            if node.op != "call_function" or node.target is aten.full.default or ir.is_loop(node):
                continue
            inputs = node.all_input_nodes
            if not inputs or any(x not in found for x in inputs):
                continue
            limit = max(_SMALL_BYTES, sum(ir.nbytes(ir.val(x)) for x in inputs))
            if ir.nbytes(ir.val(node)) <= limit:
                found.add(node)
        return found


def _kind_of(var: Any) -> str:
    from coremltools.converters.mil.mil import types

    return str(types.builtin_to_string(var.dtype))
