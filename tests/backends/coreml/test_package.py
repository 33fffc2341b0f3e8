"""Packages as files: compressed weights are read back as coremltools has them, and damage is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.backends.coreml.support import legal
from tests.graph_builder import Builder, aten
from tests.passes.support import program
from vgcomp.backends.coreml.build import build_package, interface_of
from vgcomp.backends.coreml.compress import FORMS, form_of, kmeans
from vgcomp.backends.coreml.package import BLOB, MODEL, read_package
from vgcomp.backends.coreml.reference import Reference
from vgcomp.errors import ModelError, UsageError
from vgcomp.program import Program
from vgcomp.weights import from_tensor

ROWS, WIDTH = 96, 64


@pytest.fixture(scope="module")
def layer() -> Program:
    b = Builder()
    x = b.input("x", (4, WIDTH))
    given = program(b.done(b.call(aten.linear.default, x, b.weight("w", (ROWS, WIDTH)))))
    values = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
    given.weights["w"] = from_tensor("w", values)
    return legal(given)


@pytest.mark.parametrize("name", list(FORMS))
def test_weights_are_what_coremltools_says_they_are(layer: Program, name: str, tmp_path: Path) -> None:
    from coremltools.optimize.coreml import decompress_weights

    model = build_package(layer, FORMS[name])
    model.save(str(tmp_path / "a.mlpackage"))
    decompress_weights(model).save(str(tmp_path / "b.mlpackage"))
    x = torch.eye(WIDTH)[:4].half()
    found, wanted = (Reference(read_package(tmp_path / f"{which}.mlpackage")).run({"x": x})["out0"] for which in "ab")
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-3)
    size = (tmp_path / "a.mlpackage" / MODEL.parent / BLOB).stat().st_size
    dense = ROWS * WIDTH * FORMS[name].bits / 8
    assert dense <= size <= dense + 1024, "packed, with tables, scales and headers"
    original = layer.weights["w"].load().float()[:, :4].T
    bound = {16: 1e-3, 8: 0.02, 6: 0.15, 4: 0.5}[FORMS[name].bits]
    assert float((found.float() - original).abs().max() / original.abs().max()) <= bound


def test_kmeans_is_no_worse_than_even_steps() -> None:
    values = np.random.default_rng(0).standard_normal(5000)
    centres = kmeans(values, 16)
    assert (np.diff(centres) >= 0).all()
    even = np.linspace(values.min(), values.max(), 16)
    near = [np.abs(values[:, None] - table).min(axis=1) for table in (centres, even)]
    assert (near[0] ** 2).mean() < 0.6 * (near[1] ** 2).mean()
    assert {1.0, 2.0} <= set(kmeans(np.array([1.0, 2.0, 2.0, 1.0]), 4))


def test_another_form_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--weights int4: one of fp16, palettize-4, palettize-6, linear-8"):
        form_of("int4")


def test_names_are_made_fit_for_core_ml() -> None:
    b = Builder()
    graph = b.done(b.call(aten.neg.default, b.input("x", (), torch.float16)))
    next(iter(graph.nodes)).target = "down.0/x:0"
    interface = interface_of(program(graph))
    assert [(item.name, item.feature, item.shape) for item in interface.inputs] == [("down.0/x:0", "down_0_x_0", (1,))]


def test_values_are_never_named_alike(tmp_path: Path) -> None:
    """The builder calls its own ops add_0, mul_1 and so on."""
    b = Builder()
    x, y = b.input("add_0", (4,), torch.float16), b.input("mul_1", (4,), torch.float16)
    total = b.call(aten.add.Tensor, b.call(aten.mul.Tensor, b.call(aten.add.Tensor, x, y), y), x)
    given = replace(program(b.done(total, b.call(aten.mul.Tensor, total, x))), output_names=("add_1", "mul_0"))
    build_package(given).save(str(tmp_path / "a.mlpackage"))
    a, c = torch.full((4,), 2.0).half(), torch.full((4,), 3.0).half()
    found = Reference(read_package(tmp_path / "a.mlpackage")).run({"add_0": a, "mul_1": c})
    assert {name: value[0].item() for name, value in found.items()} == {"add_1": 17.0, "mul_0": 34.0}


def test_damage_is_told(layer: Program, tmp_path: Path) -> None:
    path = tmp_path / "a.mlpackage"
    with pytest.raises(ModelError, match="is no Core ML package"):
        read_package(path)
    build_package(layer).save(str(path))
    blob = path / MODEL.parent / BLOB
    content = blob.read_bytes()
    blob.write_bytes(content[:40])
    with pytest.raises(ModelError, match="missing or truncated"):
        read_package(path)
    blob.write_bytes(content[:64] + b"\0" * 8 + content[72:])
    with pytest.raises(ModelError, match="damaged at byte 64"):
        read_package(path)
    (path / MODEL).write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match="is damaged"):
        read_package(path)


def test_wrong_inputs_are_refused(layer: Program, tmp_path: Path) -> None:
    build_package(layer).save(str(tmp_path / "a.mlpackage"))
    reference = Reference(read_package(tmp_path / "a.mlpackage"))
    with pytest.raises(UsageError, match="'x' is missing"):
        reference.run({})
    with pytest.raises(UsageError, match=r"must be float16 of shape \(4, 64\), not float32 of \(4, 64\)"):
        reference.run({"x": torch.zeros(4, WIDTH)})
