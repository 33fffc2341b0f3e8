"""Weights outside the file: referenced where they lie, whether or not they are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from tests.onnx_import.support import Array, ops, rand, run, write
from vgcomp.errors import ModelError
from vgcomp.onnx_import import load_onnx
from vgcomp.weights import FileData, TensorData

X = rand(2, 8)


def network(tmp_path: Path) -> Path:
    """Two linear layers, a group norm as exporters write it, and a reshape whose shape is an initializer."""
    weights: dict[str, Array] = {
        "w1": rand(8, 128), "b1": rand(128), "w2": rand(128, 128), "image": np.array([2, 32, 2, 2]),
        "flat": np.array([0, 4, -1]), "ones": np.ones(4, dtype=np.float32), "zeros": np.zeros(4, dtype=np.float32),
        "scale": rand(32, 1, 1), "shift": rand(32, 1, 1, seed=5),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["p"]),
        helper.make_node("Add", ["p", "b1"], ["h"]),
        helper.make_node("Gemm", ["h", "w2"], ["g"], transB=1),
        helper.make_node("Reshape", ["g", "image"], ["i"], name="to_image"),
        helper.make_node("Reshape", ["i", "flat"], ["f"]),
        helper.make_node("InstanceNormalization", ["f", "ones", "zeros"], ["n"]),
        helper.make_node("Reshape", ["n", "image"], ["m"]),
        helper.make_node("Mul", ["m", "scale"], ["s"]),
        helper.make_node("Add", ["s", "shift"], ["y"]),
    ]
    return write(tmp_path / "inline.onnx", nodes, {"x": X}, ["y"], weights)


def split(path: Path, threshold: int) -> Path:
    """The same file with data of ``threshold`` bytes and more beside it."""
    model = onnx.load(path)
    out = path.with_name("model.onnx")
    onnx.save(model, out, save_as_external_data=True, location="model.data", size_threshold=threshold)
    return out


def test_inline_weights_are_held(tmp_path: Path):
    program = load_onnx(network(tmp_path))
    assert isinstance(program.weights["w1"].data, TensorData)
    assert dict(ops(program)) == {"permute": 1, "linear": 2, "reshape": 1, "group_norm": 1}


def test_external_weights_are_references(tmp_path: Path):
    inline = network(tmp_path)
    path = split(inline, 16)
    program = load_onnx(path)
    data = program.weights["w2"].data
    assert isinstance(data, FileData)
    assert data.path == (tmp_path / "model.data").resolve()
    assert data.length == 128 * 128 * 4
    (ours,) = run(program, {"x": X})
    (theirs,) = run(load_onnx(inline), {"x": X})
    np.testing.assert_array_equal(ours, theirs)


def test_a_weight_seen_under_another_shape_is_the_same_bytes(tmp_path: Path):
    program = load_onnx(split(network(tmp_path), 16))
    scale = program.weights["scale"]
    assert scale.shape == (32,)
    assert isinstance(scale.data, FileData)


def test_missing_data_does_not_hinder_analysis(tmp_path: Path):
    path = split(network(tmp_path), 120)
    whole = load_onnx(path)
    (tmp_path / "model.data").unlink()
    program = load_onnx(path)
    assert ops(program) == ops(whole)
    assert {name: (w.shape, w.data) for name, w in program.weights.items() if isinstance(w.data, FileData)} == {
        name: (w.shape, w.data) for name, w in whole.weights.items() if isinstance(w.data, FileData)
    }
    with pytest.raises(ModelError, match=r"model\.data is missing"):
        program.weights["w2"].load()


def test_missing_data_that_decides_a_shape_is_named(tmp_path: Path):
    path = split(network(tmp_path), 8)
    (tmp_path / "model.data").unlink()
    with pytest.raises(ModelError, match=r"'to_image'.*'image'.*model\.data is missing"):
        load_onnx(path)


def test_short_data_is_refused(tmp_path: Path):
    path = split(network(tmp_path), 16)
    data = tmp_path / "model.data"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"^tensor .*model\.data is truncated"):
        load_onnx(path)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd"])
def test_data_outside_the_folder_is_refused(tmp_path: Path, location: str):
    folder = tmp_path / "model"
    folder.mkdir()
    path = split(network(folder), 1024)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = location if entry.key == "location" else entry.value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside the model's folder"):
        load_onnx(path)


def test_data_beyond_two_gigabytes_is_not_read(tmp_path: Path):
    """A sparse file stands for the data; only its last tensor is ever looked at."""
    offset, size = 3 * 2**30, 64 * 64 * 4
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])]
    x = rand(2, 32768)
    path = write(tmp_path / "m.onnx", nodes, {"x": x}, ["y"], {"w": rand(1), "v": rand(64, 64)})
    model = onnx.load(path)
    for tensor, at, shape in zip(model.graph.initializer, (0, offset), ((32768, 64), (64, 64))):
        tensor.ClearField("raw_data")
        del tensor.dims[:]
        tensor.dims.extend(shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "big.data"), ("offset", str(at)), ("length", str(4 * shape[0] * shape[1]))):
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    with (tmp_path / "big.data").open("wb") as stream:
        stream.seek(offset)
        stream.write(rand(64, 64).tobytes())
    program = load_onnx(path)
    data = program.weights["v"].data
    assert isinstance(data, FileData)
    assert (data.offset, data.length) == (offset, size)
    np.testing.assert_array_equal(program.weights["v"].load().numpy(), rand(64, 64))


@pytest.mark.parametrize("kind", [onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT])
def test_element_types_keep_their_values(tmp_path: Path, kind: int):
    wanted = torch.arange(32).float() / 4
    tensor = helper.make_tensor("w", kind, [32], wanted.tolist())
    node = helper.make_node("Identity", ["w"], ["y"])
    path = write(tmp_path / "m.onnx", [node], {"x": X}, ["y"])
    model = onnx.load(path)
    model.graph.initializer.append(tensor)
    onnx.save(model, path)
    torch.testing.assert_close(load_onnx(path).weights["w"].load().float(), wanted)
