"""Published runs as stages: which network, at which sizes, how many times, run how."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from vgcomp.cost_models.base import OpWork
from vgcomp.execution import Mode
from vgcomp.models import build
from vgcomp.program import Program
from vgcomp.simulate import op_works

Family = Literal["svd", "svd-xt", "animatediff", "cogvideox"]


@dataclass(frozen=True)
class Stage:
    """A network of the zoo, run ``times`` times. ``settings``: (name, value) pairs, sorted."""

    network: str
    settings: tuple[tuple[str, int | str], ...] = ()
    times: int = 1
    mode: Mode = "eager"

    def program(self) -> Program:
        """The network; built once a process."""
        return _program(self.network, self.settings)

    def works(self) -> Counter[OpWork]:
        """The ops of one eager run, equal ones counted together."""
        return _works(self.network, self.settings)


@functools.cache
def _program(network: str, settings: tuple[tuple[str, int | str], ...]) -> Program:
    return build(network, **dict(settings))


@functools.cache
def _works(network: str, settings: tuple[tuple[str, int | str], ...]) -> Counter[OpWork]:
    return Counter(op_works(_program(network, settings)))


@dataclass(frozen=True)
class Run:
    """A published latency of a whole pipeline on one A100, and its stages."""

    name: str
    family: Family
    seconds: float
    source: str
    stages: tuple[Stage, ...]
    #: Whether device constants are fitted to it.
    fitted: bool = field(default=False)


_TABLE_1 = "Streamlined Inference (NeurIPS 2024), Table 1, original"
_SIZES = ((512, 512), (576, 1024))


def _sizes(frames: int, height: int, width: int) -> tuple[tuple[str, int | str], ...]:
    return (("frames", frames), ("height", height), ("width", width))


def _svd(family: Family, title: str, frames: int, height: int, width: int, seconds: float) -> Run:
    """Stable Video Diffusion: 25 steps with guidance; all frames are decoded at once."""
    sizes = _sizes(frames, height, width)
    stages = (
        Stage("clip-vit-h-vision"),
        Stage("svd-vae-encoder", _sizes(1, height, width)),
        Stage("svd-unet", sizes, times=25),
        Stage("svd-vae-decoder", sizes),
    )
    return Run(f"{title}, {frames} frames {height}×{width}", family, seconds, _TABLE_1, stages, fitted=True)


def _animatediff(height: int, width: int, seconds: float) -> Run:
    """AnimateDiff on SD 1.5: 25 steps with guidance; prompt and negative prompt; 16 frames at once."""
    sizes = _sizes(16, height, width)
    stages = (
        Stage("clip-vit-l-text", times=2),
        Stage("animatediff-unet", sizes, times=25),
        Stage("sd-vae-decoder", sizes),
    )
    return Run(f"AnimateDiff, 16 frames {height}×{width}", "animatediff", seconds, _TABLE_1, stages, fitted=True)


def _cogvideox(mode: Mode, seconds: float) -> Run:
    """CogVideoX-2B: 50 steps with guidance, 49 frames 480×720; the transformer alone is compiled, the VAE loops."""
    stages = (
        Stage("t5-xxl-encoder", times=2),
        Stage("cogvideox-2b", times=50, mode=mode),
        Stage("cogvideox-vae-decoder", (("form", "chunked"),)),
    )
    source = "diffusers' documentation of CogVideoX, A100"
    return Run(f"CogVideoX-2B, 49 frames 480×720, {mode}", "cogvideox", seconds, source, stages)


RUNS: tuple[Run, ...] = (
    *(_svd("svd", "SVD", 14, *size, seconds) for size, seconds in zip(_SIZES, (10.23, 23.29), strict=True)),
    *(_svd("svd-xt", "SVD-XT", 25, *size, seconds) for size, seconds in zip(_SIZES, (17.05, 40.77), strict=True)),
    *(_animatediff(*size, seconds) for size, seconds in zip(_SIZES, (9.65, 24.38), strict=True)),
    _cogvideox("eager", 96.89),
    _cogvideox("compiled", 76.27),
)
