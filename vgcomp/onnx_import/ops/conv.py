"""Convolution and pooling, 1-D to 3-D."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from vgcomp.errors import ModelError
from vgcomp.onnx_import.op import Op, Table
from vgcomp.onnx_import.ops.layout import pad
from vgcomp.onnx_import.values import Value

aten = torch.ops.aten

TABLE = Table()


@dataclass(frozen=True)
class _Window:
    """A sliding window's attributes, one entry a spatial dim."""

    kernel: list[int]
    stride: list[int]
    dilation: list[int]
    before: list[int]
    after: list[int]

    @property
    def symmetric(self) -> bool:
        return self.before == self.after

    def flat(self) -> list[int]:
        """The padding as torch's pad counts it: pairs from the last dim on."""
        return [side[i] for i in reversed(range(len(self.before))) for side in (self.before, self.after)]


def _window(op: Op, spatial: tuple[int, ...], kernel: list[int]) -> _Window:
    n = len(spatial)
    stride = op.attr_ints("strides") or [1] * n
    dilation = op.attr_ints("dilations") or [1] * n
    auto = op.attr_str("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        before, after = _same(spatial, kernel, stride, dilation, upper=auto == "SAME_UPPER")
    elif auto == "VALID":
        before, after = [0] * n, [0] * n
    else:
        pads = op.attr_ints("pads") or [0] * (2 * n)
        before, after = pads[:n], pads[n:]
    return _Window(kernel, stride, dilation, before, after)


def _same(
    spatial: tuple[int, ...], kernel: list[int], stride: list[int], dilation: list[int], *, upper: bool
) -> tuple[list[int], list[int]]:
    """Padding that gives ceil(size / stride) outputs; the odd element goes after (upper) or before."""
    before, after = [], []
    for size, k, s, d in zip(spatial, kernel, stride, dilation):
        total = max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
        small, large = total // 2, total - total // 2
        before.append(small if upper else large)
        after.append(large if upper else small)
    return before, after


@TABLE("Conv")
def _conv(op: Op) -> Value:
    x, weight = op[0], op[1]
    window = _window(op, x.shape[2:], list(weight.shape[2:]))
    padding = window.before
    if not window.symmetric:
        x, padding = pad(op, x, window.flat()), [0] * len(padding)
    zeros = [0] * len(padding)
    group = op.attr_int("group", 1)
    return op.b.call(
        aten.convolution.default, x, weight, op.get(2), window.stride, padding, window.dilation, False, zeros, group
    )


@TABLE("ConvTranspose")
def _conv_transpose(op: Op) -> Value:
    x, weight = op[0], op[1]
    n = len(x.shape) - 2
    kernel = list(weight.shape[2:])
    window = _window(op, x.shape[2:], kernel)
    extra = op.attr_ints("output_padding") or [0] * n
    before, after = _transpose_pads(op, window, x.shape[2:], extra)
    padding = before if before == after else [0] * n
    group = op.attr_int("group", 1)
    out = op.b.call(
        aten.convolution.default, x, weight, op.get(2), window.stride, padding, window.dilation, True, extra, group
    )
    if before == after:
        return out
    for i in range(n):  # unequal padding: crop what it takes away
        out = op.b.slice(out, i + 2, before[i], out.shape[i + 2] - after[i])
    return out


def _transpose_pads(op: Op, window: _Window, spatial: tuple[int, ...], extra: list[int]) -> tuple[list[int], list[int]]:
    """Padding of a transposed convolution, derived from ``output_shape`` or ``auto_pad`` where given."""
    n = len(spatial)
    auto = op.attr_str("auto_pad", "NOTSET")
    wanted = op.attr_ints("output_shape")
    if wanted is None and auto not in ("SAME_UPPER", "SAME_LOWER"):
        return window.before, window.after
    full = [(spatial[i] - 1) * window.stride[i] + (window.kernel[i] - 1) * window.dilation[i] + 1 for i in range(n)]
    sizes = wanted[-n:] if wanted else [spatial[i] * window.stride[i] for i in range(n)]
    totals = [full[i] + extra[i] - sizes[i] for i in range(n)]
    if min(totals) < 0:
        raise ModelError(f"its output_shape {sizes} is larger than the kernel reaches")
    small = [t // 2 for t in totals]
    large = [t - t // 2 for t in totals]
    return (small, large) if auto == "SAME_UPPER" else (large, small)


@TABLE("AveragePool")
def _average_pool(op: Op) -> Value:
    x = op[0]
    window = _window(op, x.shape[2:], op.attr_ints("kernel_shape") or [])
    count_pad, ceil = bool(op.attr_int("count_include_pad")), bool(op.attr_int("ceil_mode"))
    if any(d != 1 for d in window.dilation):
        raise ModelError("its dilations are not supported")
    padding = window.before
    if not window.symmetric:
        if not count_pad:
            raise ModelError("its unequal padding that is not counted is not supported")
        x, padding = pad(op, x, window.flat()), [0] * len(padding)
    x, window, padding, squeeze = _at_least_2d(op, x, window, padding)
    target = {2: aten.avg_pool2d.default, 3: aten.avg_pool3d.default}.get(len(padding))
    if target is None:
        raise ModelError(f"it pools {len(padding)} dims; 1 to 3 are supported")
    out = op.b.call(target, x, window.kernel, window.stride, padding, ceil, count_pad)
    return op.b.reshape(out, [*out.shape[:2], out.shape[3]]) if squeeze else out


@TABLE("MaxPool")
def _max_pool(op: Op) -> Value:
    if len(op.node.outputs) > 1 and op.node.outputs[1].uses():
        raise ModelError("its second output (indices) is not supported")
    x = op[0]
    window = _window(op, x.shape[2:], op.attr_ints("kernel_shape") or [])
    padding = window.before
    if not window.symmetric or any(2 * p > k for p, k in zip(padding, window.kernel)):
        x, padding = pad(op, x, window.flat(), fill=-math.inf), [0] * len(padding)
    x, window, padding, squeeze = _at_least_2d(op, x, window, padding)
    if len(padding) != 2:
        raise ModelError(f"it pools {len(padding)} dims; 1 or 2 are supported")
    ceil = bool(op.attr_int("ceil_mode"))
    out = op.b.call(aten.max_pool2d.default, x, window.kernel, window.stride, padding, window.dilation, ceil)
    return op.b.reshape(out, [*out.shape[:2], out.shape[3]]) if squeeze else out


def _at_least_2d(op: Op, x: Value, window: _Window, padding: list[int]) -> tuple[Value, _Window, list[int], bool]:
    """1-D pooling as 2-D over a row of height 1."""
    if len(padding) != 1:
        return x, window, padding, False
    n, c, size = x.shape
    wide = _Window(
        [1, *window.kernel], [1, *window.stride], [1, *window.dilation], [0, *window.before], [0, *window.after]
    )
    return op.b.reshape(x, [n, c, 1, size]), wide, [0, *padding], True
