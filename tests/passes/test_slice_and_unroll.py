"""``slice-and-unroll``: only where no parts fit, and then the parts fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.passes.engine import A18, a18
from vgcomp import ir
from vgcomp.capture import capture
from vgcomp.check import check
from vgcomp.device_memory import device_memory
from vgcomp.errors import Infeasible
from vgcomp.load import load
from vgcomp.passes.partition import Costs, Partition, smallest_ceiling
from vgcomp.passes.pipeline import run_pipeline
from vgcomp.passes.slice_and_unroll import SliceAndUnroll
from vgcomp.program import Program
from vgcomp.verify import verify


@pytest.fixture(scope="module")
def decoder() -> Program:
    return run_pipeline(load("sd-vae-decoder-small"), "canonicalize,legalize-coreml,schedule", a18()).program


def test_what_fits_in_parts_is_not_sliced(decoder: Program) -> None:
    result = SliceAndUnroll().run(decoder, a18(10**9))
    assert not result.changed
    assert "parts of it fit" in result.explanations[0].reason


def test_slices_make_parts_fit(decoder: Program) -> None:
    least, _ = smallest_ceiling(Costs.of(decoder))
    budget = int(least * 0.8)
    with pytest.raises(Infeasible):
        Partition().run(decoder, a18(budget))
    result = SliceAndUnroll().run(decoder, a18(budget))
    verify(result.program)
    assert result.changed
    assert not any(ir.is_loop(node) for node in result.program.graph.nodes)
    parted = Partition().run(result.program, a18(budget)).program
    assert device_memory(parted, A18).total_bytes <= budget
    found = check(decoder, parted)
    assert found.status == "passed", found.reason


def test_what_fits_in_no_way_is_told_with_what_would() -> None:
    convs = (nn.Conv2d(4, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 32, 3, padding=1), nn.SiLU())
    network = nn.Sequential(*convs, nn.Conv2d(32, 4, 3, padding=1))
    program = capture(network, (torch.randn(16, 4, 32, 32),), name="convolutions")
    with pytest.raises(Infeasible) as found:
        SliceAndUnroll().run(program, a18(100_000))
    assert found.value.smallest_bytes > 100_000
    least, _ = smallest_ceiling(Costs.of(program))
    with pytest.raises(Infeasible, match=r"ops, over 10"):
        SliceAndUnroll(max_nodes=10).run(program, a18(int(least * 0.8)))
