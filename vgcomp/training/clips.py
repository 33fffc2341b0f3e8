"""Batches of generated moving shapes, each by its number: the same for any number of processes that share one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vgcomp.errors import UsageError
from vgcomp.quality.latent import encode
from vgcomp.quality.shapes import make_clips

#: Clips to train on start at this seed; those to judge by have lower ones.
FIRST_SEED = 1_000_000


@dataclass(frozen=True)
class Share:
    """Every ``of``-th row of a batch, starting at ``rank``: what one of several processes takes."""

    rank: int = 0
    of: int = 1

    def check(self, batch: int) -> None:
        """Raises UsageError for a batch that cannot be shared evenly: means of the shares would not be the whole's."""
        if batch % self.of:
            raise UsageError(f"a batch of {batch} cannot be shared by {self.of} processes: take a multiple")

    def rows(self, value: Tensor) -> Tensor:
        """This share of a batch (B, …)."""
        return value[self.rank :: self.of]


@dataclass(frozen=True)
class Batch:
    """``latents`` (B, C, T, H, W), ``noise`` of the same shape and ``prompts`` (B, 12)."""

    latents: Tensor
    noise: Tensor
    prompts: Tensor

    def share(self, share: Share, device: torch.device) -> Batch:
        """One process' rows, on its device."""
        return Batch(*(share.rows(value).to(device) for value in (self.latents, self.noise, self.prompts)))


@dataclass(frozen=True)
class Shapes:
    """Clips of one size, in pixels. A single frame is an image. ``latent``: 4×4 patches as channels, else pixels."""

    frames: int = 8
    size: int = 32
    latent: bool = True

    def batch(self, count: int, seed: int, noise: torch.Generator) -> Batch:
        """``count`` clips; the same for the same seed. Latents and noise on the CPU."""
        clips = make_clips(count, seed, frames=self.frames, size=self.size)
        latents = encode(clips.pixels) if self.latent else clips.pixels * 2 - 1
        return Batch(latents, torch.randn(latents.shape, generator=noise), clips.prompts)
