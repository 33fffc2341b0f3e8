"""Every small network of the zoo, sliced: the same outputs, in just the memory that was predicted."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tests.plans import Measured, forced, measured, relative_error, slicer_of
from vgcomp import ir
from vgcomp.capture import capture
from vgcomp.cost_models import AnalyticModel
from vgcomp.memory import peak_activation_bytes
from vgcomp.models import MODELS, build
from vgcomp.passes.base import PassContext
from vgcomp.passes.pipeline import run_pipeline
from vgcomp.program import Program
from vgcomp.slicing.choices import Choice
from vgcomp.slicing.engine import ROUGH, Slicer, Solution
from vgcomp.targets import load_target
from vgcomp.verify import verify

SMALL = [name for name in MODELS if name.endswith("-small")]
REASSOCIATED = 1e-5
FEWER_BYTES = 0.02


class Network(NamedTuple):
    program: Program
    run: Measured


@cache
def unmodified(name: str) -> Network:
    """Built and run once a process."""
    program = build(name, dtype="fp32", weights="random")
    return Network(program, measured(program))


def hold_their_memory(program: Program, run: Measured) -> None:
    assert run.peak == pytest.approx(peak_activation_bytes(program, workspace="cpu"), rel=FEWER_BYTES)


def holds(solution: Solution, budget: int, wanted: Measured) -> None:
    """A plan is a Program, computes the same, and takes what was said of it, within the budget."""
    verify(solution.program)
    found = measured(solution.program)
    assert relative_error(found, wanted) <= REASSOCIATED
    hold_their_memory(solution.program, found)
    assert found.peak <= budget * (1 + FEWER_BYTES)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_sliced_networks_are_the_same_in_the_memory_predicted(name: str) -> None:
    """At the smallest budget that can be met, and at two between that and the unmodified peak, evenly by ratio."""
    program, wanted = unmodified(name)
    assert all(value.abs().max() > 0 for value in wanted.outputs)
    hold_their_memory(program, wanted)
    slicer = slicer_of(program)
    least = slicer.smallest(ROUGH)
    holds(least, least.peak, wanted)
    for third in (1 / 3, 2 / 3):
        budget = int(least.peak * (slicer.unsliced / least.peak) ** third)
        between = slicer.solve(budget)
        assert between is not None, f"no plan within {budget}, and one within {least.peak}"
        holds(between, budget, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_passes_that_claim_exact_change_no_bit(name: str) -> None:
    program, wanted = unmodified(name)
    target = load_target("cpu")
    context = PassContext(target, AnalyticModel(target), None)
    done = run_pipeline(program, ["canonicalize", "schedule", "assign-buffers"], context)
    found = measured(done.program)
    hold_their_memory(done.program, found)
    classes = {record.equivalence for record in done.records if record.changed}
    if classes <= {"exact"}:
        assert all(torch.equal(a, b) for a, b in zip(found.outputs, wanted.outputs, strict=True))
    assert relative_error(found, wanted) <= REASSOCIATED


# -- streaming


@pytest.mark.slow
@pytest.mark.parametrize(("name", "frames"), [("wan-vae-decoder-small", 33), ("cogvideox-vae-decoder-small", 9)])
def test_causal_decoders_stream_over_frames(name: str, frames: int) -> None:
    """Nothing is written for these networks: the frames are an axis, and causal windows leave line buffers."""
    program = build(name, dtype="fp32", weights="random", frames=frames, height=32, width=32)
    streamed, choice = forced(program, _streams)
    verify(streamed)
    loop = next(ir.loop_of(n) for n in streamed.graph.nodes if ir.is_loop(n) and n.name == _last_loop(streamed))
    convolutions = [n for body in loop.bodies for n in body.graph.nodes if n.target is ir.aten.convolution.default]
    assert any(body.carries_in for body in loop.bodies) and convolutions
    assert choice.n_slices > 1
    wanted, found = measured(program), measured(streamed)
    assert relative_error(found, wanted) <= REASSOCIATED
    hold_their_memory(program, wanted)
    hold_their_memory(streamed, found)
    assert found.peak < 0.8 * wanted.peak


def _streams(slicer: Slicer, choice: Choice) -> bool:
    """Line buffers along the frames, dimension 2 of (B, C, T, H, W), up to the network's output."""
    return choice.carry and choice.axis.dim == 2 and choice.end == slicer.problem.n


def _last_loop(program: Program) -> str:
    return [node.name for node in program.graph.nodes if ir.is_loop(node)][-1]


# -- statistics


class TemporalBlock(nn.Module):
    """A temporal residual block: its norms' statistics are over all frames, rows and columns."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, channels), nn.GroupNorm(4, channels)
        self.conv1 = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
        self.conv2 = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(torch.nn.functional.silu(self.norm1(x)))
        return x + self.conv2(torch.nn.functional.silu(self.norm2(h)))  # type: ignore[no-any-return]


def test_statistics_are_those_of_the_whole_tensor() -> None:
    """Columns on their own have other means: a slice's own statistics are far off, ours are not."""
    torch.manual_seed(0)
    block = TemporalBlock(16).eval()
    trend = torch.linspace(-3.0, 3.0, 32)  # brightness across the picture
    x = torch.randn(1, 16, 6, 8, 32) + trend
    program = capture(block, (x,), name="temporal-block")
    sliced, choice = forced(program, lambda slicer, c: c.axis.dim == 4 and c.end == slicer.problem.n)
    wanted = measured(program, [x])
    with torch.no_grad():
        each = torch.cat([block(part) for part in x.chunk(choice.n_slices, dim=4)], dim=4)
    (whole,) = wanted.outputs
    per_slice = float((each - whole).abs().max() / whole.abs().max())
    ours = relative_error(measured(sliced, [x]), wanted)
    assert choice.n_slices >= 4
    assert per_slice > 0.01, f"{per_slice:.4f}"
    assert ours < REASSOCIATED, f"{ours:.2e}"
