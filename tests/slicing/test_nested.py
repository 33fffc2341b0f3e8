"""Nested regions: a slice's body sliced again, with the outputs and the memory that were promised."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from torch import fx

from tests.backends.test_onnx_export import make_program, run_onnx
from tests.graph_builder import Builder, aten
from tests.plans import measured, relative_error
from vgcomp import ir
from vgcomp.backends.onnx_export import export_onnx
from vgcomp.check import random_inputs
from vgcomp.cost_models import AnalyticModel
from vgcomp.memory import peak_activation_bytes
from vgcomp.program import Program
from vgcomp.slicing.engine import Slicer, Solution
from vgcomp.slicing.fit import fit
from vgcomp.slicing.plan import plan_space
from vgcomp.targets import load_target
from vgcomp.verify import verify

CPU = load_target("cpu")
REASSOCIATED = 1e-5
#: Of the unsliced peak; a frame in one piece takes more than either.
SHARES = [0.35, 0.25]


def decoder() -> Program:
    """Four frames, each decoded for itself: norms over a frame, a residual, and 4 times the pixels at the end."""
    b = Builder()
    x = b.input("x", (4, 4, 48, 48))
    first, w, last = b.weight("first", (16, 4, 3, 3)), b.weight("w", (16, 16, 3, 3)), b.weight("last", (3, 16, 3, 3))
    scale, shift = b.weight("scale", (16,)), b.weight("shift", (16,))
    y = begin = b.conv(x, first, (1, 1))
    for _ in range(2):
        y = b.call(aten.group_norm.default, y, 4, scale, shift, 1e-5)
        y = b.conv(b.call(aten.silu.default, y), w, (1, 1))
    y = b.call(aten.add.Tensor, y, begin)
    y = b.call(aten.upsample_nearest2d.vec, y, None, [2.0, 2.0])
    y = b.call(aten.silu.default, b.conv(y, w, (1, 1)))
    return make_program(b.done(b.conv(y, last, (1, 1))))


@cache
def solved(share: float) -> tuple[Slicer, Solution]:
    program = decoder()
    slicer = Slicer(program, CPU, AnalyticModel(CPU))
    solution = slicer.solve(int(share * slicer.unsliced))
    assert solution is not None
    return slicer, solution


def depth(graph: fx.Graph) -> int:
    """How deep loops lie in loops."""
    loops = [ir.loop_of(node) for node in graph.nodes if ir.is_loop(node)]
    return max((1 + max(depth(body.graph) for body in loop.bodies) for loop in loops), default=0)


@pytest.mark.parametrize("share", SHARES)
def test_a_slice_too_large_is_sliced_again(share: float) -> None:
    slicer, solution = solved(share)
    assert depth(solution.program.graph) == 2
    assert solution.peak <= share * slicer.unsliced
    verify(solution.program)


@pytest.mark.parametrize("share", SHARES)
def test_outputs_and_memory_are_as_promised(share: float) -> None:
    slicer, solution = solved(share)
    wanted, found = measured(slicer.program), measured(solution.program)
    assert relative_error(found, wanted) <= REASSOCIATED
    assert found.peak == pytest.approx(peak_activation_bytes(solution.program, workspace="cpu"), rel=0.02)


@pytest.mark.parametrize("share", SHARES)
def test_nesting_is_faster_than_any_plan_without(share: float) -> None:
    slicer, solution = solved(share)
    budget = int(share * slicer.unsliced)
    flat = fit(plan_space(slicer.problem, int(0.8 * budget), budget), budget, slicer.live)
    assert flat is None or slicer.seconds(flat.graph) > 1.02 * solution.seconds


def test_the_onnx_file_nests_too(tmp_path: Path) -> None:
    slicer, solution = solved(SHARES[0])
    inputs = random_inputs(slicer.program)
    export_onnx(solution.program, tmp_path / "nested.onnx")
    (found,) = run_onnx(tmp_path / "nested.onnx", inputs)
    (wanted,) = measured(slicer.program, inputs).outputs
    assert float((found - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())
