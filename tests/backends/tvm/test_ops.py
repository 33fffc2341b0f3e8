"""Every op of the dialect, compiled in one module for each dtype, against PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, fx

from tests import op_cases
from tests.backends.tvm.support import Compiled, program_of
from tests.graph_builder import Builder
from tests.op_cases import CASES, make_case
from vgcomp import infer, ir
from vgcomp.backends.torch_module import run_graph
from vgcomp.backends.tvm.lower import lower
from vgcomp.errors import ModelError

aten = torch.ops.aten
own = torch.ops.vgcomp

#: Absolute and relative; fp16 has eleven bits.
CLOSE = {torch.float32: 1e-5, torch.float16: 4e-3}

#: PyTorch lacks these on the CPU in fp16.
NOT_IN_HALF = {"avg_pool3d"}


def _converted(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_converted(entry, dtype) for entry in value)
    return dtype if value is op_cases.DTYPE else value


class AllCases:
    """One graph with the calls of all cases, its inputs, and what each case puts out."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.graph, self.names, self.inputs = fx.Graph(), [], []
        generator = torch.Generator().manual_seed(0)
        placeholders: list[tuple[str, fx.Node]] = []
        cases = {name: make_case(name) for name in CASES if dtype != torch.float16 or name not in NOT_IN_HALF}
        known: dict[fx.Node, fx.Node] = {}
        for i, case in enumerate(cases.values()):
            for x in case.inputs:
                known[x] = self._input(f"{x.name}_{i}", ir.val(x), dtype, generator)
        for name, case in cases.items():
            args = fx.node.map_arg(case.node.args, known.__getitem__)
            kwargs = fx.node.map_arg(case.node.kwargs, known.__getitem__)
            node = self.graph.call_function(case.node.target, _converted(args, dtype), _kwargs(kwargs, dtype))
            node.meta["val"] = infer.node_value(node)
            placeholders.append((name, node))
        self.graph.output(tuple(node for _, node in placeholders))
        self.names = [name for name, _ in placeholders]

    def _input(self, name: str, value: Tensor, dtype: torch.dtype, generator: torch.Generator) -> fx.Node:
        node = self.graph.placeholder(name)
        wanted = dtype if value.dtype == op_cases.DTYPE else value.dtype
        node.meta["val"] = infer.fake_tensor(value.shape, wanted)
        self.inputs.append(op_cases._random(infer.fake_tensor(value.shape, wanted), generator))
        return node


def _kwargs(kwargs: Any, dtype: torch.dtype) -> dict[str, Any]:
    return {key: _converted(value, dtype) for key, value in kwargs.items()}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_every_op_computes_what_torch_computes(
    dtype: torch.dtype, device: Literal["cpu", "cuda"], tmp_path: Path
) -> None:
    cases = AllCases(dtype)
    wanted = run_graph(cases.graph, cases.inputs, {})
    found = Compiled(program_of(cases.graph, cases.names), tmp_path, device)(cases.inputs, {})
    wrong = []
    for name, a, b in zip(cases.names, found, wanted, strict=True):
        same = a.shape == b.shape and a.dtype == b.dtype
        if not same or not torch.allclose(a.double(), b.double(), rtol=CLOSE[dtype], atol=CLOSE[dtype], equal_nan=True):
            wrong.append(name)
    assert not wrong


def test_every_op_of_the_dialect_has_an_emitter() -> None:
    from vgcomp.backends.tvm import lower  # noqa: F401  (fills the table)
    from vgcomp.backends.tvm.registry import EMITTERS

    assert ir.DIALECT - EMITTERS.keys() == set()


def test_merges_of_partial_results(tmp_path: Path) -> None:
    """The merge ops stand in no graph; loops call them."""
    graph = fx.Graph()
    values = {
        "a": torch.rand(3, 2, 4) + 1,
        "b": torch.rand(3, 2, 4) + 1,
        "p": torch.rand(2, 3, 6) + 1,
        "q": torch.rand(2, 3, 6) + 1,
    }
    nodes = {}
    for name, value in values.items():
        nodes[name] = graph.placeholder(name)
        nodes[name].meta["val"] = infer.fake_tensor(value.shape, value.dtype)
    calls = [(own.merge_moments.default, "a", "b"), (own.merge_softmax.default, "p", "q")]
    made = []
    for target, left, right in calls:
        node = graph.call_function(target, (nodes[left], nodes[right]))
        node.meta["val"] = infer.node_value(node)
        made.append(node)
    graph.output(tuple(made))
    found = Compiled(program_of(graph, ("moments", "softmax")), tmp_path)(list(values.values()), {})
    for (target, left, right), value in zip(calls, found, strict=True):
        torch.testing.assert_close(value, target(values[left], values[right]), rtol=1e-5, atol=1e-5)


def test_a_tensor_that_kernels_cannot_index_is_named() -> None:
    b = Builder()
    wide = b.call(aten.silu.default, b.input("x", (2**16, 2**15)))
    with pytest.raises(ModelError, match="2147483648 elements"):
        lower(program_of(b.done(wide)))
