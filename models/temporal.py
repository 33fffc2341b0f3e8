"""Temporal layers that can stand at one position of a video network: convolutions and attention, over time or the clip.

All take and give (B·T, C, H, W) and add to their input. ``1d`` layers see one place through time, ``3d`` layers the
whole clip. Attention has normalised queries and keys and rotary positions, which are tables and cost no trigonometry.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Size of a head's vectors.
HEAD = 64


class TemporalConv(nn.Module):
    """Norm, SiLU and a convolution: 3 frames (``1d``) or 3×3×3 (``3d``).

    The one over time alone is spelled in two dimensions, time and places: phones have no third.
    """

    def __init__(self, channels: int, frames: int, *, whole: bool) -> None:
        super().__init__()
        self.frames, self.whole = frames, whole
        self.norm = nn.GroupNorm(min(32, channels), channels)
        self.conv = (
            nn.Conv3d(channels, channels, 3, padding=1)
            if whole
            else nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        )

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        clip = F.silu(self.norm(x)).unflatten(0, (-1, self.frames)).transpose(1, 2)
        out = self.conv(clip if self.whole else clip.flatten(3))
        return x + out.reshape(clip.shape).transpose(1, 2).flatten(0, 1)  # type: ignore[no-any-return]


class TemporalAttention(nn.Module):
    """Attention and a gated feed-forward. Keys are the tokens themselves, or the prompt's (``cross``)."""

    cos: Tensor
    sin: Tensor

    def __init__(
        self, channels: int, frames: int, size: tuple[int, int], *, whole: bool, context: int | None, heads: int
    ) -> None:
        super().__init__()
        self.frames, self.whole, self.cross, self.heads = frames, whole, context is not None, heads
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        keys = channels if context is None else context
        self.to_q, self.to_out = nn.Linear(channels, channels, bias=False), nn.Linear(channels, channels)
        self.to_k, self.to_v = nn.Linear(keys, channels, bias=False), nn.Linear(keys, channels, bias=False)
        head = channels // heads
        self.norm_q, self.norm_k = nn.RMSNorm(head, eps=1e-6), nn.RMSNorm(head, eps=1e-6)
        self.gate, self.fc = nn.Linear(channels, 8 * channels), nn.Linear(4 * channels, channels)
        grid = (frames, *size) if whole else (frames,)
        for name, table in zip(("cos", "sin"), rotary_tables(grid, head), strict=True):
            self.register_buffer(name, table, persistent=False)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        # (B·T, C, H, W) -> (B, T·H·W, C) or (B·H·W, T, C)
        clip = x.unflatten(0, (-1, self.frames))
        tokens = clip.permute(0, 1, 3, 4, 2) if self.whole else clip.permute(0, 3, 4, 1, 2)
        shape = tokens.shape
        tokens = tokens.flatten(1, 3) if self.whole else tokens.flatten(0, 2)
        tokens = tokens + self._attend(self.norm1(tokens), context)
        value, gate = self.gate(self.norm2(tokens)).chunk(2, dim=-1)
        tokens = tokens + self.fc(value * F.gelu(gate))
        clip = tokens.reshape(shape)
        clip = clip.permute(0, 1, 4, 2, 3) if self.whole else clip.permute(0, 3, 4, 1, 2)
        return clip.reshape(-1, clip.shape[2], height, width)

    def _attend(self, x: Tensor, context: Tensor) -> Tensor:
        keys = x
        if self.cross:
            # A prompt a video, repeated for each of its places where time alone is looked along.
            keys = context.repeat_interleave(x.shape[0] // context.shape[0], 0)
        q, k, v = (
            project(source).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, source in ((self.to_q, x), (self.to_k, keys), (self.to_v, keys))
        )
        q, k = self._rotated(self.norm_q(q)), self.norm_k(k)
        out = F.scaled_dot_product_attention(q, k if self.cross else self._rotated(k), v)
        return self.to_out(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _rotated(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat((-second, first), dim=-1) * self.sin


def start_as_identity(layer: nn.Module) -> None:
    """Zeroes what each branch of a temporal layer ends with: until it is trained, the layer gives what it takes."""
    for name in ("conv", "to_out", "fc"):
        last = getattr(layer, name, None)
        if last is not None:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)


def heads_for(channels: int, head: int = HEAD) -> int:
    """How many heads of at most ``head`` channels, an even number each: rotary positions turn pairs."""
    fitting = [size for size in range(2, min(head, channels) + 1, 2) if channels % size == 0]
    return channels // fitting[-1] if fitting else 1


def rotary_tables(grid: tuple[int, ...], head: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (prod(grid), head) of rotary positions; each axis of the grid turns its share of the pairs."""
    pairs = head // 2
    shares = [pairs // len(grid)] * len(grid)
    shares[0] += pairs - sum(shares)
    places = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float32) for n in grid)).reshape(-1, len(grid))
    angles = [
        places[:, axis, None] * torch.exp(-math.log(10_000.0) * torch.arange(share) / max(1, share))
        for axis, share in enumerate(shares)
    ]
    turned = torch.cat(angles, dim=1).repeat(1, 2)
    return turned.cos(), turned.sin()


Make = Callable[[int, int, tuple[int, int], int, int], nn.Module]

#: Kinds of temporal layers by name: (channels, frames, (height, width), context, heads) -> layer.
TEMPORAL: dict[str, Make] = {
    "conv1d": lambda c, t, size, context, heads: TemporalConv(c, t, whole=False),
    "conv3d": lambda c, t, size, context, heads: TemporalConv(c, t, whole=True),
    "selfattention1d": lambda c, t, size, context, heads: TemporalAttention(
        c, t, size, whole=False, context=None, heads=heads
    ),
    "selfattention3d": lambda c, t, size, context, heads: TemporalAttention(
        c, t, size, whole=True, context=None, heads=heads
    ),
    "crossattention1d": lambda c, t, size, context, heads: TemporalAttention(
        c, t, size, whole=False, context=context, heads=heads
    ),
    "crossattention3d": lambda c, t, size, context, heads: TemporalAttention(
        c, t, size, whole=True, context=context, heads=heads
    ),
}
