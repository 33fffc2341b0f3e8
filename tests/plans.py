"""Plans made by hand from the planner's candidates, and runs of a Program that are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vgcomp.backends.torch_module import TorchModule
from vgcomp.check import random_inputs
from vgcomp.cost_models import AnalyticModel
from vgcomp.program import Program
from vgcomp.slicing.choices import Choice, Plan
from vgcomp.slicing.engine import Slicer
from vgcomp.slicing.plan import plan_space
from vgcomp.slicing.rewrite import rewrite
from vgcomp.targets import load_target
from vgcomp.track import LiveTracker


@dataclass(frozen=True)
class Measured:
    """Outputs, and the most bytes of tensors that were alive: inputs, outputs and temporaries."""

    outputs: tuple[Tensor, ...]
    peak: int


def measured(program: Program, inputs: list[Tensor] | None = None) -> Measured:
    """Runs on seeded random inputs, or those given, on the CPU."""
    module, values = TorchModule(program), random_inputs(program) if inputs is None else inputs
    with torch.no_grad(), LiveTracker(values) as tracker:
        outputs = module(*values)
    return Measured(tuple(outputs), tracker.peak)


def relative_error(found: Measured, wanted: Measured) -> float:
    """Largest difference of any output over that output's largest value."""
    pairs = zip(found.outputs, wanted.outputs, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def slicer_of(program: Program) -> Slicer:
    """Plans for the CPU."""
    target = load_target("cpu")
    return Slicer(program, target, AnalyticModel(target))


def forced(program: Program, wanted: Callable[[Slicer, Choice], bool]) -> tuple[Program, Choice]:
    """The program with one region in slices: the longest of those wanted, in the most slices."""
    slicer = slicer_of(program)
    space = plan_space(slicer.problem, slicer.unsliced // 3, slicer.unsliced)
    edges = [space.choice(edge) for edge in range(len(space.peak))]
    found = [choice for choice in edges if not choice.grow and wanted(slicer, choice)]
    assert found, f"no such region in {program.name}"
    best = max(found, key=lambda choice: (choice.end - choice.first, choice.n_slices))
    written = rewrite(space, Plan((best,), best.peak, best.seconds))
    return program.with_graph(written.graph), best
