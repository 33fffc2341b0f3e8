"""Attention, said once for every device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vgcomp.backends.tvm.registry import Element


@dataclass(frozen=True)
class Attention:
    """``batch``: leading dimensions. ``query``, ``key``, ``value`` take (*batch, row, channel), ``score`` a product.

    ``score(x, *batch, row, key)`` scales and biases what query and key give.
    """

    batch: tuple[int, ...]
    queries: int
    keys: int
    depth: int
    width: int
    query: Element
    key: Element
    value: Element
    score: Element
    dtype: torch.dtype
