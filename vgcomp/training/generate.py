"""Clips from a denoiser of any batch, for judging: from noise of seeds, without guidance unless the network has it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vgcomp.rehash.sampler import Sampler
from vgcomp.training.flow import seeded


@torch.no_grad()
def generate(
    network: nn.Module, sampler: Sampler, prompts: Tensor, shape: tuple[int, ...], seed: int, at_once: int = 32
) -> Tensor:
    """(B, P) prompts -> (B, *shape) latents. Each part of ``at_once`` clips has noise of its own seed."""
    parts = []
    for first in range(0, len(prompts), at_once):
        some = prompts[first : first + at_once]
        latent = torch.randn((len(some), *shape), generator=seeded(seed, first)).to(some.device)
        for i in range(sampler.steps):
            told = torch.tensor(sampler.timestep(i), device=some.device)
            latent = sampler.step(i, latent, network(latent, told, some))
        parts.append(latent)
    return torch.cat(parts)
