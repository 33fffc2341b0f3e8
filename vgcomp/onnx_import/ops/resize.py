"""Resize by nearest neighbour."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from vgcomp.errors import ModelError
from vgcomp.onnx_import.op import Op, Table
from vgcomp.onnx_import.values import Constant, Value

aten = torch.ops.aten

TABLE = Table()

_UPSAMPLE = {3: aten.upsample_nearest1d.vec, 4: aten.upsample_nearest2d.vec, 5: aten.upsample_nearest3d.vec}

_ROUND: dict[str, Callable[[float], int]] = {
    "round_prefer_floor": lambda x: math.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: math.floor(x + 0.5),
    "floor": math.floor,
    "ceil": math.ceil,
}


@TABLE("Resize")
def _resize(op: Op) -> Value:
    """The element that each output reads is computed; equal to torch's rule it is an upsample, else a selection."""
    x, mode = op[0], op.attr_str("mode", "nearest")
    scales, sizes = _scales_and_sizes(op)
    if sizes == list(x.shape):
        return x
    if mode != "nearest":
        raise ModelError(f"its mode {mode!r} is not supported, only 'nearest'")
    picks = [_sources(op, n, out, s) for n, out, s in zip(x.shape, sizes, scales)]
    as_torch = [[i * n // out for i in range(out)] for n, out in zip(x.shape, sizes)]
    target = _UPSAMPLE.get(len(x.shape))
    if target is not None and sizes[:2] == list(x.shape[:2]) and picks == as_torch:
        return op.b.call(target, x, sizes[2:], None)
    for dim, pick in enumerate(picks):
        if pick != list(range(x.shape[dim])):
            x = op.b.call(aten.index_select.default, x, dim, Constant(torch.tensor(pick, dtype=torch.int64)))
    return x


def _scales_and_sizes(op: Op) -> tuple[list[float], list[int]]:
    """Scale and output size of every dim, whichever the operator gives and for whichever axes."""
    shape = op[0].shape
    axes = [op.dim(a, len(shape)) for a in op.attr_ints("axes") or range(len(shape))]
    scales, sizes = [1.0] * len(shape), list(shape)
    if op.has(2) and op[2].shape != (0,):
        for axis, scale in zip(axes, op.known(2).reshape(-1).tolist()):
            scales[axis], sizes[axis] = float(scale), math.floor(shape[axis] * scale)
        return scales, sizes
    if not op.has(3):
        raise ModelError("it has neither scales nor sizes")
    if op.attr_str("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise ModelError("its keep_aspect_ratio_policy is not supported")
    for axis, size in zip(axes, op.ints(3)):
        scales[axis], sizes[axis] = size / shape[axis], size
    return scales, sizes


def _sources(op: Op, size: int, out: int, scale: float) -> list[int]:
    """The input element that each output element reads."""
    if size == out and scale == 1.0:
        return list(range(size))
    rule = op.attr_str("coordinate_transformation_mode", "half_pixel")
    nearest = _ROUND.get(op.attr_str("nearest_mode", "round_prefer_floor"))
    if nearest is None:
        raise ModelError(f"its nearest_mode {op.attr_str('nearest_mode')!r} is not supported")
    places: dict[str, Callable[[int], float]] = {
        "asymmetric": lambda i: i / scale,
        "half_pixel": lambda i: (i + 0.5) / scale - 0.5,
        "half_pixel_symmetric": lambda i: size / 2 * (1 - out / (scale * size)) + (i + 0.5) / scale - 0.5,
        "pytorch_half_pixel": lambda i: (i + 0.5) / scale - 0.5 if out > 1 else 0.0,
        "align_corners": lambda i: i * (size - 1) / (out - 1) if out > 1 else 0.0,
    }
    if rule not in places:
        raise ModelError(f"its coordinate_transformation_mode {rule!r} is not supported")
    return [min(max(nearest(places[rule](i)), 0), size - 1) for i in range(out)]
