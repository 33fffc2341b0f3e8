"""The latent of the quality bench: each 4×4 patch of pixels as 48 channels. Exact both ways; nothing is learned."""

from __future__ import annotations

from torch import Tensor

#: Pixels of a patch's side, and values of a patch of three colours.
PATCH = 4
CHANNELS = 3 * PATCH * PATCH


def encode(clips: Tensor) -> Tensor:
    """(B, 3, T, H, W) pixels of [0, 1] -> (B, 48, T, H/4, W/4) of [-1, 1]."""
    b, c, t, h, w = clips.shape
    parts = clips.reshape(b, c, t, h // PATCH, PATCH, w // PATCH, PATCH).permute(0, 1, 4, 6, 2, 3, 5)
    return parts.reshape(b, c * PATCH * PATCH, t, h // PATCH, w // PATCH) * 2 - 1


def decode(latents: Tensor) -> Tensor:
    """(B, 48, T, h, w) -> (B, 3, T, 4·h, 4·w) pixels, clamped to [0, 1]."""
    b, _, t, h, w = latents.shape
    parts = latents.reshape(b, 3, PATCH, PATCH, t, h, w).permute(0, 1, 4, 5, 2, 6, 3)
    return ((parts.reshape(b, 3, t, h * PATCH, w * PATCH) + 1) / 2).clamp(0, 1)
