"""The whole way of an exported network: torch.onnx.export, ``vgcomp optimize``, ONNX Runtime."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch

from vgcomp.cli.main import main
from vgcomp.load import load
from vgcomp.memory import peak_activation_bytes
from vgcomp.models import build_module, find

NETWORK = "svd-unet-small"
Arrays = dict[str, npt.NDArray[np.generic]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Arrays]:
    """The network as an ONNX file with its weights beside it, and inputs for it."""
    module, inputs = build_module(NETWORK)
    network = find(NETWORK)
    names = [spec.name for spec in network.inputs(network.settings({}))]
    path = tmp_path_factory.mktemp("exported") / "unet.onnx"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), inputs, path, dynamo=True, external_data=True, input_names=names, verbose=False
        )
    return path, dict(zip(names, (x.numpy() for x in inputs), strict=True))


def run(path: Path, inputs: Arrays) -> npt.NDArray[np.float32]:
    """The only output, from ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, inputs)
    return np.asarray(out)


def optimized(path: Path, out: Path) -> Path:
    """``vgcomp optimize`` to a peak of activations below half; the file it wrote."""
    program = load(str(path))
    budget = program.weight_bytes() + peak_activation_bytes(program) * 48 // 100
    assert main(["optimize", str(path), "--target", "a18", "--mem", str(budget), "-o", str(out)]) == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["schema"] == "vgcomp.report/1"
    assert report["after"]["peak_bytes"] <= budget
    assert report["after"]["peak_activation_bytes"] * 2 <= report["before"]["peak_activation_bytes"]
    assert (out / "report.html").is_file()
    return out / "optimized.onnx"


@pytest.mark.slow
def test_an_export_takes_half_the_memory_and_says_the_same(exported: tuple[Path, Arrays], tmp_path: Path) -> None:
    path, inputs = exported
    expected = run(path, inputs)
    found = run(optimized(path, tmp_path / "out"), inputs)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.slow
def test_weights_that_are_not_there_stay_references(exported: tuple[Path, Arrays], tmp_path: Path) -> None:
    path, inputs = exported
    alone = tmp_path / "alone.onnx"
    shutil.copy(path, alone)
    assert load(str(alone)).weight_bytes() == load(str(path)).weight_bytes()
    result = optimized(alone, tmp_path)
    model = onnx.load(result, load_external_data=False)
    places = {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    assert places == {"unet.onnx.data"}, "weights are read from where the original reads them"
    shutil.copy(path.with_name("unet.onnx.data"), tmp_path)
    expected = run(path, inputs)
    assert np.abs(run(result, inputs) - expected).max() <= 1e-4 * np.abs(expected).max()
