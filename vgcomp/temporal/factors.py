"""Convolution kernels as products of two smaller ones: the best of their rank, by singular values.

* ``depthwise``: a kernel for each input channel (or ``rank`` of them), then a 1×1 convolution. Of the kernel
  W[o, i, k], each channel's matrix W[:, i, :] is approximated with that rank.
* ``split``: a spatial convolution 1×kh×kw to R channels, then a temporal one kt×1×1. The matrix with rows (o, kt) and
  columns (i, kh, kw) is approximated with rank R.

By Eckart and Young no kernels of that form come nearer in the sum of squares; at full rank they are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Form = Literal["depthwise", "split"]


@dataclass(frozen=True)
class Factors:
    """``first``, ``second``: kernels in the order in which they run; ``error``: what they lose, over the norm."""

    first: Tensor
    second: Tensor
    error: float


@dataclass(frozen=True)
class Shapes:
    """Shapes of the two kernels, and ``groups`` of the first."""

    first: tuple[int, ...]
    second: tuple[int, ...]
    groups: int


def full_rank(form: Form, kernel: tuple[int, ...]) -> int:
    """The rank at which the product is the kernel itself. ``kernel``: (O, I, *sizes)."""
    out, channels, *sizes = kernel
    if form == "depthwise":
        return min(out, math.prod(sizes))
    return min(out * sizes[0], channels * math.prod(sizes[1:]))


def shapes_of(form: Form, kernel: tuple[int, ...], rank: int) -> Shapes:
    """What ``rank`` makes of a kernel of shape (O, I, *sizes)."""
    out, channels, *sizes = kernel
    ones = (1,) * (len(sizes) - 1)
    if form == "depthwise":
        return Shapes((channels * rank, 1, *sizes), (out, channels * rank, *ones, 1), channels)
    return Shapes((rank, channels, 1, *sizes[1:]), (out, rank, sizes[0], *ones), 1)


def factored(form: Form, kernel: Tensor, rank: int) -> Factors:
    """The best kernels of this form and rank, in the kernel's dtype; ``error`` is theirs before they are rounded."""
    shapes = shapes_of(form, tuple(kernel.shape), rank)
    wide = kernel.to(torch.float64)
    first, second, lost = (_depthwise if form == "depthwise" else _split)(wide, rank)
    norm = float(wide.norm())
    error = math.sqrt(max(lost, 0.0)) / norm if norm else 0.0
    return Factors(
        first.reshape(shapes.first).to(kernel.dtype).contiguous(),
        second.reshape(shapes.second).to(kernel.dtype).contiguous(),
        error,
    )


def _depthwise(kernel: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """A matrix (K, O) a channel: left vectors are kernels, right ones what each is worth to every output."""
    matrices = kernel.flatten(2).permute(1, 2, 0)
    left, right, lost = _truncated(matrices, rank)
    return left.transpose(1, 2), right.permute(2, 0, 1), lost


def _split(kernel: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """Columns (i, kh, kw) to R, then R to rows (o, kt)."""
    out, _, time = kernel.shape[:3]
    matrix = kernel.transpose(1, 2).reshape(out * time, -1)
    left, right, lost = _truncated(matrix, rank)
    return right, left.reshape(out, time, rank).transpose(1, 2), lost


def _truncated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """(…, m, R) and (…, R, n) whose product is nearest, with the roots of the singular values in both; what is lost."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root = values[..., :rank].sqrt()
    lost = float(values[..., rank:].square().sum())
    return left[..., :rank] * root[..., None, :], root[..., :, None] * right[..., :rank, :], lost
