"""The budget holds for what an artifact's own plan takes, however that is packed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vgcomp.artifact_budget import optimize_within
from vgcomp.capture import capture
from vgcomp.errors import Infeasible
from vgcomp.memory import peak_activation_bytes
from vgcomp.program import Program


@pytest.fixture(scope="module")
def decoder() -> Program:
    convs = (nn.Conv2d(4, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 32, 3, padding=1), nn.SiLU())
    return capture(nn.Sequential(*convs, nn.Conv2d(32, 4, 3, padding=1)), (torch.randn(16, 4, 32, 32),), name="decoder")


def wasteful(program: Program) -> int:
    """An arena with a tenth lost to packing."""
    return peak_activation_bytes(program) * 11 // 10


def thrifty(program: Program) -> int:
    """An arena of less than the torch runtime takes."""
    return peak_activation_bytes(program) * 9 // 10


def test_what_packing_loses_is_planned_for(decoder: Program) -> None:
    budget = decoder.weight_bytes() + peak_activation_bytes(decoder) * 6 // 10
    plain = optimize_within(decoder, target="cpu", memory=budget, planned=peak_activation_bytes)
    result = optimize_within(decoder, target="cpu", memory=budget, planned=wasteful)
    assert plain.report.budget_bytes == result.report.budget_bytes == budget
    assert decoder.weight_bytes() + wasteful(result.program) <= budget
    assert peak_activation_bytes(result.program) <= peak_activation_bytes(plain.program)


def test_the_smallest_named_is_one_that_fits(decoder: Program) -> None:
    with pytest.raises(Infeasible, match="no artifact of decoder fits") as caught:
        optimize_within(decoder, target="cpu", memory="64KB", planned=wasteful)
    smallest = caught.value.smallest_bytes
    result = optimize_within(decoder, target="cpu", memory=smallest, planned=wasteful)
    assert result.program.weight_bytes() + wasteful(result.program) <= smallest


def test_an_artifact_that_needs_less_than_torch_may_have_less(decoder: Program) -> None:
    with pytest.raises(Infeasible) as caught:
        optimize_within(decoder, target="cpu", memory="64KB", planned=thrifty)
    result = optimize_within(decoder, target="cpu", memory=caught.value.smallest_bytes, planned=thrifty)
    assert result.program.weight_bytes() + thrifty(result.program) == caught.value.smallest_bytes
