"""Which kernel runs an op, and what share of the device it reaches: tiles, convolution and attention algorithms.

Figures without a device's name on them are ours, of the usual size for PyTorch's libraries on tensor-core GPUs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from vgcomp.cost_models.base import OpWork
from vgcomp.ir import own
from vgcomp.targets.target import EfficiencyKind, Target

#: Fraction of the peak that large, well-shaped ops reach, where a target's file has no figure of its own: of the size
#: that the fit gives for PyTorch on an A100 (see :mod:`vgcomp.validate.fit`).
EFFICIENCY: dict[EfficiencyKind, float] = {
    "conv": 0.35,
    "conv3d": 0.35,
    "matmul": 0.67,
    "attention": 0.72,
    "memory": 0.77,
}

#: (rows, columns, efficiency relative to the largest) of the output tiles that libraries have kernels for.
_TILES = ((128, 128, 1.0), (128, 64, 0.92), (64, 64, 0.75), (32, 32, 0.4))
#: A tile's inner step: shorter contractions are padded to it.
_TILE_K = 32
#: Filling a tile's pipeline and writing its results take as long as this many inner steps.
_PROLOGUE_K = 48

#: Flash attention: blocks of queries and keys, and head sizes that kernels exist for. Beyond the largest another
#: kernel keeps running sums in slower memory.
_QUERIES = ((128, 1.0), (64, 0.8))
_KEYS = 64
_HEAD_STEP, _HEAD_STEP_LARGE, _LARGEST_HEAD = 32, 64, 256
_LARGE_HEAD, _OVERSIZED_HEAD = 0.85, 0.35
#: Vector operations that a score's exponential, maximum and sum take the time of.
_SCORE_OPS = 8.0

#: Of the vector rate, what depthwise convolutions reach.
_DEPTHWISE = 0.15
#: F(2x2, 3x3): multiplications saved, and how much larger its transformed tensors are. It is for arithmetic units
#: alone; on matrix units the transforms cost more than the products that they save.
_WINOGRAD_SAVES, _WINOGRAD_GROWS = 2.25, 4.0


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """An op's arithmetic on a target: seconds that divide into any slices, and (tiles, seconds of a round) by tile."""

    fluid_s: float
    tiles: tuple[tuple[float, float], ...] = ()


def efficiency(target: Target, kind: EfficiencyKind) -> float:
    """Fraction of the peak: the target's own figure or the usual one."""
    return target.efficiency.get(kind, EFFICIENCY[kind])


def arithmetic(work: OpWork, target: Target) -> Arithmetic:
    """How the op's arithmetic runs on the target."""
    vector_s = _vector_flops(work) / target.vector_flops_per_s()
    if not work.matrix_flops:
        return Arithmetic(vector_s)
    matrix_s = _matrix_s(work, target)
    # A CPU's vector registers are short and its cores few: neither padding nor rounds matter.
    if target.kind == "cpu" or work.form == "depthwise":
        return Arithmetic(vector_s + matrix_s)
    return Arithmetic(vector_s, _tiles(work, target, matrix_s))


def _vector_flops(work: OpWork) -> float:
    rest = work.flops - work.matrix_flops
    if work.kind != "attention" or not work.n:
        return rest
    scores = work.matrix_flops / (4.0 * work.n)
    return max(rest, _SCORE_OPS * scores)


def _matrix_s(work: OpWork, target: Target) -> float:
    """Seconds of the contraction on a device that it fills."""
    rate = _rate(work, target)
    if work.form == "depthwise":
        return work.matrix_flops / min(rate, target.vector_flops_per_s() * _DEPTHWISE)
    return work.matrix_flops / (rate * efficiency(target, _kind(work)))


def _kind(work: OpWork) -> EfficiencyKind:
    if work.kind == "attention":
        # A block of an online softmax is two plain products.
        return "matmul" if work.target is own.attention_partial.default else "attention"
    if work.kind == "conv" and work.form != "1x1":
        return "conv3d" if work.form == "3d" else "conv"
    return "matmul"


def _rate(work: OpWork, target: Target) -> float:
    """The peak of the units that run the contraction; fp32 convolutions may run on matrix units or by Winograd."""
    rate = target.matrix_flops_per_s(work.dtype)
    if work.kind != "conv" or work.dtype != torch.float32 or target.kind != "cuda":
        return rate
    if target.tf32_flops_per_s:
        return target.tf32_flops_per_s
    return rate / _winograd_share(work, target) if _winograd_fits(work) else rate


def _winograd_fits(work: OpWork) -> bool:
    return work.form == "2d" and work.batch == 1 and work.k % 9 == 0


def _winograd_share(work: OpWork, target: Target) -> float:
    """Of implicit GEMM's time, what Winograd's products and transforms take; 1 where that is more."""
    plain = work.matrix_flops / (target.matrix_flops_per_s(work.dtype) * efficiency(target, "conv"))
    moved = 2.0 * _WINOGRAD_GROWS * (work.bytes_moved - work.shared_bytes)
    return min(1.0, 1.0 / _WINOGRAD_SAVES + moved / target.memory_bytes_per_s / plain)


def _tiles(work: OpWork, target: Target, seconds: float) -> tuple[tuple[float, float], ...]:
    """(tiles, seconds of a round over all units) a tile size, from the contraction's ``seconds``."""
    flash = work.kind == "attention" and work.target is not own.attention_partial.default
    shapes = _attention_tilings(work) if flash else [_tiling(work, *tile) for tile in _TILES]
    return tuple((tiles, seconds * target.units / (filled * tiles)) for tiles, filled in shapes if tiles)


def _attention_tilings(work: OpWork) -> list[tuple[float, float]]:
    """(tiles, useful share) a block size: queries, keys and the head are all padded to whole blocks."""
    head = _padded(work.n, _HEAD_STEP if work.n <= 128 else _HEAD_STEP_LARGE)
    useful = work.n / head * work.k / _padded(work.k, _KEYS)
    if work.n > _LARGEST_HEAD:
        useful *= _OVERSIZED_HEAD
    elif head > 128:
        useful *= _LARGE_HEAD
    found = []
    for rows, share in _QUERIES:
        down = math.ceil(work.m / rows) if work.batch > 1 else work.m / rows
        filled = work.m / (down * rows) if work.batch > 1 and down else 1.0
        found.append((work.batch * down, share * useful * filled))
    return found


def _tiling(work: OpWork, rows: int, columns: int, share: float) -> tuple[float, float]:
    """Tiles of that size, and the useful share of what they take.

    The rows of a single product are not padded here: a slice has a fraction of them, and its last tile is
    counted as a whole one then.
    """
    down = work.m / rows
    filled = share * work.k / _padded(work.k, _TILE_K)
    if work.batch > 1:
        down = math.ceil(down)
        filled *= work.m / (down * rows) if down else 1.0
    across = math.ceil(work.n / columns)
    filled *= work.n / (across * columns) if across else 1.0
    return work.batch * down * across, filled * work.k / (work.k + _PROLOGUE_K)


def _padded(size: int, step: int) -> int:
    return max(1, -(-size // step)) * step
