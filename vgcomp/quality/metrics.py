"""Metrics between clips: PSNR, SSIM, a Fréchet distance on stated features, temporal flicker; hooks for FVD and CLIP.

Clips are (B, C, T, H, W) with values of [0, 1] unless a ``peak`` says otherwise.

The Fréchet distance here is on features of a fixed, untrained network of random convolutions
(:class:`RandomFeatures`). It tells distributions of clips apart and is the same everywhere, but it is not FVD, and its
numbers compare with no other's. FVD and CLIP scores need networks that are not shipped: give one that fits
:class:`ClipFeatures` to :func:`frechet`, or :class:`TextScore` to :func:`mean_text_score`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class ClipFeatures(Protocol):
    """(B, C, T, H, W) clips -> (B, D) features: an I3D network makes :func:`frechet` the FVD."""

    def __call__(self, clips: Tensor) -> Tensor:
        """One row a clip."""
        ...


class TextScore(Protocol):
    """How well each clip fits its text: (B, C, T, H, W) clips and B texts -> (B,) scores, as CLIP gives them."""

    def __call__(self, clips: Tensor, texts: Sequence[str]) -> Tensor:
        """One score a clip."""
        ...


def psnr(clips: Tensor, reference: Tensor, peak: float = 1.0) -> float:
    """Decibels; infinite for equal clips. Raises ValueError for shapes that differ."""
    _same_shape(clips, reference)
    error = float((clips.double() - reference.double()).square().mean())
    return 10 * math.log10(peak**2 / error) if error > 0 else math.inf


def ssim(clips: Tensor, reference: Tensor, peak: float = 1.0) -> float:
    """Structural similarity of frames, averaged; windows of 11×11 Gaussian weights, sigma 1.5 (Wang et al. 2004)."""
    _same_shape(clips, reference)
    x, y = (_frames(value).double() for value in (clips, reference))
    window = _gaussian(min(11, *x.shape[-2:])).to(x)

    def mean(value: Tensor) -> Tensor:
        return F.conv2d(value, window[None, None])

    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    index = (2 * mx * my + c1) * (2 * both + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return float(index.mean())


def flicker(clips: Tensor) -> float:
    """Mean absolute second difference of pixels over time; even motion has little. Raises ValueError below 3 frames."""
    if clips.shape[2] < 3:
        raise ValueError(f"flicker needs 3 frames, not {clips.shape[2]}")
    return float((clips[:, :, 2:] - 2 * clips[:, :, 1:-1] + clips[:, :, :-2]).abs().mean())


class RandomFeatures:
    """Means and deviations of the channels of three strided 3-D convolutions with seeded random kernels."""

    def __init__(self, channels: int = 3, width: int = 32, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        sizes = [channels, width // 2, width, width]
        self.kernels = [torch.randn(b, a, 3, 3, 3, generator=rng) / math.sqrt(27 * a) for a, b in zip(sizes, sizes[1:])]

    def __call__(self, clips: Tensor) -> Tensor:
        x = clips.float() * 2 - 1
        for kernel in self.kernels:
            x = F.leaky_relu(F.conv3d(x, kernel, stride=(1, 2, 2), padding=1), 0.2)
        return torch.cat((x.mean((2, 3, 4)), x.std((2, 3, 4))), dim=1)


def frechet(clips: Tensor, reference: Tensor, features: ClipFeatures) -> float:
    """Fréchet distance of Gaussians fitted to both sets' features; it takes more clips than features to mean much."""
    a, b = (features(value).double().numpy() for value in (clips, reference))
    if min(len(a), len(b)) < 2:
        raise ValueError("a distribution needs at least 2 clips")
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The trace of the product's root, by symmetric matrices alone: it holds for covariances that are singular too.
    values, vectors = np.linalg.eigh(ca)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cb @ root), 0.0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb) - 2 * shared)


def mean_text_score(clips: Tensor, texts: Sequence[str], score: TextScore) -> float:
    """The score of a user's own network, averaged over clips."""
    return float(score(clips, texts).double().mean())


def _frames(clips: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B·C·T, 1, H, W)."""
    return clips.reshape(-1, 1, *clips.shape[-2:])


def _gaussian(size: int) -> Tensor:
    line = torch.exp(-((torch.arange(size) - (size - 1) / 2) ** 2) / (2 * 1.5**2))
    return torch.outer(line, line) / line.sum() ** 2


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"clips of {tuple(a.shape)} and of {tuple(b.shape)} cannot be compared")
