"""What is said of each region is so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests import sliced_examples
from tests.plans import slicer_of
from vgcomp import ir
from vgcomp.capture import capture
from vgcomp.slicing.explain import explain_regions, how_sliced


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("frames", "without overlap"),
        ("growing-in-place", "without overlap"),
        ("norm-in-two-loops", "without overlap"),
        ("rows-with-halo", "recomputing halos of 4"),
        ("rows-with-carries", "carrying line buffers"),
        ("rows-in-place", "carrying line buffers"),
    ],
)
def test_how_neighbouring_slices_meet(name: str, said: str) -> None:
    _, graph = sliced_examples.EXAMPLES[name]()
    assert how_sliced([ir.loop_of(node) for node in graph.nodes if ir.is_loop(node)]) == said


def test_slices_of_frames_are_said_to_repeat_nothing() -> None:
    """Images: a convolution has no window over them, and no halo is spoken of."""
    block = nn.Sequential(nn.Conv2d(4, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 4, 3, padding=1))
    slicer = slicer_of(capture(block, (torch.zeros(8, 4, 16, 16),), name="block"))
    solution = slicer.solve(slicer.unsliced // 2)
    assert solution is not None
    regions = [e.reason for e in explain_regions(slicer.problem, solution) if "slices of dimension" in e.reason]
    assert regions
    assert all("of dimension 0 " not in said or "without overlap" in said for said in regions)
    assert any("of dimension 0 " in said for said in regions)
