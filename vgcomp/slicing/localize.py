"""One op on one slice: the op as it stands in a loop's body.

:func:`localize` adds to a body graph the node that computes an output span from the operands'
clipped spans. Most ops need nothing but the narrower operands; the ones below carry shapes in their
arguments or see the border: padding is applied at the true border only. Callers hold to
``axes.demands``: an axis without a rule cannot be localized.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from vgcomp import axes, ir
from vgcomp.axes import Window
from vgcomp.infer import evaluate_fake
from vgcomp.ir import Axis, Span, aten

#: An operand in the body: its node (None where the slice needs nothing of it).
Local = fx.Node | None


class BodyBuilder:
    """A body graph under construction; every node added gets its fake value at once."""

    def __init__(self) -> None:
        self.graph = fx.Graph()

    def placeholder(self, name: str, value: Any) -> fx.Node:
        node = self.graph.placeholder(name)
        node.meta["val"] = value
        return node

    def call(self, target: Any, args: Sequence[Any], kwargs: dict[str, Any] | None = None) -> fx.Node:
        kwargs = kwargs or {}
        node = self.graph.call_function(target, tuple(args), kwargs)
        fake_args, fake_kwargs = fx.node.map_arg((tuple(args), kwargs), lambda n: n.meta["val"])
        node.meta["val"] = evaluate_fake(target, fake_args, fake_kwargs)
        return node

    def crop(self, node: fx.Node, axis: Axis, have: Span, want: Span) -> fx.Node:
        """The part ``want`` of a value that holds ``have`` of ``axis``: a view where strides allow."""
        if have == want:
            return node
        shape = tuple(int(n) for n in ir.val(node).shape)
        lo, hi, length = want[0] - have[0], want[1] - have[0], have[1] - have[0]
        if axis.outer == 1:
            return self.call(aten.slice.Tensor, (node, axis.dim, lo * axis.inner, hi * axis.inner))
        split = shape[: axis.dim] + (axis.outer, length, axis.inner) + shape[axis.dim + 1 :]
        parts = self.call(aten.reshape.default, (node, list(split)))
        parts = self.call(aten.slice.Tensor, (parts, axis.dim + 1, lo, hi))
        return self.call(aten.reshape.default, (parts, list(axis.narrowed_shape(shape, hi - lo))))

    def join(self, first: fx.Node, second: fx.Node, axis: Axis) -> fx.Node:
        """Two neighbouring spans of one axis as one value."""
        if axis.outer == 1:
            return self.call(aten.cat.default, ([first, second], axis.dim))
        parts = []
        for node in (first, second):
            shape = tuple(int(n) for n in ir.val(node).shape)
            length = shape[axis.dim] // (axis.outer * axis.inner)
            split = shape[: axis.dim] + (axis.outer, length, axis.inner) + shape[axis.dim + 1 :]
            parts.append(self.call(aten.reshape.default, (node, list(split))))
        whole = self.call(aten.cat.default, (parts, axis.dim + 1))
        shape = tuple(int(n) for n in ir.val(whole).shape)
        merged = shape[: axis.dim] + (shape[axis.dim] * shape[axis.dim + 1] * shape[axis.dim + 2],)
        return self.call(aten.reshape.default, (whole, list(merged + shape[axis.dim + 3 :])))


def localize(body: BodyBuilder, node: fx.Node, axis: Axis, span: Span, local: Sequence[Local]) -> fx.Node:
    """Adds ``node``'s computation of ``span`` of ``axis``.

    ``local`` is parallel to ``axes.operands(node)``: each operand's clipped part, as
    ``axes.demands(node, axis)`` asks for it.
    """
    special = _SPECIAL.get(node.target)
    if special is not None:
        return special(body, node, axis, span, local)
    return body.call(node.target, *substitute(node, local))


def substitute(node: fx.Node, local: Sequence[Local]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The node's arguments with its operands replaced, in order."""
    fresh = iter(local)
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda _: next(fresh))
    return args, kwargs


