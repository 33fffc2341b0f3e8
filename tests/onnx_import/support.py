"""Makes ONNX files, runs what is imported node by node, and compares with ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import fx

from vgcomp import ir
from vgcomp.onnx_import import load_onnx
from vgcomp.program import Program
from vgcomp.verify import verify

Array = np.ndarray[Any, Any]

KINDS = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(bool): TensorProto.BOOL,
}


def rand(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def value_info(name: str, array: Array, dims: Sequence[str | int | None] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, KINDS[array.dtype], array.shape if dims is None else dims)


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Array],
    outputs: Sequence[str],
    weights: Mapping[str, Array] | None = None,
    opset: int = 17,
    dims: Mapping[str, Sequence[str | int | None]] | None = None,
    domains: Sequence[str] = (),
) -> Path:
    """A file with these nodes; outputs go without a declared shape."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [value_info(name, array, (dims or {}).get(name)) for name, array in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.save(model, path)
    return path


def run(program: Program, feeds: Mapping[str, Array]) -> list[Array]:
    """The program's outputs, each node checked against the value that it is said to have."""
    env: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            env[node] = torch.from_numpy(np.array(feeds[node.target], order="C"))
        elif node.op == "get_attr":
            env[node] = program.weights[node.target].load()
        elif node.op == "output":
            return [env[result].numpy() for result in node.args[0]]
        else:
            assert node.target in ir.DIALECT, node.target
            args, kwargs = (fx.node.map_arg(part, env.__getitem__) for part in (node.args, node.kwargs))
            env[node] = node.target(*args, **kwargs)
        expected = ir.val(node)
        assert layout(env[node]) == layout(expected), f"{node.format_node()}: {layout(env[node])}"
    raise AssertionError("no output")


def layout(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Shape, dtype and strides; the stride of a dim of size 1 means nothing."""
    strides = [stride for stride, size in zip(tensor.stride(), tensor.shape) if size > 1]
    return tuple(tensor.shape), tensor.dtype, strides


def runtime(path: Path, feeds: Mapping[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {name: array for name, array in feeds.items() if name in known(session)})


def known(session: onnxruntime.InferenceSession) -> set[str]:
    return {value.name for value in session.get_inputs()}


def agree(path: Path, feeds: Mapping[str, Array], tolerance: float = 1e-5, **dims: int) -> Program:
    """Imports the file, compares every output with ONNX Runtime's, gives the Program."""
    program = load_onnx(path, dims)
    verify(program)
    with torch.no_grad():
        ours = run(program, feeds)
    theirs = runtime(path, feeds)
    assert len(ours) == len(theirs) == len(program.output_names)
    for a, b in zip(ours, theirs):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        wide = b.astype(np.float64)
        scale = max(1.0, float(np.abs(wide[np.isfinite(wide)]).max(initial=0)))
        np.testing.assert_allclose(a.astype(np.float64), wide, atol=tolerance * scale, rtol=tolerance)
    return program


def ops(program: Program) -> Counter[str]:
    """How often each op occurs, by its short name."""
    return Counter(node.target.overloadpacket.__name__ for node in program.graph.nodes if node.op == "call_function")
