"""Ops that move data: views, concatenation, padding, upsampling, look-ups, fills."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vgcomp.backends.arguments import positive
from vgcomp.backends.onnx_export.registry import Call, emits
from vgcomp.backends.onnx_export.scope import Scope, Value, raw_bytes, tensor_proto
from vgcomp.errors import ModelError

aten = torch.ops.aten

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


@emits(aten.reshape.default)
def _reshape(call: Call) -> str:
    x = call.value("self")
    return x.name if x.shape == call.out.shape else call.scope.reshape(x.name, call.out.shape)


@emits(aten.permute.default)
def _permute(call: Call) -> str:
    x = call.value("self")
    return call.scope.op("Transpose", x.name, perm=[positive(d, x.rank) for d in call["dims"]])


@emits(aten.expand.default)
def _expand(call: Call) -> str:
    x = call.value("self")
    return x.name if x.shape == call.out.shape else call.scope.op("Expand", x.name, call.scope.ints(call.out.shape))


@emits(aten.slice.Tensor)
def _slice(call: Call) -> str:
    x, dim = call.value("self"), call["dim"]
    start = 0 if call["start"] is None else call["start"]
    end = x.shape[dim] if call["end"] is None else min(call["end"], x.shape[dim])
    return slice_of(call.scope, x.name, x.rank, positive(dim, x.rank), start, end, call["step"])


def slice_of(scope: Scope, x: str, rank: int, dim: int, start: int, end: int, step: int = 1) -> str:
    """``x[start:end:step]`` of dimension ``dim``, bounds constant.

    A second, whole dimension is named where there is one: ONNX Runtime gathers constant slices
    of one tensor that each name a single axis into one Split, and all of them would then live at once.
    """
    if rank == 1:
        return scope.op("Slice", x, *(scope.ints([v]) for v in (start, end, 0, step)))
    other = 0 if dim != 0 else 1
    whole = int(np.iinfo(np.int64).max)
    return scope.op("Slice", x, *(scope.ints(v) for v in ([start, 0], [end, whole], [dim, other], [step, 1])))


@emits(aten.cat.default)
def _cat(call: Call) -> str:
    scope, tensors = call.scope, call["tensors"]
    # torch lets 1-d empty tensors pass in any concatenation.
    used = [t for t in tensors if t.shape != (0,) or call.out.rank == 1]
    names = [scope.as_dtype(t, call.out.dtype) for t in used]
    return scope.op("Concat", *names, axis=positive(call["dim"], call.out.rank))


@emits(aten.constant_pad_nd.default)
def _constant_pad(call: Call) -> str:
    return _pad(call, "constant", call["value"])


@emits(aten.pad.default)
def _pad_mode(call: Call) -> str:
    mode = call["mode"]
    if mode == "circular":
        return _circular(call)
    if mode not in _PAD_MODES:
        raise ModelError(f"padding mode {mode!r} has no ONNX form; use constant, reflect, replicate or circular")
    return _pad(call, _PAD_MODES[mode], call["value"] or 0)


def _pad(call: Call, mode: str, value: float) -> str:
    scope, x = call.scope, call.value("self")
    before, after = pad_pairs(call["pad"], x.rank)
    inputs = [x.name, scope.ints([*before, *after])]
    if mode == "constant":
        inputs.append(scope.scalar(value, x.dtype))
    return scope.op("Pad", *inputs, mode=mode)


def pad_pairs(pad: list[int], rank: int) -> tuple[list[int], list[int]]:
    """torch's (last before, last after, second last before, …) as padding before and after each dimension."""
    before, after = [0] * rank, [0] * rank
    for i in range(len(pad) // 2):
        before[rank - 1 - i], after[rank - 1 - i] = pad[2 * i], pad[2 * i + 1]
    return before, after


def _circular(call: Call) -> str:
    scope, x = call.scope, call.value("self")
    name = x.name
    before, after = pad_pairs(call["pad"], x.rank)
    for dim, (head, tail) in enumerate(zip(before, after, strict=True)):
        size = x.shape[dim]
        parts = [slice_of(scope, name, x.rank, dim, size - head, size)] if head else []
        parts.append(name)
        parts += [slice_of(scope, name, x.rank, dim, 0, tail)] if tail else []
        name = scope.op("Concat", *parts, axis=dim) if len(parts) > 1 else name
    return name


@emits(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec)
def _upsample(call: Call) -> str:
    scope, x = call.scope, call.value("input")
    factors = [o / i for i, o in zip(x.shape, call.out.shape, strict=True)]
    if all(factor.is_integer() for factor in factors):
        scales = scope.constant(np.array(factors, dtype=np.float32))
        nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return scope.op("Resize", x.name, "", scales, **nearest)
    name = x.name
    for dim in range(2, x.rank):
        name = _nearest(scope, name, dim, x.shape[dim], call.out.shape[dim])
    return name


def _nearest(scope: Scope, x: str, dim: int, size: int, wanted: int) -> str:
    """Nearest by a look-up in the positions that torch computes: Resize rounds some of them the other way."""
    positions = np.floor(np.arange(wanted, dtype=np.float32) * np.float32(size / wanted)).astype(np.int64)
    return scope.op("Gather", x, scope.constant(np.minimum(positions, size - 1)), axis=dim)


@emits(aten.embedding.default)
def _embedding(call: Call) -> str:
    return call.scope.op("Gather", call.value("weight").name, call.value("indices").name, axis=0)


@emits(aten.index_select.default)
def _index_select(call: Call) -> str:
    x = call.value("self")
    index = call.value("index")
    if index.rank == 1:
        return call.scope.op("Gather", x.name, index.name, axis=positive(call["dim"], x.rank))
    flat = call.scope.reshape(index.name, [1])
    return call.scope.op("Gather", x.name, flat, axis=positive(call["dim"], x.rank))


@emits(aten.full.default)
def _full(call: Call) -> str:
    fill: Any = call["fill_value"]
    return filled(call.scope, Value("", call.out.shape, call.out.dtype), fill)


def filled(scope: Scope, like: Value, fill: float) -> str:
    """A tensor of one value, made at run time: it takes no room in the file."""
    value = tensor_proto("", (1,), like.dtype, raw_bytes(torch.tensor([fill], dtype=like.dtype)))
    return scope.op("ConstantOfShape", scope.ints(like.shape), value=value)
