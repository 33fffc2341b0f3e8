"""Files that are damaged, incomplete or beyond what is supported: one line that names the thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.onnx_import.support import agree, ops, rand, write
from vgcomp.errors import ModelError, UsageError, VgcompError
from vgcomp.onnx_import import load_onnx

X = rand(2, 3)


def relu(tmp_path: Path, **options: Any) -> Path:
    node = helper.make_node("Relu", ["x"], ["y"], name="first")
    return write(tmp_path / "m.onnx", [node], {"x": X}, ["y"], **options)


def message(kind: type[VgcompError], path: Path, **dims: Any) -> str:
    with pytest.raises(kind) as caught:
        load_onnx(path, dims)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_missing_file(tmp_path: Path):
    assert message(UsageError, tmp_path / "none.onnx") == f"no such file: {tmp_path / 'none.onnx'}"


def test_a_directory(tmp_path: Path):
    assert "is a directory" in message(UsageError, tmp_path)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x08\x0a", b"PK\x03\x04" + bytes(100)])
def test_a_file_that_is_not_onnx(tmp_path: Path, data: bytes):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    assert str(path) in message(ModelError, path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(tmp_path: Path, share: float):
    node = helper.make_node("Add", ["x", "w"], ["y"])
    path = write(tmp_path / "m.onnx", [node], {"x": rand(40, 40)}, ["y"], {"w": rand(40, 40)})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert "truncated" in message(ModelError, path)


def test_a_value_that_nothing_defines(tmp_path: Path):
    node = helper.make_node("Add", ["x", "ghost"], ["y"], name="adder")
    path = write(tmp_path / "m.onnx", [node], {"x": X}, ["y"])
    text = message(ModelError, path)
    assert "ghost" in text
    assert "adder" in text


def test_an_unsupported_operator_is_named_with_its_node_and_domain(tmp_path: Path):
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("Wobble", ["h"], ["g"], name="block/wobble", domain="com.example"),
        helper.make_node("NonMaxSuppression", ["g", "g"], ["y"], name="nms"),
    ]
    path = write(tmp_path / "m.onnx", nodes, {"x": X}, ["y"], domains=["com.example"])
    text = message(ModelError, path)
    for part in ("com.example.Wobble", "'block/wobble'", "ai.onnx.NonMaxSuppression", "'nms'"):
        assert part in text


def test_an_unsupported_operator_that_nothing_needs_is_no_matter(tmp_path: Path):
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("NonMaxSuppression", ["x", "x"], ["z"])]
    assert load_onnx(write(tmp_path / "m.onnx", nodes, {"x": X}, ["y"])).n_nodes == 1


@pytest.mark.parametrize("opset", [7, 12, 99])
def test_an_operator_set_not_supported(tmp_path: Path, opset: int):
    text = message(ModelError, relu(tmp_path, opset=opset))
    assert f"opset {opset}" in text
    assert "13 to" in text


def test_unbound_dims_are_named_with_the_option(tmp_path: Path):
    path = relu(tmp_path, dims={"x": ["batch", None]})
    text = message(ModelError, path)
    for part in ("'batch'", "'x.1'", "--set batch=VALUE", "--set x.1=VALUE"):
        assert part in text
    assert "batch" not in message(ModelError, path, batch=2)
    assert load_onnx(path, {"batch": 2, "x.1": 3}).inputs[0].meta["val"].shape == (2, 3)


@pytest.mark.parametrize("size", [0, -3, 2.5, "six", True])
def test_a_dim_needs_a_positive_number(tmp_path: Path, size: Any):
    assert "positive" in message(UsageError, relu(tmp_path, dims={"x": ["batch", 3]}), batch=size)


def test_a_dim_that_the_model_lacks(tmp_path: Path):
    text = message(UsageError, relu(tmp_path, dims={"x": ["batch", 3]}), batch=2, frames=3)
    assert "'frames'" in text
    assert "batch" in text


def test_a_dim_given_by_arithmetic(tmp_path: Path):
    path = relu(tmp_path, dims={"x": ["s0", "2*s0 + 1"]})
    assert load_onnx(path, {"s0": 4}).inputs[0].meta["val"].shape == (4, 9)


def test_operands_that_do_not_fit(tmp_path: Path):
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    path = write(tmp_path / "m.onnx", [node], {"x": X}, ["y"], {"w": rand(7, 7)})
    assert "'product'" in message(ModelError, path)


def test_a_shape_that_depends_on_the_input(tmp_path: Path):
    nodes = [
        helper.make_node("Cast", ["n"], ["shape"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["x", "shape"], ["y"], name="shaper"),
    ]
    path = write(tmp_path / "m.onnx", nodes, {"x": X, "n": rand(2)}, ["y"])
    text = message(ModelError, path)
    assert "'shaper'" in text
    assert "depends on the network's inputs" in text


def branches(tmp_path: Path, condition: onnx.NodeProto, feeds: dict[str, Any]) -> Path:
    made = {}
    for name, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        made[name] = helper.make_graph([helper.make_node(op, ["x"], [out.name])], name, [], [out])
    node = helper.make_node("If", ["c"], ["y"], name="choice", **made)
    return write(tmp_path / "m.onnx", [condition, node], {"x": X, **feeds}, ["y"])


def test_a_branch_that_is_known_is_taken(tmp_path: Path):
    condition = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    path = branches(tmp_path, condition, {})
    assert dict(ops(agree(path, {"x": X}))) == {"relu": 1}


def test_a_branch_that_is_not_known_is_refused(tmp_path: Path):
    condition = helper.make_node("Cast", ["f"], ["c"], to=TensorProto.BOOL)
    path = branches(tmp_path, condition, {"f": np.ones((), dtype=np.float32)})
    assert "'choice'" in message(ModelError, path)


def test_text_is_no_tensor(tmp_path: Path):
    node = helper.make_node("Constant", [], ["y"], value_string="hello", name="greeting")
    path = write(tmp_path / "m.onnx", [node], {"x": X}, ["y"])
    assert "'greeting'" in message(ModelError, path)
