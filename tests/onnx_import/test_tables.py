"""What is computed from weights alone is computed at import, where the data is here and small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.onnx_import.support import agree, ops, rand, write
from vgcomp.onnx_import import load_onnx


def test_a_position_table_is_computed(tmp_path: Path):
    nodes = [
        helper.make_node("Slice", ["table", "start", "end"], ["rows"]),
        helper.make_node("Cos", ["rows"], ["cos"]),
        helper.make_node("Mul", ["x", "cos"], ["y"]),
    ]
    weights = {"table": rand(64, 8), "start": np.array([0]), "end": np.array([5])}
    x = rand(2, 5, 8)
    program = agree(write(tmp_path / "m.onnx", nodes, {"x": x}, ["y"], weights), {"x": x})
    assert dict(ops(program)) == {"mul": 1}
    assert list(program.weights) == ["const_0"]


def test_a_large_weight_stays_a_reference(tmp_path: Path):
    nodes = [helper.make_node("Cos", ["table"], ["cos"]), helper.make_node("Add", ["x", "cos"], ["y"])]
    x = rand(1, 1024)
    program = agree(write(tmp_path / "m.onnx", nodes, {"x": x}, ["y"], {"table": rand(512, 1024)}), {"x": x})
    assert dict(ops(program)) == {"cos": 1, "add": 1}
    assert list(program.weights) == ["table"]


def test_what_a_layer_makes_of_a_table_is_no_table(tmp_path: Path):
    """The graph is the same with and without its weights, and whatever their size."""
    nodes = [
        helper.make_node("Constant", [], ["table"], value=numpy_helper.from_array(rand(6, 8))),
        helper.make_node("Sin", ["table"], ["sin"]),
        helper.make_node("MatMul", ["sin", "w"], ["embedded"]),
        helper.make_node("Add", ["x", "embedded"], ["y"]),
    ]
    x = rand(6, 32)
    inline = write(tmp_path / "inline.onnx", nodes, {"x": x}, ["y"], {"w": rand(8, 32)})
    onnx.save(onnx.load(inline), tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=512)
    program = agree(tmp_path / "m.onnx", {"x": x})
    assert dict(ops(program)) == {"matmul": 1, "add": 1}
    (tmp_path / "w").unlink()
    alone = load_onnx(tmp_path / "m.onnx")
    assert alone.text() == program.text()
    assert alone.weight_bytes() == program.weight_bytes() == 4 * (8 * 32 + 6 * 8)


def test_a_view_of_a_weight_stays_a_view(tmp_path: Path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    x = rand(3, 8)
    program = agree(write(tmp_path / "m.onnx", nodes, {"x": x}, ["y"], {"w": rand(8, 16)}), {"x": x})
    assert dict(ops(program)) == {"permute": 1, "linear": 1}
    assert program.weights["w"].shape == (8, 16)


def test_a_large_fill_takes_no_memory(tmp_path: Path):
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Concat", ["x", "zeros"], ["y"], axis=0),
    ]
    x = rand(1, 4096)
    shape = {"shape": np.array([1100, 4096])}
    program = agree(write(tmp_path / "m.onnx", nodes, {"x": x}, ["y"], shape), {"x": x})
    assert program.weight_bytes() < 100


def test_shape_arithmetic_vanishes(tmp_path: Path):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
        helper.make_node("Slice", ["s", "two", "many"], ["rest"]),
        helper.make_node("ReduceProd", ["rest"], ["pixels"]),
        helper.make_node("Div", ["pixels", "half"], ["halved"]),
        helper.make_node("Concat", ["n1", "minus", "halved"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["y"]),
    ]
    weights = {
        "zero": np.array(0), "axis": np.array([0]), "two": np.array([2]), "many": np.array([2**63 - 1]),
        "half": np.array([2]), "minus": np.array([-1]),
    }  # fmt: skip
    x = rand(2, 3, 4, 6)
    dims = {"x": ["n", 3, "h", "w"]}
    path = write(tmp_path / "m.onnx", nodes, {"x": x}, ["y"], weights, dims=dims)
    program = agree(path, {"x": x}, n=2, h=4, w=6)
    assert dict(ops(program)) == {"reshape": 1}
    assert not program.weights
