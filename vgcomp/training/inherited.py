"""A candidate's quality without training it: the denoising loss with the weights that it inherits from a supernet.

    quality = InheritedLoss("run")                  # the folder of a training run, or of one checkpoint
    quality(candidate)                              # minus the loss: higher is better

Clips, noise and levels are the same for every candidate of one resolution. Losses of different resolutions measure
different clips: compare candidates of one, or weigh them yourself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vgcomp.errors import ModelError
from vgcomp.models.sned import RESOLUTION
from vgcomp.models.spaces import find_space
from vgcomp.space import Candidate
from vgcomp.training import checkpoint, flow
from vgcomp.training.clips import Batch
from vgcomp.training.supernet import SupernetRecipe, denoising_loss, make_supernet, shapes_of

#: The held-out clips' seed, which is below those that training uses; how many clips, and how many at once.
SEED, CLIPS, AT_ONCE = 800_000, 64, 32


class InheritedLoss:
    """Minus the mean velocity error of a candidate on held-out clips. Deterministic; one candidate at a time.

    Raises UsageError for a folder without a checkpoint, ModelError for one of another kind.
    """

    def __init__(self, path: str | Path, clips: int = CLIPS) -> None:
        found = checkpoint.load(Path(path))
        if found.about.get("kind") != "supernet":
            raise ModelError(f"{path} holds a training of kind {found.about.get('kind')!r}, not of a supernet")
        self.recipe = _recipe(found.about["recipe"], path)
        self.space, self.clips = find_space(self.recipe.network), clips
        self.supernet = make_supernet(self.recipe.network, self.recipe.frames, self.recipe.seed)
        try:
            self.supernet.load_state_dict(found.parts()["supernet"])
        except RuntimeError:
            raise ModelError(f"{path} holds other weights than {self.recipe.network} has now: train it again") from None
        self.supernet.requires_grad_(False).eval()
        self._batches: dict[int, Batch] = {}

    def __call__(self, candidate: Candidate) -> float:
        """Raises UsageError for a candidate that is not of the supernet's space."""
        named = self.space.named(candidate)
        self.supernet.choose(named)
        return -held_out_loss(self.supernet, self._batch(int(named[RESOLUTION])))

    def quality(self, candidate: Candidate) -> float:
        """The same, under the name that a search asks by."""
        return self(candidate)

    def _batch(self, size: int) -> Batch:
        if size not in self._batches:
            shapes = shapes_of(self.supernet, size, self.recipe.frames)
            self._batches[size] = shapes.batch(self.clips, SEED, flow.seeded(SEED, size))
        return self._batches[size]


def _recipe(raw: Mapping[str, Any], path: str | Path) -> SupernetRecipe:
    try:
        return SupernetRecipe(**{**raw, "only": tuple(raw["only"])})
    except (TypeError, KeyError) as error:
        raise ModelError(f"{path} holds a recipe of another version ({error}): train it again") from None


@torch.no_grad()
def held_out_loss(supernet: torch.nn.Module, batch: Batch) -> float:
    """The mean velocity error of what a supernet runs as, with levels spread evenly over their distribution."""
    levels, total = spread_levels(len(batch.latents)), 0.0
    for first in range(0, len(levels), AT_ONCE):
        rows = slice(first, first + AT_ONCE)
        some = Batch(batch.latents[rows], batch.noise[rows], batch.prompts[rows])
        total += float(denoising_loss(supernet, some, levels[rows]).sum())
    return total / len(levels)


def spread_levels(count: int) -> Tensor:
    """(count,) levels at even quantiles of the logit-normal distribution with m = 0 and s = 1."""
    even = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.sigmoid(math.sqrt(2) * torch.erfinv(2 * even - 1)).float()
