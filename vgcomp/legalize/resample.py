"""Upsampling and pooling over three spatial dimensions, by what two dimensions have."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from vgcomp.legalize.editor import Editor, shape_of

aten = torch.ops.aten

#: Slices that a look-up at constant places may become.
MOST_RUNS = 64


def nearest_runs(size: int, wanted: int) -> list[tuple[int, int]]:
    """(source place, how often) of nearest-neighbour resampling, as torch rounds: floor(i * fp32(size / wanted))."""
    scale = torch.tensor(size / wanted, dtype=torch.float32)
    places = torch.floor(torch.arange(wanted, dtype=torch.float32) * scale).long().clamp(max=size - 1)
    return [(place, len(list(group))) for place, group in itertools.groupby(places.tolist())]


def flatten_upsample(at: Editor, node: fx.Node) -> fx.Node | None:
    """Nearest upsampling over time, height and width: frames as a batch, then in time. None where it is too ragged."""
    x: fx.Node = node.args[0]  # type: ignore[assignment]
    n, c, t, h, w = shape_of(x)
    out = shape_of(node)
    if any(wanted % size for size, wanted in zip((h, w), out[3:], strict=True)):
        return None
    runs = nearest_runs(t, out[2])
    if len({times for _, times in runs}) > 1 and len(runs) > MOST_RUNS:
        return None
    if out[3:] != (h, w):
        frames = at.reshape(at.permute(x, [0, 2, 1, 3, 4]), [n * t, c, h, w])
        frames = at.call(aten.upsample_nearest2d.vec, frames, list(out[3:]), None)
        x = at.permute(at.reshape(frames, [n, t, c, *out[3:]]), [0, 2, 1, 3, 4])
    return _repeat(at, x, 2, runs)


def _repeat(at: Editor, x: fx.Node, dim: int, runs: Sequence[tuple[int, int]]) -> fx.Node:
    """Places of a dimension, each repeated so often."""
    shape = list(shape_of(x))
    if list(runs) == [(i, 1) for i in range(shape[dim])]:
        return x
    before, after = math.prod(shape[:dim]), math.prod(shape[dim + 1 :])
    rows = at.reshape(x, [before, shape[dim], 1, after])
    whole = [place for place, _ in runs] == list(range(shape[dim]))
    if whole and len({times for _, times in runs}) == 1:
        made = at.expand(rows, [before, shape[dim], runs[0][1], after])
    else:
        made = at.cat([_run(at, rows, before, after, *run) for run in runs], 1)
    shape[dim] = sum(times for _, times in runs)
    return at.reshape(made, shape)


def _run(at: Editor, rows: fx.Node, before: int, after: int, place: int, times: int) -> fx.Node:
    one = at.slice(rows, 1, place, place + 1)
    return at.reshape(at.expand(one, [before, 1, times, after]), [before, times, 1, after])


def flatten_pool(at: Editor, node: fx.Node) -> fx.Node | None:
    """Average pooling over three dimensions: over height and width, then over time. None where borders count apart."""
    x, kernel, *rest = node.args
    assert isinstance(x, fx.Node)
    given: list[Any] = [*rest, *[None] * (5 - len(rest))]
    stride, padding, ceil_mode, _, divisor = given
    if len(shape_of(x)) != 5 or ceil_mode or divisor is not None or any(_three(padding or 0)):
        return None
    (kt, *k), (st, *s) = _three(kernel), _three(stride or kernel)
    n, c, t, h, w = shape_of(x)
    out = shape_of(node)
    if (k, s) != ([1, 1], [1, 1]):
        frames = at.call(aten.avg_pool2d.default, at.reshape(x, [n * c, t, h, w]), k, s)
        x = at.reshape(frames, [n, c, t, *out[3:]])
    if (kt, st) == (1, 1):
        return x
    plane = at.reshape(x, [n, c, t, out[3] * out[4]])
    return at.reshape(at.call(aten.avg_pool2d.default, plane, [kt, 1], [st, 1]), out)


def _three(value: object) -> list[int]:
    """A number, or a list of one, for each of the three dimensions."""
    values = [value] if isinstance(value, int) else list(value)  # type: ignore[call-overload]
    return values * 3 if len(values) == 1 else values
