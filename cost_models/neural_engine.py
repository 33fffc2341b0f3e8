"""Apple's Neural Engine: what an op takes there, what it refuses, and which ops go to the CPU instead.

Nothing about it is published by its maker. What is modelled, from others' measurements:

* one fp16 rate; channels are processed in groups and a row's width in 64-byte lines, other sizes are padded;
* working sets up to 2 MiB stay on the chip; larger ones stream through memory, a tile at a time, halo rows twice.
  Pointwise ops, a norm's scaling and convolutions of one channel at a time run on a tile while it is there and hand
  it on; only a norm's statistics need all of their input before;
* weights stream from memory in every run: they count as an op's shared bytes;
* branches run one after the other, as everything here does;
* what it refuses runs on the CPU, and a change of processor costs; :func:`place` finds the cheapest assignment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch

from vgcomp.cost_models.base import OpWork
from vgcomp.cost_models.kernels import efficiency
from vgcomp.ir import aten
from vgcomp.targets.target import EfficiencyKind, Fallback, Target

Processor = Literal["engine", "cpu"]

#: Bytes of a working set that stays on the chip.
ON_CHIP = 2 * 1024 * 1024
#: Channels that are processed together, and fp16 elements of a 64-byte line.
_CHANNELS, _LINE = 16, 32
#: Vector operations run at this share of the products' rate; one channel at a time, products do too.
_VECTOR, _DEPTHWISE = 1 / 8, 1 / 16

#: Data-dependent addresses and integers are not for it.
_REFUSED = frozenset({aten.embedding.default, aten.index_select.default})


@dataclass(frozen=True, slots=True)
class EngineWork:
    """Seconds of arithmetic, and bytes that stream through memory (weights not among them)."""

    arithmetic_s: float
    traffic: float


def engine_work(work: OpWork, target: Target) -> EngineWork:
    """What an op comes to on the Neural Engine, if it takes it."""
    peak = target.fp16_flops_per_s
    seconds = (work.flops - work.matrix_flops) / (peak * _VECTOR)
    if work.form == "depthwise":
        seconds += work.matrix_flops / (peak * _DEPTHWISE)
    elif work.matrix_flops:
        seconds += work.matrix_flops / (peak * efficiency(target, _kind(work)) * _aligned(work))
    return EngineWork(seconds, _traffic(work))


def _kind(work: OpWork) -> EfficiencyKind:
    if work.kind == "attention":
        return "attention"
    return "conv" if work.kind == "conv" else "matmul"


def _aligned(work: OpWork) -> float:
    """Of a contraction's padded products, the share that is wanted."""
    share = _share(work.k, _CHANNELS) * _share(work.n, _CHANNELS)
    return share * _share(work.m, _LINE)


def _share(size: int, step: int) -> float:
    return size / (math.ceil(size / step) * step) if size else 1.0


def _traffic(work: OpWork) -> float:
    scaled = work.bytes_read - work.shared_bytes
    if scaled + work.bytes_written <= ON_CHIP:
        return 0.0
    if work.kind == "pointwise":
        # One input is the tile that the op before has just made, and the result goes on to the next op.
        return max(0.0, scaled - work.bytes_written)
    if work.kind == "norm" or work.form == "depthwise":
        return scaled
    return scaled * work.reads * _halo(work) + work.bytes_written + work.scratch_bytes


def _halo(work: OpWork) -> float:
    """Rows read twice, for windows: a tile of 2 MiB is about square."""
    if work.kind != "conv" or work.form == "1x1" or not work.k:
        return 1.0
    side = math.sqrt(ON_CHIP / 2 / max(1, work.dtype.itemsize) / max(1, work.n))
    return 1.0 + min(1.0, 2.0 / max(1.0, side))


def refuses(work: OpWork, target: Target) -> bool:
    """True for an op that only the CPU runs."""
    if work.kind == "view":
        return False
    if work.target in _REFUSED or not (work.dtype.is_floating_point or work.dtype == torch.bool):
        return True
    return work.form == "3d"


def fallback_s(work: OpWork, fallback: Fallback) -> float:
    """Seconds of an op on the CPU beside the engine."""
    if work.kind == "view":
        return 0.0
    arithmetic = work.flops / fallback.flops_per_s
    traffic = (work.bytes_read * work.reads + work.bytes_written) / fallback.memory_bytes_per_s
    return max(arithmetic, traffic) + fallback.op_s


def place(costs: Sequence[tuple[float, float]], switch_s: float) -> list[Processor]:
    """The cheapest assignment of a sequence of (engine, CPU) seconds: a shortest path through two rows.

    Infinite seconds mean that a processor refuses the op. A network starts and ends on either at no cost.
    """
    engine = cpu = 0.0
    came: list[tuple[bool, bool]] = []
    for on_engine, on_cpu in costs:
        stay_e, stay_c = engine <= cpu + switch_s, cpu <= engine + switch_s
        came.append((stay_e, stay_c))
        engine, cpu = min(engine, cpu + switch_s) + on_engine, min(cpu, engine + switch_s) + on_cpu
    here = engine <= cpu
    placed: list[Processor] = []
    for stay_e, stay_c in reversed(came):
        placed.append("engine" if here else "cpu")
        here = stay_e if here else not stay_c
    return placed[::-1]


def placed_seconds(costs: Sequence[tuple[float, float]], fallback: Fallback) -> tuple[list[Processor], list[float]]:
    """Where each op runs, and its seconds there with the changes of processor and the first dispatch."""
    # A part is dispatched once for every two changes.
    change_s = fallback.switch_s + fallback.dispatch_s / 2
    placed = place(costs, change_s)
    seconds = [cost[where == "cpu"] for cost, where in zip(costs, placed, strict=True)]
    for i, (before, where) in enumerate(pairwise(placed), start=1):
        seconds[i] += change_s if where != before else 0.0
    if placed:
        seconds[0] += fallback.dispatch_s
    return placed, seconds
