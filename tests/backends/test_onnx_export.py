"""What is exported is valid ONNX, and ONNX Runtime computes with it what torch computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, fx

from tests.backends.onnx_cases import CASES
from tests.graph_builder import Builder, random_inputs, random_weights
from tests.sliced_examples import EXAMPLES
from vgcomp import ir
from vgcomp.backends.onnx_export import export_onnx
from vgcomp.backends.torch_module import run_graph
from vgcomp.program import Program, Source
from vgcomp.weights import from_tensor


def make_program(graph: fx.Graph) -> Program:
    outputs = graph.output_node().args[0]
    weights = {name: from_tensor(name, value) for name, value in random_weights(graph).items()}
    names = tuple(f"out{i}" for i in range(len(outputs)))  # type: ignore[arg-type]
    return Program("test", graph, weights, names, Source("torch", "test"))


def run_onnx(path: Path, inputs: list[Tensor]) -> list[Tensor]:
    """Checks the file and runs it."""
    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {spec.name: value.numpy() for spec, value in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(np.asarray(value)) for value in session.run(None, feeds)]


def compare(graph: fx.Graph, path: Path, *, rtol: float = 1e-4, atol: float = 1e-5, **options: object) -> None:
    program = make_program(graph)
    inputs = random_inputs(graph)
    want = run_graph(graph, inputs, {name: weight.load() for name, weight in program.weights.items()})
    export_onnx(program, path, **options)  # type: ignore[arg-type]
    got = run_onnx(path, inputs)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def make_case(name: str) -> fx.Graph:
    b = Builder()
    return b.done(CASES[name](b))


@pytest.mark.parametrize("name", CASES)
def test_op(name: str, tmp_path: Path) -> None:
    compare(make_case(name), tmp_path / "model.onnx")


def test_every_op_of_the_dialect_has_a_case() -> None:
    covered = {node.target for name in CASES for node in make_case(name).nodes}
    assert covered >= ir.DIALECT


@pytest.mark.parametrize("name", ["gelu", "gelu-tanh", "rms-norm", "group-norm", "upsample-3d", "pad", "avg-pool"])
def test_op_in_a_newer_opset(name: str, tmp_path: Path) -> None:
    compare(make_case(name), tmp_path / "model.onnx", opset=21)


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("name", EXAMPLES)
def test_loop(name: str, unroll: bool, tmp_path: Path) -> None:
    plain, sliced = EXAMPLES[name]()
    compare(sliced, tmp_path / "model.onnx", unroll=unroll)
