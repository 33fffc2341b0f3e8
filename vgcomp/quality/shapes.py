"""Moving shapes: a data set that is generated, the same everywhere for the same seed.

A clip shows one shape (disc, square or triangle) of one of six colours, moving at a constant velocity and bouncing off
the border, over a background whose brightness changes evenly across the frame. A prompt says kind, colour and velocity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

KINDS = ("disc", "square", "triangle")
COLOURS = {
    "red": (0.90, 0.15, 0.15),
    "green": (0.10, 0.75, 0.20),
    "blue": (0.15, 0.25, 0.90),
    "yellow": (0.95, 0.85, 0.10),
    "purple": (0.65, 0.15, 0.80),
    "white": (0.97, 0.97, 0.97),
}
#: Numbers of a prompt: kind, colour, velocity, and a one that an empty prompt (all zeros) has not.
PROMPT = len(KINDS) + len(COLOURS) + 3
#: The fastest, in the frame's width a frame.
SPEED = 0.09


@dataclass(frozen=True)
class Clips:
    """``pixels`` (B, 3, T, H, W) of [0, 1]; ``prompts`` (B, 12)."""

    pixels: Tensor
    prompts: Tensor


def make_clips(count: int, seed: int, *, frames: int = 8, size: int = 32) -> Clips:
    """``count`` clips; the same for the same seed."""
    rng = torch.Generator().manual_seed(seed)
    kinds = torch.randint(len(KINDS), (count,), generator=rng)
    colours = torch.randint(len(COLOURS), (count,), generator=rng)
    velocity = (torch.rand(count, 2, generator=rng) * 2 - 1) * SPEED
    radius = 0.12 + 0.1 * torch.rand(count, generator=rng)
    start = radius[:, None] + torch.rand(count, 2, generator=rng) * (1 - 2 * radius[:, None])
    background = _background(count, size, rng)
    prompts = make_prompts(kinds, colours, velocity)
    places = _bounced(start, velocity, radius, frames)
    alpha = _coverage(kinds, places, radius, size)[:, None]
    colour = torch.tensor(list(COLOURS.values()))[colours][:, :, None, None, None]
    return Clips(background * (1 - alpha) + colour * alpha, prompts)


def make_prompts(kinds: Tensor, colours: Tensor, velocity: Tensor) -> Tensor:
    """(B,) indices of :data:`KINDS` and :data:`COLOURS` and (B, 2) velocities -> (B, 12)."""
    one_hot = torch.nn.functional.one_hot
    parts = (one_hot(kinds, len(KINDS)), one_hot(colours, len(COLOURS)), velocity / SPEED, torch.ones(len(kinds), 1))
    return torch.cat([part.float() for part in parts], dim=1)


def _background(count: int, size: int, rng: torch.Generator) -> Tensor:
    """(B, 3, 1, H, W): grey with a slope and a tint."""
    level = 0.25 + 0.3 * torch.rand(count, 3, 1, 1, generator=rng)
    slope = (torch.rand(count, 2, 1, 1, generator=rng) - 0.5) * 0.5
    line = (torch.arange(size) + 0.5) / size - 0.5
    ramp = slope[:, :1] * line[None, None, :, None] + slope[:, 1:] * line[None, None, None, :]
    return (level + ramp).clamp(0, 1)[:, :, None]


def _bounced(start: Tensor, velocity: Tensor, radius: Tensor, frames: int) -> Tensor:
    """(B, T, 2) centres that stay a radius from the border."""
    low, room = radius[:, None, None], 1 - 2 * radius[:, None, None]
    straight = start[:, None] - low + velocity[:, None] * torch.arange(frames)[None, :, None]
    folded = torch.remainder(straight, 2 * room)
    return low + torch.where(folded > room, 2 * room - folded, folded)


def _coverage(kinds: Tensor, places: Tensor, radius: Tensor, size: int) -> Tensor:
    """(B, T, H, W): how much of each pixel the shape covers, from its signed distance."""
    line = (torch.arange(size) + 0.5) / size
    y = line[None, None, :, None] - places[:, :, 0, None, None]
    x = line[None, None, None, :] - places[:, :, 1, None, None]
    r = radius[:, None, None, None]
    disc = (x * x + y * y).sqrt() - r
    square = torch.maximum(x.abs(), y.abs()) - 0.85 * r
    triangle = torch.maximum(x.abs() * 0.866 - y * 0.5, y) - 0.55 * r
    distance = torch.stack((disc, square, triangle))[kinds, torch.arange(len(kinds))]
    return (0.5 - distance * size).clamp(0, 1)
