"""Padding, resampling and pooling."""

from __future__ import annotations

from typing import Any

import torch

from vgcomp.normalize.builder import Builder, Value
from vgcomp.normalize.call import Call, Table, per_dim, shape_of

aten = torch.ops.aten

_NEAREST = {1: aten.upsample_nearest1d.vec, 2: aten.upsample_nearest2d.vec, 3: aten.upsample_nearest3d.vec}


def pad(b: Builder, call: Call) -> Value:
    """Constant padding is constant_pad_nd; zero widths are dropped."""
    widths, mode = list(call["pad"]), call["mode"]
    if not any(widths):
        return b.node(call.x)
    if mode == "constant":
        return _constant(b, call.x, widths, call["value"])
    return b.op(aten.pad.default, call.x, widths, mode)


def constant_pad(b: Builder, call: Call) -> Value:
    widths = list(call["pad"])
    return _constant(b, call.x, widths, call["value"]) if any(widths) else b.node(call.x)


def _constant(b: Builder, x: Value, widths: list[int], value: float | None) -> Value:
    """Negative widths cut; trailing pairs of zeros are dropped."""
    rank = len(shape_of(x))
    for i in range(0, len(widths), 2):
        dim = rank - 1 - i // 2
        low, high = max(0, -widths[i]), max(0, -widths[i + 1])
        x = b.slice(x, dim, low, shape_of(x)[dim] - high)
        widths[i], widths[i + 1] = max(0, widths[i]), max(0, widths[i + 1])
    while widths and widths[-2:] == [0, 0]:
        widths = widths[:-2]
    if not widths:
        return x
    rest = (value,) if value else ()
    return b.op(aten.constant_pad_nd.default, x, widths, *rest)


def nonconstant_pad(mode: str) -> Any:
    """A handler for replication_padNd, reflection_padNd."""

    def handler(b: Builder, call: Call) -> Value:
        widths = list(call["padding"])
        return b.op(aten.pad.default, call.x, widths, mode) if any(widths) else b.node(call.x)

    return handler


def nearest(b: Builder, call: Call) -> Value:
    """Nearest upsampling to the size that came out. Exact-centre nearest agrees for whole factors."""
    size, out = shape_of(call.x)[2:], call.shape[2:]
    whole = all(o % i == 0 for i, o in zip(size, out, strict=True))
    if not whole and ("exact" in str(call.target) or _own_factors(call, size, out)):
        raise call.refuse(f"resamples {size} to {out}: only whole factors or a plain output size are supported")
    if size == out:
        return b.node(call.x)
    return b.op(_NEAREST[len(out)], call.x, out, None)


def _own_factors(call: Call, size: list[int], out: list[int]) -> bool:
    """True when the given factors are not those that the sizes imply."""
    names = [argument.name for argument in call.target._schema.arguments]
    factors = call["scale_factors"] if "scale_factors" in names else None
    if not factors:
        return False
    return any(abs(i * f - o) > 1e-6 for i, f, o in zip(size, factors, out, strict=True))


def pool(rank: int, target: Any) -> Any:
    """A handler for avg and max pooling: trailing defaults dropped, lists whole."""

    def handler(b: Builder, call: Call) -> Value:
        kernel = per_dim(call["kernel_size"], rank)
        stride = per_dim(call["stride"], rank) if call["stride"] else kernel
        rest = list(call.args[4:])
        return b.op(target, call.x, kernel, stride, per_dim(call["padding"], rank), *rest)

    return handler


TABLE: Table = {
    aten.pad.default: pad,
    aten.constant_pad_nd.default: constant_pad,
    **dict.fromkeys(
        (aten.replication_pad1d.default, aten.replication_pad2d.default, aten.replication_pad3d.default),
        nonconstant_pad("replicate"),
    ),
    **dict.fromkeys(
        (aten.reflection_pad1d.default, aten.reflection_pad2d.default, aten.reflection_pad3d.default),
        nonconstant_pad("reflect"),
    ),
    **dict.fromkeys(
        (
            aten.upsample_nearest1d.vec,
            aten.upsample_nearest2d.vec,
            aten.upsample_nearest3d.vec,
            aten.upsample_nearest1d.default,
            aten.upsample_nearest2d.default,
            aten.upsample_nearest3d.default,
            aten._upsample_nearest_exact1d.vec,
            aten._upsample_nearest_exact2d.vec,
            aten._upsample_nearest_exact3d.vec,
        ),
        nearest,
    ),
    aten.avg_pool2d.default: pool(2, aten.avg_pool2d.default),
    aten.avg_pool3d.default: pool(3, aten.avg_pool3d.default),
    aten.max_pool2d.default: pool(2, aten.max_pool2d.default),
}
