"""The straight flow between clips and noise, as training sees it. Levels are 1 at noise and 0 at the clip.

Latents are (B, C, T, H, W); levels are (B,). Equations are those of SnapGen-V (Wu et al., CVPR 2025).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

#: What a network is told for a level: 1000 at noise.
TIMESTEPS = 1000
#: Errors of clips weigh as those of the velocity that follows from them, but no more than at this level.
LEAST_LEVEL = 0.1


def seeded(*numbers: int) -> torch.Generator:
    """A generator of its own for each row of numbers: what is drawn depends on them and on nothing before."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % (2**63)
    return torch.Generator().manual_seed(seed)


def logit_normal(count: int, location: float, scale: float, rng: torch.Generator) -> Tensor:
    """(count,) levels whose logit is normal (equation 3). A lower location means less noise."""
    return torch.sigmoid(location + scale * torch.randn(count, generator=rng))


def one_of(levels: Sequence[float], count: int, rng: torch.Generator) -> Tensor:
    """(count,) levels, each drawn evenly from those given."""
    return torch.tensor(levels)[torch.randint(len(levels), (count,), generator=rng)]


def noised(clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """The latents at these levels (equation 1)."""
    at = along(level, clean)
    return (1 - at) * clean + at * noise


def velocity(noisy: Tensor, clean: Tensor, level: Tensor) -> Tensor:
    """What leads from ``clean`` through ``noisy``: noise minus clip. Levels above 0."""
    return (noisy - clean) / along(level, noisy)


def moved(noisy: Tensor, speed: Tensor, level: Tensor, to: Tensor) -> Tensor:
    """Latents at levels ``to``, along the straight line of a velocity."""
    return noisy + along(to - level, noisy) * speed


def predicted_clip(network: nn.Module, noisy: Tensor, level: Tensor, prompts: Tensor) -> Tensor:
    """What a network that predicts clips makes of noisy latents. Prompts (B, P)."""
    found: Tensor = network(noisy, TIMESTEPS * level, prompts)
    return found


def velocity_error(found: Tensor, clean: Tensor, level: Tensor) -> Tensor:
    """(B,): the mean squared error of each clip's velocity (equation 2), its weight bounded near the clip."""
    return ((found - clean) / along(level.clamp_min(LEAST_LEVEL), clean)).square().flatten(1).mean(1)


def along(level: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1, 1), to go with latents."""
    return level.reshape(-1, *[1] * (like.dim() - 1))