def signature(node: fx.Node, axis: Axis, span: Span) -> tuple[Any, ...]:
    """What of ``span`` the localized op depends on: two spans of equal signature run the same code."""
    wanted = axes.demands(node, axis)
    assert wanted is not None
    seen: list[Any] = [span[1] - span[0]]
    for demand in wanted:
        if not isinstance(demand, Window):
            continue
        lo, hi = demand.needs(span)
        raw = demand.unclipped(span)
        seen.append((hi - lo, lo - raw[0], raw[1] - hi, span[0] % demand.div))
    return tuple(seen)


# --------------------------------------------------------------------------- special cases


def _length_in(node: fx.Node, axis: Axis, span: Span) -> list[int]:
    shape = tuple(int(n) for n in ir.val(node).shape)
    return list(axis.narrowed_shape(shape, span[1] - span[0]))


def _expand(body: BodyBuilder, node: fx.Node, axis: Axis, span: Span, local: Sequence[Local]) -> fx.Node:
    return body.call(node.target, (local[0], _length_in(node, axis, span), *node.args[2:]), dict(node.kwargs))


def _reshape(body: BodyBuilder, node: fx.Node, axis: Axis, span: Span, local: Sequence[Local]) -> fx.Node:
    """The shape is the slice's; a merged axis comes in whole multiples of its inner part, cropped to the span."""
    wanted = axes.demands(node, axis)
    assert wanted is not None and isinstance(wanted[0], Window)
    lo, hi = wanted[0].needs(span)
    have = (lo * wanted[0].div, hi * wanted[0].div)
    out = body.call(node.target, (local[0], _length_in(node, axis, have)))
    return body.crop(out, axis, have, span)


def _full(body: BodyBuilder, node: fx.Node, axis: Axis, span: Span, local: Sequence[Local]) -> fx.Node:
    return body.call(node.target, (_length_in(node, axis, span), *node.args[1:]), dict(node.kwargs))


def _slice(body: BodyBuilder, node: fx.Node, axis: Axis, span: Span, local: Sequence[Local]) -> fx.Node:
    dim, _, _, step = axes.slice_args(node)
    assert local[0] is not None
    if dim != axis.dim:
        return body.call(node.target, *substitute(node, local))
    if step == 1:
        return local[0]
    have = int(ir.val(local[0]).shape[dim])
    return body.call(aten.slice.Tensor, (local[0], dim, 0, have, step))


def _border(node: fx.Node, axis: Axis, span: Span) -> tuple[int, int]:
    """Elements that the window reaches past the operand's ends."""
    wanted = axes.demands(node, axis)
    assert wanted is not None and isinstance(wanted[0], Window)
    raw, have = wanted[0].unclipped(span), wanted[0].needs(span)
    return have[0] - raw[0], raw[1] - have[1]


def _padded(body: BodyBuilder, x: fx.Node, dim: int, before: int, after: int, value: float = 0.0) -> fx.Node:
    rank = len(ir.val(x).shape)
    pads = [0] * (2 * (rank - dim))
    pads[-2], pads[-1] = before, after
    return body.call(aten.constant_pad_nd.default, (x, pads, value))


def _convolution(body: BodyBuilder, node: fx.Node, axis: Axis, span: Span, local: Sequence[Local]) -> fx.Node:
    """Border slices are padded by the convolution itself and cropped where that reaches too far.

    The convolution pads both ends alike. Asked for p before and none after, it computes a few
    outputs too many, which are dropped as a view: cheaper than a padded copy of the operand.
    """
    if local[0] is None:
        return _convolved_padding(body, node, axis, span, local)
    args, kwargs = substitute(node, local)
    if axis.dim < 2:
        return body.call(node.target, args, kwargs)
    conv, d = axes.conv_args(node), axis.dim - 2
    before, after = _border(node, axis, span)
    both = max(before, after)
    padding = list(conv.padding)
    padding[d] = both
    if (both - before) % conv.stride[d]:
        padded = _padded(body, args[0], axis.dim, before, after)
        padding[d] = 0
        return body.call(node.target, (padded, *args[1:4], padding, *args[5:]), kwargs)
    out = body.call(node.target, (*args[:4], padding, *args[5:]), kwargs)
    first = (both - before) // conv.stride[d]
    have = int(ir.val(out).shape[axis.dim])
    length = span[1] - span[0]
    return out if have == length else body.call(aten.slice.Tensor, (out, axis.dim, first, first + length))


