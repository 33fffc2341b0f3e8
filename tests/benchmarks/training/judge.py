"""How good generated clips of moving shapes are, on prompts and noise that training has not seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from vgcomp.quality.latent import CHANNELS, PATCH, decode
from vgcomp.quality.metrics import RandomFeatures, flicker, frechet, psnr
from vgcomp.quality.shapes import COLOURS, KINDS, SPEED, Clips, make_clips
from vgcomp.rehash.sampler import FlowEuler
from vgcomp.training.generate import generate

#: Seeds of the clips that stand for the real distribution, and of held-out sets of prompts. Training's are above 1e6.
REAL, HELD_OUT = 500_000, (900_000, 910_000)
COUNT, REAL_COUNT = 256, 1024
SHAPE = (CHANNELS, 8, 32 // PATCH, 32 // PATCH)


@dataclass(frozen=True)
class Verdict:
    """Of one network and schedule. ``frechet``: a value a held-out set, on 64 features of a random network.

    ``motion``: how far the shape's speed is from the prompt's, mean of both axes, in frame widths a frame. ``psnr``:
    to clips of the same noise and prompts that are given, in dB. ``clip_s``: processor seconds a clip.
    """

    name: str
    steps: int
    shift: float
    frechet: tuple[float, ...]
    flicker: float
    motion: float
    psnr: float | None
    clip_s: float


@cache
def held_out(number: int) -> Clips:
    """A held-out set: real clips, of which the prompts are given to networks."""
    return make_clips(COUNT, HELD_OUT[number])


@cache
def _real() -> Tensor:
    return make_clips(REAL_COUNT, REAL).pixels


def made(network: nn.Module, steps: int, shift: float, sets: int) -> tuple[list[Tensor], float]:
    """Clips for each held-out set's prompts as pixels, and the processor seconds that one took."""
    begin, sampler = time.process_time(), FlowEuler(steps, shift, "clean")
    clips = [decode(generate(network, sampler, held_out(n).prompts, SHAPE, HELD_OUT[n])) for n in range(sets)]
    return clips, (time.process_time() - begin) / (sets * COUNT)


def judged(
    name: str, clips: Sequence[Tensor], steps: int, shift: float, clip_s: float, like: Sequence[Tensor] = ()
) -> Verdict:
    """Metrics of clips, a batch a held-out set; ``like``: what PSNR is to, of the first sets."""
    features = RandomFeatures()
    far = tuple(frechet(value, _real(), features) for value in clips)
    motion = [motion_error(value, held_out(n).prompts) for n, value in enumerate(clips)]
    near = [psnr(ours, theirs) for ours, theirs in zip(clips, like)]
    return Verdict(
        name,
        steps,
        shift,
        far,
        sum(map(flicker, clips)) / len(clips),
        sum(motion) / len(motion),
        sum(near) / len(near) if near else None,
        clip_s,
    )


def motion_error(clips: Tensor, prompts: Tensor) -> float:
    """Mean over clips, frames and axes of | |speed seen| - |speed asked for| |, in frame widths a frame.

    The shape is seen where pixels are near the prompt's colour; a bounce changes the sign alone.
    """
    colours = torch.tensor(list(COLOURS.values()))
    asked = prompts[:, len(KINDS) : len(KINDS) + len(COLOURS)] @ colours
    speed = prompts[:, len(KINDS) + len(COLOURS) : -1].abs() * SPEED
    distance = (clips - asked[:, :, None, None, None]).square().mean(1)
    weight = torch.exp(-distance / (2 * 0.1**2)) + 1e-6
    line = (torch.arange(clips.shape[-1]) + 0.5) / clips.shape[-1]
    total = weight.sum((2, 3))
    places = torch.stack(((weight.sum(3) * line).sum(2) / total, (weight.sum(2) * line).sum(2) / total), dim=2)
    seen = (places[:, 1:] - places[:, :-1]).abs()
    return float((seen - speed[:, None]).abs().mean())
