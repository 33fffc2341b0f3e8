"""Ops that move data: views, concatenation, padding, upsampling, look-ups, fills."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from vgcomp.backends.arguments import positive
from vgcomp.backends.coreml.registry import Call, emits
from vgcomp.backends.coreml.scope import Scope
from vgcomp.errors import ModelError
from vgcomp.legalize.resample import nearest_runs

aten = torch.ops.aten


@emits(aten.reshape.default)
def _reshape(call: Call) -> Any:
    return call.scope.reshape(call.var("self"), call.shape)


@emits(aten.permute.default)
def _permute(call: Call) -> Any:
    rank = len(call.shape)
    return call.mb.transpose(x=call.var("self"), perm=[positive(d, rank) for d in call["dims"]])


@emits(aten.expand.default)
def _expand(call: Call) -> Any:
    x = call.var("self")
    shape = [1] * (len(call.shape) - len(x.shape)) + list(map(int, x.shape))
    reps = [wanted if size != wanted else 1 for size, wanted in zip(shape, call.shape, strict=True)]
    x = call.scope.reshape(x, shape)
    return x if all(n == 1 for n in reps) else call.mb.tile(x=x, reps=reps)


@emits(aten.slice.Tensor)
def _slice(call: Call) -> Any:
    size = call.shape_of("self")[call["dim"]]
    start = 0 if call["start"] is None else call["start"]
    end = size if call["end"] is None else min(call["end"], size)
    return call.scope.slice(call.var("self"), positive(call["dim"], len(call.shape)), start, end, call["step"])


@emits(aten.cat.default)
def _cat(call: Call) -> Any:
    # torch lets 1-d empty tensors pass in any concatenation.
    nodes = [node for node in call["tensors"] if tuple(node.meta["val"].shape) != (0,) or len(call.shape) == 1]
    parts = [call.scope.cast(call.scope.var(node), call.dtype) for node in nodes]
    return parts[0] if len(parts) == 1 else call.mb.concat(values=parts, axis=positive(call["dim"], len(call.shape)))


@emits(aten.constant_pad_nd.default)
def _constant_pad(call: Call) -> Any:
    x, pads = call.var("self"), list(call["pad"])
    rank = len(call.shape)
    for i in range(len(pads) // 2):
        head, tail = pads[2 * i], pads[2 * i + 1]
        if head < 0 or tail < 0:
            dim = rank - 1 - i
            x = call.scope.slice(x, dim, max(-head, 0), int(x.shape[dim]) - max(-tail, 0))
    pads = [max(n, 0) for n in pads]
    if not any(pads):
        return x
    value = call.scope.scalar(call["value"] or 0, call.dtype)
    return call.mb.pad(x=x, pad=_sides(pads, rank), mode="constant", constant_val=value)


def _sides(pads: list[int], rank: int) -> list[int]:
    """torch's (last before, last after, second last before, …) as Core ML's, the first dimension first."""
    sides = [0] * (2 * rank)
    for i in range(len(pads) // 2):
        dim = rank - 1 - i
        sides[2 * dim : 2 * dim + 2] = pads[2 * i : 2 * i + 2]
    return sides


@emits(aten.pad.default)
def _pad_mode(call: Call) -> Any:
    """Rows at the border by slices: Core ML pads the last two dimensions only."""
    mode = call["mode"]
    if mode not in ("replicate", "reflect", "circular"):
        raise ModelError(f"padding mode {mode!r} has no Core ML form; use constant, reflect, replicate or circular")
    x, pads, rank = call.var("self"), list(call["pad"]), len(call.shape)
    for i in range(len(pads) // 2):
        x = _bordered(call.scope, x, rank - 1 - i, mode, pads[2 * i], pads[2 * i + 1])
    return x


def _bordered(scope: Scope, x: Any, dim: int, mode: str, head: int, tail: int) -> Any:
    size = int(x.shape[dim])
    places = {
        "replicate": ([0] * head, [size - 1] * tail),
        "reflect": (list(range(head, 0, -1)), list(range(size - 2, size - 2 - tail, -1))),
        "circular": (list(range(size - head, size)), list(range(tail))),
    }[mode]
    before, after = ([scope.slice(x, dim, at, at + 1) for at in side] for side in places)
    return scope.mb.concat(values=[*before, x, *after], axis=dim) if before or after else x


@emits(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec)
def _upsample(call: Call) -> Any:
    x, shape = call.var("input"), call.shape_of("input")
    whole = all(wanted % size == 0 for size, wanted in zip(shape[2:], call.shape[2:], strict=True))
    if not whole:
        for dim in range(2, len(shape)):
            x = _nearest(call.scope, x, dim, shape[dim], call.shape[dim])
        return x
    factors = [wanted // size for size, wanted in zip(shape[2:], call.shape[2:], strict=True)]
    if len(factors) == 1:
        x, factors = call.scope.reshape(x, [*shape[:2], 1, shape[2]]), [1, *factors]
    made = call.mb.upsample_nearest_neighbor(x=x, scale_factor_height=factors[0], scale_factor_width=factors[1])
    return call.scope.reshape(made, call.shape)


def _nearest(scope: Scope, x: Any, dim: int, size: int, wanted: int) -> Any:
    """A look-up in the places that torch computes."""
    places = [place for place, times in nearest_runs(size, wanted) for _ in range(times)]
    return scope.mb.gather(x=x, indices=np.array(places, dtype=np.int32), axis=dim, validate_indices=False)


@emits(aten.upsample_nearest3d.vec, aten.avg_pool3d.default)
def _three(call: Call) -> Any:
    raise ModelError(f"{call.node.name} ({call.target}) has no Core ML form over two dimensions here")


@emits(aten.embedding.default)
def _embedding(call: Call) -> Any:
    return call.mb.gather(x=call.var("weight"), indices=call.var("indices"), axis=0, validate_indices=False)


@emits(aten.index_select.default)
def _index_select(call: Call) -> Any:
    index = call.scope.reshape(call.var("index"), [math.prod(call.shape_of("index"))])
    axis = positive(call["dim"], len(call.shape))
    return call.mb.gather(x=call.var("self"), indices=index, axis=axis, validate_indices=False)


@emits(aten.full.default)
def _full(call: Call) -> Any:
    value: Any = call.scope.scalar(call["fill_value"], call.dtype)
    return call.mb.fill(shape=list(call.shape), value=value) if call.shape else call.mb.const(val=value)