def _convolved_padding(body: BodyBuilder, node: fx.Node, axis: Axis, span: Span, local: Sequence[Local]) -> fx.Node:
    """A span whose windows all lie in the padding: the convolution of zeros."""
    x = axes.operands(node)[0]
    wanted = axes.demands(node, axis)
    assert wanted is not None and isinstance(wanted[0], Window)
    shape = _length_in(x, axis, wanted[0].unclipped(span))
    zeros = body.call(aten.full.default, (shape, 0.0), {"dtype": ir.val(x).dtype})
    args, kwargs = substitute(node, (zeros, *local[1:]))
    padding = list(axes.conv_args(node).padding)
    padding[axis.dim - 2] = 0
    return body.call(node.target, (*args[:4], padding, *args[5:]), kwargs)


def _pad(body: BodyBuilder, node: fx.Node, axis: Axis, span: Span, local: Sequence[Local]) -> fx.Node:
    before, after = axes.pad_of(node, axis.dim)
    if not before and not after:
        return body.call(node.target, *substitute(node, local))
    if local[0] is None:  # nothing but padding
        value = node.args[2] if len(node.args) > 2 else 0.0
        return body.call(aten.full.default, (_length_in(node, axis, span), value), {"dtype": ir.val(node).dtype})
    pads = list(node.args[1])  # type: ignore[arg-type]
    at = 2 * (len(ir.val(node).shape) - 1 - axis.dim)
    pads[at], pads[at + 1] = _border(node, axis, span)
    if not any(pads):
        return local[0]
    return body.call(node.target, (local[0], pads, *node.args[2:]), dict(node.kwargs))


def _upsample(body: BodyBuilder, node: fx.Node, axis: Axis, span: Span, local: Sequence[Local]) -> fx.Node:
    if axis.dim < 2:
        return body.call(node.target, *substitute(node, local))
    wanted = axes.demands(node, axis)
    assert wanted is not None and isinstance(wanted[0], Window) and local[0] is not None
    factor = wanted[0].div
    size = [int(n) for n in ir.val(node).shape[2:]]
    lo, hi = wanted[0].needs(span)
    size[axis.dim - 2] = (hi - lo) * factor
    out = body.call(node.target, (local[0], size, None))
    return body.crop(out, axis, (lo * factor, hi * factor), span)


def _pool(body: BodyBuilder, node: fx.Node, axis: Axis, span: Span, local: Sequence[Local]) -> fx.Node:
    spatial = len(node.args[1])  # type: ignore[arg-type]
    d = axis.dim - (len(ir.val(node).shape) - spatial)
    if d < 0:
        return body.call(node.target, *substitute(node, local))
    padding = list(axes.pool_arg(node, 3, spatial))
    padding[d] = 0
    x = local[0]
    before, after = _border(node, axis, span)
    assert x is not None
    if before or after:
        value = float("-inf") if node.target is aten.max_pool2d.default else 0.0
        x = _padded(body, x, axis.dim, before, after, value)
    kernel, stride = axes.pool_arg(node, 1, spatial), axes.pool_arg(node, 2, spatial)
    return body.call(node.target, (x, list(kernel), list(stride), padding, *node.args[4:]), dict(node.kwargs))


def _cat(body: BodyBuilder, node: fx.Node, axis: Axis, span: Span, local: Sequence[Local]) -> fx.Node:
    dim = axes.cat_dim(node)
    present = [x for x in local if x is not None]
    if axis.dim == dim and len(present) == 1:
        return present[0]
    return body.call(aten.cat.default, (present, dim))


_SPECIAL: dict[Any, Callable[[BodyBuilder, fx.Node, Axis, Span, Sequence[Local]], fx.Node]] = {
    aten.reshape.default: _reshape,
    aten.expand.default: _expand,
    aten.full.default: _full,
    aten.slice.Tensor: _slice,
    aten.convolution.default: _convolution,
    aten.constant_pad_nd.default: _pad,
    aten.pad.default: _pad,
    aten.upsample_nearest1d.vec: _upsample,
    aten.upsample_nearest2d.vec: _upsample,
    aten.upsample_nearest3d.vec: _upsample,
    aten.avg_pool2d.default: _pool,
    aten.avg_pool3d.default: _pool,
    aten.max_pool2d.default: _pool,
    aten.cat.default: _cat,
}
