"""Sliced graphs and small networks: the same outputs as PyTorch's, in the memory that was predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

from tests.backends.tvm.support import TOLERANCE, Compiled, program_of, relative_error, weights_of
from tests.graph_builder import random_inputs, random_weights
from tests.plans import slicer_of
from tests.sliced_examples import EXAMPLES
from vgcomp import check, ir
from vgcomp.backends.torch_module import TorchModule, run_graph
from vgcomp.memory import peak_activation_bytes
from vgcomp.models import build
from vgcomp.program import Program

#: What alignment and packing may cost beside the prediction; the examples have buffers of a few hundred bytes.
NEAR, FEW_BYTES = 0.02, 1024


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_sliced_graphs_are_the_same_in_the_memory_predicted(
    name: str, device: Literal["cpu", "cuda"], tmp_path: Path
) -> None:
    plain, sliced = EXAMPLES[name]()
    inputs, weights = random_inputs(plain), random_weights(plain)
    kept = [value.clone() for value in inputs]
    wanted = run_graph(plain, inputs, weights)
    program = program_of(sliced)
    compiled = Compiled(program, tmp_path, device)
    torch.testing.assert_close(compiled(inputs, weights), wanted, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(kept, inputs, strict=True)), "inputs are the caller's"
    planned, predicted = compiled.lowered.plan.planned_bytes, peak_activation_bytes(program)
    assert planned <= predicted * (1 + NEAR) + FEW_BYTES


@pytest.fixture(scope="module", params=["svd-vae-decoder-small", "wan-1.3b-small"])
def networks(request: pytest.FixtureRequest) -> tuple[Program, Program]:
    """A network as it is, and in the slices that halve its memory, or the most that can be had."""
    program = build(request.param, dtype="fp32", weights="random")
    slicer = slicer_of(program)
    solution = slicer.solve(slicer.unsliced // 2) or slicer.smallest()
    return program, solution.program


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1], ids=["unmodified", "sliced"])
def test_small_networks_are_the_same_in_the_memory_predicted(
    networks: tuple[Program, Program], which: int, tmp_path: Path
) -> None:
    program = networks[which]
    assert any(ir.is_loop(node) for node in program.graph.nodes) == (which == 1)
    _agrees(program, torch.float32, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["svd-vae-decoder-small", "wan-1.3b-small"])
def test_small_networks_in_half_precision(name: str, tmp_path: Path) -> None:
    _agrees(build(name, dtype="fp16", weights="random"), torch.float16, tmp_path)


def _agrees(program: Program, dtype: torch.dtype, folder: Path) -> None:
    inputs = check.random_inputs(program)
    wanted = TorchModule(program)(*inputs)
    compiled = Compiled(program, folder)
    found = compiled(inputs, weights_of(program))
    assert relative_error(found, wanted) < TOLERANCE[dtype]
    planned, predicted = compiled.lowered.plan.planned_bytes, peak_activation_bytes(program)
    assert planned == pytest.approx(predicted, rel=NEAR)


def _kernels(steps: int) -> int:
    """Distinct kernels of two convolutions over ``steps`` slices of the frames."""
    from tests.graph_builder import Builder, aten, slice_of, spans
    from vgcomp.backends.tvm.lower import lower

    b = Builder()
    x, w = b.input("x", (24, 4, 8, 8)), b.weight("w", (4, 4, 3, 3))
    axis, length = ir.Axis(0, 24), 24 // steps
    inner = Builder()
    part, v = inner.value("part", slice_of(x, axis, (0, length))), inner.value("v", ir.val(w))
    y = inner.conv(inner.call(aten.silu.default, inner.conv(part, v, (1, 1))), v, (1, 1))
    body = ir.Body(inner.done(y), (0, 1), (0,))
    turns = tuple(ir.Step(0, (span, None), (span,)) for span in spans(24, length))
    loop = ir.Loop("frames", (body,), turns, (axis, None), (ir.Result((24, 4, 8, 8), torch.float32, axis),))
    lowered = lower(program_of(b.done(*b.loop(loop, [x, w]))))
    assert lowered.calls["convolution_0"] == steps
    return len(lowered.kernels)


def test_code_does_not_grow_with_the_number_of_slices() -> None:
    assert _kernels(2) == _kernels(24)
