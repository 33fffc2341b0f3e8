"""The smallest networks and recipes that training can be tested with."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from vgcomp.models.initialise import randomise
from vgcomp.models.quality import VideoUnet
from vgcomp.training.adversarial import Adversarial, Recipe
from vgcomp.training.processes import Processes

RECIPE = Recipe(iterations=1000, batch=2, warmup=1)


def unet(seed: int = 0) -> VideoUnet:
    """Two levels of 32 channels, random weights."""
    network = VideoUnet((32, 32), (1, 1))
    randomise(network, seed)
    return network


def adversarial(among: Processes | None = None, **changes: object) -> Adversarial:
    """A fine-tuning of the smallest UNet; recipe's fields as given."""
    return Adversarial(unet(), replace(RECIPE, **changes), among)  # type: ignore[arg-type]


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that later iterations do not change."""
    return {name: value.detach().clone() for name, value in tensors.items()}
