"""Predicted bytes are measured bytes on whole networks, run on the CPU with real tensors."""

from __future__ import annotations

import pytest
import torch

from vgcomp.backends.torch_module import TorchModule
from vgcomp.check import random_inputs
from vgcomp.memory import peak_activation_bytes
from vgcomp.models import MODELS, build
from vgcomp.track import LiveTracker

SMALL = [name for name in MODELS if name.endswith("-small")]


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_unmodified_network(name: str) -> None:
    program = build(name)
    module, inputs = TorchModule(program), random_inputs(program)
    with torch.no_grad(), LiveTracker(inputs) as tracker:
        out = module(*inputs)
    assert all(torch.isfinite(value).all() for value in out)
    assert peak_activation_bytes(program, workspace="cpu") == tracker.peak
    # Figures for GPUs leave the kernels' own temporaries out; here those are small.
    assert peak_activation_bytes(program) == pytest.approx(tracker.peak, rel=0.02)
