"""Losses of latent adversarial fine-tuning: equations 4 to 6 of SnapGen-V (Wu et al., CVPR 2025).

The paper's sign is kept: the discriminator says *low* for real samples and *high* for generated ones, and the
generator lowers what it says of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Equation 4: E[max(0, 1 + D(real))] + E[max(0, 1 - D(fake))], over logits of any shape."""
    return F.relu(1 + real).mean() + F.relu(1 - fake).mean()


def hinge_generator(fake: Tensor) -> Tensor:
    """Equation 5: E[D(fake)]."""
    return fake.mean()


def pseudo_huber(found: Tensor, clean: Tensor, c: float) -> Tensor:
    """Equation 6: sqrt(||found - clean||² + c²) - c of each of a batch (B, …), averaged over it."""
    squares = (found - clean).square().flatten(1).sum(1)
    return (torch.sqrt(squares + c * c) - c).mean()
