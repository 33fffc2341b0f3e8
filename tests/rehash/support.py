"""Small denoisers with random weights: a UNet and a transformer as the quality bench's, guidance within."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from vgcomp.capture import capture
from vgcomp.models.initialise import randomise
from vgcomp.models.quality import Guided, VideoTransformer, VideoUnet
from vgcomp.program import Program
from vgcomp.quality.latent import CHANNELS
from vgcomp.quality.shapes import PROMPT, make_clips
from vgcomp.rehash.runner import Denoising, Job
from vgcomp.rehash.sampler import FlowEuler

SHAPE = (1, CHANNELS, 2, 4, 4)
STEPS = 6
DENOISING = Denoising(FlowEuler(STEPS))


@cache
def program(kind: str) -> Program:
    """``unet`` or ``transformer``. Programs do not change, so that tests may share them."""
    network: nn.Module = VideoUnet((32, 32), (1, 1)) if kind == "unet" else VideoTransformer(2, (4, 4), 32, 3)
    module = Guided(network).eval().requires_grad_(False)
    randomise(module, 0)
    example = (torch.randn(SHAPE), torch.tensor(500.0), torch.zeros(1, PROMPT))
    return capture(module, example, name=f"tiny-{kind}", output_names=["sample"])


def job(seed: int) -> Job:
    """Noise and a prompt of a seed."""
    rng = torch.Generator().manual_seed(seed)
    return Job(torch.randn(SHAPE, generator=rng), {"prompt": make_clips(1, seed).prompts})
