"""Convolutions over three spatial dimensions as those over two, and over one as over two.

A window of (1, kh, kw) sees each frame alone: frames become a batch. One of (kt, 1, 1) sees each place alone: height
and width become one dimension, and nothing moves. Any other is, for each of its kt frames, a two-dimensional
convolution of the frames that this one sees; the kt results are added:

    %y = convolution(%x, %w [o, i, 3, 3, 3])

becomes, with %f the frames of %x padded in time, one behind the other::

    %y = convolution(%f[0:t], %w[:, :, 0]) + convolution(%f[1:t+1], %w[:, :, 1]) + convolution(%f[2:t+2], %w[:, :, 2])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from vgcomp import ir
from vgcomp.legalize.editor import Editor, shape_of

aten = torch.ops.aten


@dataclass(frozen=True)
class _Conv:
    """A convolution's arguments, a number for each spatial dimension."""

    x: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @staticmethod
    def of(node: fx.Node) -> _Conv:
        x, weight, bias, stride, padding, dilation, _, _, groups = node.args
        assert isinstance(x, fx.Node) and isinstance(weight, fx.Node)
        n = len(shape_of(weight)) - 2
        return _Conv(x, weight, bias, _each(stride, n), _each(padding, n), _each(dilation, n), groups)  # type: ignore[arg-type]

    def call(self, at: Editor, x: fx.Node, weight: fx.Node, bias: fx.Node | None, dims: list[int]) -> fx.Node:
        """The convolution over these spatial dimensions; -1 stands for one of size 1."""
        stride, padding, dilation = (
            [values[d] if d >= 0 else neutral for d in dims]
            for values, neutral in ((self.stride, 1), (self.padding, 0), (self.dilation, 1))
        )
        zeros = [0] * len(dims)
        return at.call(aten.convolution.default, x, weight, bias, stride, padding, dilation, False, zeros, self.groups)


def _each(value: Any, n: int) -> tuple[int, ...]:
    return tuple(value) * n if len(value) == 1 else tuple(value)


def is_spatial(node: fx.Node, dims: int) -> bool:
    """True for a plain (not transposed) convolution over so many spatial dimensions."""
    if node.target is not aten.convolution.default or node.args[6]:
        return False
    weight: fx.Node = node.args[1]  # type: ignore[assignment]
    return ir.val(weight).dim() == dims + 2


def flatten_3d(at: Editor, node: fx.Node, max_dim: int | None) -> fx.Node:
    """The value of a convolution over time, height and width, made of ones over two dimensions."""
    conv = _Conv.of(node)
    kt, kh, kw = shape_of(conv.weight)[2:]
    height, width = shape_of(conv.x)[3:]
    still = (conv.stride[1:], conv.padding[1:]) == ((1, 1), (0, 0))
    if (kh, kw) == (1, 1) and still and (max_dim is None or height * width <= max_dim):
        return _over_time(at, conv, shape_of(node))
    if kt == 1 and conv.padding[0] == 0:
        return _by_frame(at, conv, shape_of(node))
    return _taps(at, conv, shape_of(node))


def widen_1d(at: Editor, node: fx.Node) -> fx.Node:
    """The value of a convolution over one dimension, as one over a row: (N, C, 1, S)."""
    conv = _Conv.of(node)
    n, c, length = shape_of(conv.x)
    o, i, k = shape_of(conv.weight)
    made = conv.call(
        at, at.reshape(conv.x, [n, c, 1, length]), at.reshape(conv.weight, [o, i, 1, k]), conv.bias, [-1, 0]
    )
    return at.reshape(made, shape_of(node))


def _over_time(at: Editor, conv: _Conv, out: tuple[int, ...]) -> fx.Node:
    n, c, t, h, w = shape_of(conv.x)
    o, i, kt = shape_of(conv.weight)[:3]
    plane = at.reshape(conv.x, [n, c, t, h * w])
    made = conv.call(at, plane, at.reshape(conv.weight, [o, i, kt, 1]), conv.bias, [0, -1])
    return at.reshape(made, out)


def _by_frame(at: Editor, conv: _Conv, out: tuple[int, ...]) -> fx.Node:
    n, c, t, h, w = shape_of(conv.x)
    o, i, _, kh, kw = shape_of(conv.weight)
    x = at.slice(conv.x, 2, 0, t, conv.stride[0])
    frames = at.reshape(at.permute(x, [0, 2, 1, 3, 4]), [n * out[2], c, h, w])
    made = conv.call(at, frames, at.reshape(conv.weight, [o, i, kh, kw]), conv.bias, [1, 2])
    return _joined(at, made, out)


def _taps(at: Editor, conv: _Conv, out: tuple[int, ...]) -> fx.Node:
    """One convolution for each frame of the window, on the frames that it sees."""
    n, c, _, h, w = shape_of(conv.x)
    o, i, kt, kh, kw = shape_of(conv.weight)
    x = at.permute(conv.x, [0, 2, 1, 3, 4])
    if conv.padding[0]:
        pads = [0, 0, 0, 0, 0, 0, conv.padding[0], conv.padding[0]]
        x = at.call(aten.constant_pad_nd.default, x, pads, 0.0)
    total: fx.Node | None = None
    for k in range(kt):
        start = k * conv.dilation[0]
        seen = at.slice(x, 1, start, start + (out[2] - 1) * conv.stride[0] + 1, conv.stride[0])
        weight = at.reshape(at.slice(conv.weight, 2, k, k + 1), [o, i, kh, kw])
        frames = at.reshape(seen, [n * out[2], c, h, w])
        made = conv.call(at, frames, weight, conv.bias if k == 0 else None, [1, 2])
        total = made if total is None else at.call(aten.add.Tensor, total, made)
    assert total is not None
    return _joined(at, total, out)


def _joined(at: Editor, frames: fx.Node, out: tuple[int, ...]) -> fx.Node:
    """(N·T, C, H, W) as (N, C, T, H, W)."""
    n, c, t, h, w = out
    return at.permute(at.reshape(frames, [n, t, c, h, w]), [0, 2, 1, 3, 4])
