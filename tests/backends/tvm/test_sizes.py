"""What an artifact takes: code does not grow with the number of slices, storage is what was predicted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.backends.tvm.support import program_of
from tests.graph_builder import Builder, aten, random_inputs, random_weights, slice_of, spans
from tests.plans import forced
from vgcomp import ir
from vgcomp.backends.torch_module import run_graph
from vgcomp.backends.tvm.build import build_library
from vgcomp.backends.tvm.repeat import FOLD, folds
from vgcomp.memory import peak_activation_bytes
from vgcomp.models import build
from vgcomp.optimize import optimize
from vgcomp.program import Program

#: Slices that are compared, and by how much a library may differ.
FEW, MANY, MORE = 4, 64, 0.05


def _frames(steps: int, count: int = 64) -> Program:
    """Two convolutions over ``count`` frames, in equal slices."""
    b = Builder()
    x, w = b.input("x", (count, 4, 8, 8)), b.weight("w", (4, 4, 3, 3))
    axis, length = ir.Axis(0, count), count // steps
    inner = Builder()
    part, v = inner.value("part", slice_of(x, axis, (0, length))), inner.value("v", ir.val(w))
    y = inner.conv(inner.call(aten.silu.default, inner.conv(part, v, (1, 1))), v, (1, 1))
    body = ir.Body(inner.done(y), (0, 1), (0,))
    turns = tuple(ir.Step(0, (span, None), (span,)) for span in spans(count, length))
    loop = ir.Loop("frames", (body,), turns, (axis, None), (ir.Result((count, 4, 8, 8), torch.float32, axis),))
    return program_of(b.done(*b.loop(loop, [x, w])))


def _network(name: str, region: tuple[int, int], steps: int) -> Program:
    """A network with one region in so many slices."""
    program = build(name, weights="random")
    return forced(program, lambda _, choice: (choice.first, choice.end) == region and choice.n_slices == steps)[0]


def _steps(program: Program) -> list[int]:
    return [len(ir.loop_of(node).steps) for node in program.graph.nodes if ir.is_loop(node)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "region"),
    [("frames", (0, 0)), ("ltx-video-small", (4, 18)), ("svd-vae-decoder-small", (270, 276))],
    ids=["frames", "tokens", "rows with halo"],
)
def test_libraries_do_not_grow_with_the_number_of_slices(name: str, region: tuple[int, int], tmp_path: Path) -> None:
    sizes = []
    for steps in (FEW, MANY):
        program = _frames(steps) if name == "frames" else _network(name, region, steps)
        assert _steps(program) == [steps]
        folder = tmp_path / str(steps)
        folder.mkdir()
        library = build_library(program, folder)
        sizes.append((folder / "model.so").stat().st_size)
        predicted = peak_activation_bytes(program)
        assert library.planned_bytes == pytest.approx(predicted, rel=0.1)
    assert abs(sizes[1] - sizes[0]) <= MORE * sizes[0], sizes


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mem"), [("ltx-video-small", 0.8), ("svd-vae-decoder-small", 0.6)])
def test_planned_storage_is_as_predicted_and_under_the_budget(name: str, mem: float, tmp_path: Path) -> None:
    program = build(name, weights="random")
    budget = program.weight_bytes() + int(mem * peak_activation_bytes(program))
    result = optimize(program, target="cpu", memory=budget)
    planned = build_library(result.program, tmp_path).planned_bytes
    assert planned == pytest.approx(result.report.after.peak_activation_bytes, rel=0.1)
    assert program.weight_bytes() + planned <= budget


@pytest.mark.parametrize("steps", [8, 23, 64])
def test_folded_steps_are_all_taken_in_their_order(steps: int, tmp_path: Path) -> None:
    from tests.backends.tvm.support import Compiled

    program = _frames(steps, count=2 * steps)
    inputs, weights = random_inputs(program.graph), random_weights(program.graph)
    found = Compiled(program, tmp_path)(inputs, weights)
    torch.testing.assert_close(found, run_graph(program.graph, inputs, weights), rtol=1e-5, atol=1e-5)


def test_steps_fold_into_powers() -> None:
    for count in range(1, 200):
        done = 0
        for first, level in folds(count):
            assert first == done
            done += FOLD**level
        assert done == count
    assert len(folds(64)) == 1
    assert len(folds(FOLD)) == FOLD
