"""How every op's output axes read its inputs: the analysis that slicing is found by.

For an op and one axis of its output, :func:`demands` says, operand by operand, which part of the
operand a slice of the output needs:

- :class:`Window`: an affine interval of one axis of the operand. Pointwise ops are the identity;
  convolutions, pools, paddings, nearest upsampling, slices and concatenations are the other cases.
- :data:`WHOLE`: all of the operand (broadcast, contracted, or the other side of an attention).

``None`` in place of the list means that the axis cannot be followed through the op: a reduction
consumes it, a contraction produces it, a reshape tears it apart. Rules compose along a path into
an exact interval map, which is all that slicing, halos and streaming rest on.

An axis may be a factor of a merged dimension (:class:`~vgcomp.ir.Axis`), so that the frames of a
``(batch*frames, …)`` tensor are found with nothing said per model.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import fx

from vgcomp import ir
from vgcomp.ir import Axis, Span, aten, own


@dataclass(frozen=True, slots=True)
class Window:
    """Output span ``[lo, hi)`` needs ``[lo*mul//div + first, (hi-1)*mul//div + last + 1)`` of ``axis``.

    The interval is clipped to the operand; what lies outside is padding (or, in a
    concatenation, another operand's part).
    """

    axis: Axis
    mul: int = 1
    div: int = 1
    first: int = 0
    last: int = 0

    def unclipped(self, span: Span) -> Span:
        """The interval needed, border padding included."""
        lo, hi = span
        return lo * self.mul // self.div + self.first, (hi - 1) * self.mul // self.div + self.last + 1

    def needs(self, span: Span) -> Span:
        """The interval needed, clipped to the operand; empty as ``(k, k)``."""
        lo, hi = self.unclipped(span)
        lo = min(max(lo, 0), self.axis.extent)
        return lo, max(lo, min(hi, self.axis.extent))

    @property
    def identity(self) -> bool:
        """True where the same elements are needed as are made."""
        return self.mul == self.div == 1 and self.first == self.last == 0


class Whole:
    """The operand is needed whole."""

    def __repr__(self) -> str:
        return "WHOLE"


WHOLE: Final = Whole()
Demand = Window | Whole
#: A pixel shuffle's factor, at the most. Beyond it a slice would need much more than itself.
MOST_MERGED: Final = 8
Rule = Callable[[fx.Node, Axis], "Sequence[Demand] | None"]


def operands(node: fx.Node) -> tuple[fx.Node, ...]:
    """Tensor operands in argument order, repeats kept: what :func:`demands` is parallel to."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), found.append)
    return tuple(found)


def demands(node: fx.Node, axis: Axis) -> tuple[Demand, ...] | None:
    """What a slice of ``axis`` of the node's output needs of each operand; None if it cannot be sliced."""
    rule = _rule_for(node)
    found = rule(node, axis) if rule is not None else None
    return None if found is None else tuple(found)


class AxisMap:
    """:func:`operands` and :func:`demands` of one unchanging graph, remembered."""

    def __init__(self) -> None:
        self._operands: dict[fx.Node, tuple[fx.Node, ...]] = {}
        self._demands: dict[tuple[fx.Node, Axis], tuple[Demand, ...] | None] = {}

    def operands(self, node: fx.Node) -> tuple[fx.Node, ...]:
        found = self._operands.get(node)
        if found is None:
            found = self._operands[node] = operands(node)
        return found

    def demands(self, node: fx.Node, axis: Axis) -> tuple[Demand, ...] | None:
        key = (node, axis)
        if key not in self._demands:
            self._demands[key] = demands(node, axis)
        return self._demands[key]


def axes_of(node: fx.Node) -> list[Axis]:
    """The unmerged axes of a node's output that have more than one element."""
    return [Axis(d, n) for d, n in enumerate(_shape(node)) if n > 1]


def summed_axis(node: fx.Node) -> Axis | None:
    """The axis that a value is merged over and does not have any more: the keys of partial attention.

    It is numbered one past the value's last dimension.
    """
    if node.target is not ir.own.attention_partial.default:
        return None
    keys = _shape(operands(node)[1])[-2]
    return Axis(len(_shape(node)), keys) if keys > 1 else None


def is_summed(node: fx.Node, axis: Axis) -> bool:
    """True where ``axis`` is the node's :func:`summed_axis`: slices give partial values to be merged."""
    return axis == summed_axis(node)


# --------------------------------------------------------------------------- rules


def _rule_for(node: fx.Node) -> Rule | None:
    if node.op != "call_function":
        return None
    target = node.target
    if target in ir.POINTWISE_OPS:
        return _pointwise
    return _RULES.get(target)


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(int(n) for n in ir.val(node).shape)


def _pointwise(node: fx.Node, axis: Axis) -> Sequence[Demand]:
    rank = len(_shape(node))
    return [_broadcast(_shape(x), rank, axis) for x in operands(node)]


def _broadcast(shape: tuple[int, ...], rank: int, axis: Axis) -> Demand:
    """An operand of a broadcasting op: aligned at the last dimension, size 1 shared."""
    dim = axis.dim - (rank - len(shape))
    if dim < 0 or shape[dim] == 1:
        return WHOLE
    return Window(Axis(dim, axis.extent, axis.outer, axis.inner))


def _reshape(node: fx.Node, axis: Axis) -> Sequence[Demand] | None:
    src, dst = _shape(node), _shape(operands(node)[0])
    moved = moved_by_reshape(src, dst, axis)
    if moved is not None:
        return [Window(moved)]
    return _merged(src, dst, axis)


def _merged(src: tuple[int, ...], dst: tuple[int, ...], axis: Axis) -> Sequence[Demand] | None:
    """An axis that the reshape merged from several, as in a pixel shuffle: its span by the outermost of them."""
    stride = axis.inner * math.prod(src[axis.dim + 1 :])
    boundaries = sorted({math.prod(dst[dim:]) for dim in range(len(dst))})
    for boundary in boundaries:
        factor, rest = divmod(boundary, stride)
        if rest or not 1 < factor <= MOST_MERGED or axis.extent % factor or factor == axis.extent:
            continue
        outer = Axis(axis.dim, axis.extent // factor, axis.outer, axis.inner * factor)
        moved = moved_by_reshape(src, dst, outer)
        if moved is not None:
            return [Window(moved, div=factor)]
    return None


@functools.lru_cache(maxsize=65536)
def moved_by_reshape(src: tuple[int, ...], dst: tuple[int, ...], axis: Axis) -> Axis | None:
    """Where an axis of ``src`` lies after a row-major reshape to ``dst``; None when torn apart.

    An axis is the elements at flat stride ``s`` and extent ``e``; it survives where one
    dimension of ``dst`` holds the whole of it as a factor.
    """
    stride = axis.inner * math.prod(src[axis.dim + 1 :])
    trailing = 1
    for dim in range(len(dst) - 1, -1, -1):
        size = dst[dim]
        if stride % trailing == 0 and stride * axis.extent <= trailing * size and stride < trailing * size:
            inner = stride // trailing
            outer, rest = divmod(size, inner * axis.extent)
            return Axis(dim, axis.extent, outer, inner) if rest == 0 else None
        trailing *= size
    return None


def _permute(node: fx.Node, axis: Axis) -> Sequence[Demand]:
    dims: Sequence[int] = node.args[1]  # type: ignore[assignment]
    rank = len(dims)
    return [Window(Axis(dims[axis.dim] % rank, axis.extent, axis.outer, axis.inner))]


def _expand(node: fx.Node, axis: Axis) -> Sequence[Demand]:
    return [_broadcast(_shape(operands(node)[0]), len(_shape(node)), axis)]


def _slice(node: fx.Node, axis: Axis) -> Sequence[Demand] | None:
    dim, start, _, step = slice_args(node)
    if dim != axis.dim:
        return [Window(axis)]
    src = _shape(operands(node)[0])[dim]
    if axis.whole_dim:
        return [Window(Axis(dim, src), mul=step, first=start, last=start)]
    return None


def slice_args(node: fx.Node) -> tuple[int, int, int, int]:
    """(dim, start, end, step) of a slice node, defaults filled in."""
    rank = len(_shape(operands(node)[0]))
    args: list[Any] = list(node.args[1:])
    dim = (args[0] if args else 0) % rank
    size = _shape(operands(node)[0])[dim]
    start = args[1] if len(args) > 1 and args[1] is not None else 0
    end = args[2] if len(args) > 2 and args[2] is not None else size
    step = args[3] if len(args) > 3 else 1
    return dim, start, min(end, size), step


def _convolution(node: fx.Node, axis: Axis) -> Sequence[Demand] | None:
    conv = conv_args(node)
    rest = len(operands(node)) - 1
    if axis.dim == 0:
        return [Window(axis), *([WHOLE] * rest)]
    if axis.dim == 1 or conv.transposed or not axis.whole_dim:
        return None
    d = axis.dim - 2
    pad, reach = conv.padding[d], conv.dilation[d] * (conv.kernel[d] - 1)
    src = Axis(axis.dim, _shape(operands(node)[0])[axis.dim])
    return [Window(src, mul=conv.stride[d], first=-pad, last=reach - pad), *([WHOLE] * rest)]


@dataclass(frozen=True, slots=True)
class ConvArgs:
    """Per-spatial-dimension arguments of a convolution node."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool


def conv_args(node: fx.Node) -> ConvArgs:
    """The arguments of an ``aten.convolution`` node, one entry a spatial dimension."""
    weight = node.args[1]
    assert isinstance(weight, fx.Node)
    kernel = tuple(int(n) for n in ir.val(weight).shape[2:])

    def each(value: Any) -> tuple[int, ...]:
        items = tuple(value)
        return items * len(kernel) if len(items) == 1 else items

    return ConvArgs(kernel, each(node.args[3]), each(node.args[4]), each(node.args[5]), bool(node.args[6]))


def _pool(node: fx.Node, axis: Axis) -> Sequence[Demand] | None:
    spatial = len(node.args[1])  # type: ignore[arg-type]
    src = _shape(operands(node)[0])
    d = axis.dim - (len(src) - spatial)
    if d < 0:
        return [Window(axis)]
    pad = pool_arg(node, 3, spatial)[d]
    if not axis.whole_dim or not _plain_pool(node, pad):
        return None
    kernel, stride = pool_arg(node, 1, spatial)[d], pool_arg(node, 2, spatial)[d]
    return [Window(Axis(axis.dim, src[axis.dim]), mul=stride, first=-pad, last=kernel - 1 - pad)]


def _plain_pool(node: fx.Node, pad: int) -> bool:
    """True for windows of neighbours that all lie in the padded operand and, in a mean, all count."""
    if node.target is aten.max_pool2d.default:
        dilation: Any = _pool_option(node, 4, 1)
        dense = all(n == 1 for n in dilation) if isinstance(dilation, (list, tuple)) else dilation == 1
        return dense and not _pool_option(node, 5, False)
    return not _pool_option(node, 4, False) and (pad == 0 or _pool_option(node, 5, True))


def _pool_option(node: fx.Node, index: int, default: Any) -> Any:
    return node.args[index] if len(node.args) > index else default


def pool_arg(node: fx.Node, index: int, spatial: int) -> tuple[int, ...]:
    """Kernel (1), stride (2) or padding (3) of a pooling node, defaults filled in."""
    value: Any = _pool_option(node, index, ())
    if index == 2 and not value:
        value = node.args[1]
    items = tuple(value) if value else (0,)
    return items * spatial if len(items) == 1 else items


def _linear(node: fx.Node, axis: Axis) -> Sequence[Demand] | None:
    if axis.dim == len(_shape(node)) - 1:
        return None
    return [Window(axis), *([WHOLE] * (len(operands(node)) - 1))]


def _matmul(node: fx.Node, axis: Axis) -> Sequence[Demand] | None:
    a, b = operands(node)
    rank = len(_shape(node))
    if len(_shape(a)) < 2 or len(_shape(b)) < 2:
        return None
    if axis.dim == rank - 1:
        return [WHOLE, Window(_from_right(axis, rank, len(_shape(b))))]
    if axis.dim == rank - 2:
        return [Window(_from_right(axis, rank, len(_shape(a)))), WHOLE]
    return [_broadcast(_shape(x), rank, axis) for x in (a, b)]


def _from_right(axis: Axis, rank: int, operand_rank: int) -> Axis:
    return Axis(axis.dim - rank + operand_rank, axis.extent, axis.outer, axis.inner)


def _attention(node: fx.Node, axis: Axis) -> Sequence[Demand] | None:
    """Batch and heads slice everything; a block of queries needs all keys and values."""
    rank = len(_shape(node))
    found = operands(node)
    causal = len(node.args) > 5 and bool(node.args[5])
    if axis.dim == rank - 1 or (axis.dim == rank - 2 and causal):
        return None
    if axis.dim == rank - 2:
        return [Window(axis), WHOLE, WHOLE, *(_broadcast(_shape(m), rank, axis) for m in found[3:])]
    return [_broadcast(_shape(x), rank, axis) for x in found]


def _attention_partial(node: fx.Node, axis: Axis) -> Sequence[Demand] | None:
    rank = len(_shape(node))
    if axis.dim == rank:
        keys = Axis(rank - 2, axis.extent)
        return [WHOLE, Window(keys), Window(keys)]
    if axis.dim == rank - 1:
        return None
    if axis.dim == rank - 2:
        return [Window(axis), WHOLE, WHOLE]
    return [_broadcast(_shape(x), rank, axis) for x in operands(node)]


def _softmax_free_last(node: fx.Node, axis: Axis) -> Sequence[Demand] | None:
    """attention_finish: rows are independent, the last dimension changes its size."""
    return None if axis.dim == len(_shape(node)) - 1 else [Window(axis)]


def _softmax(node: fx.Node, axis: Axis) -> Sequence[Demand] | None:
    return None if axis.dim == int(node.args[1]) % len(_shape(node)) else [Window(axis)]  # type: ignore[call-overload,arg-type]


def _trailing_norm(node: fx.Node, axis: Axis) -> Sequence[Demand] | None:
    """layer_norm, rms_norm: statistics over the trailing ``normalized_shape``."""
    kept = len(_shape(node)) - len(node.args[1])  # type: ignore[arg-type]
    if axis.dim >= kept:
        return None
    return [Window(axis), *([WHOLE] * (len(operands(node)) - 1))]


def _group_norm(node: fx.Node, axis: Axis) -> Sequence[Demand] | None:
    return None if axis.dim != 0 else [Window(axis), *([WHOLE] * (len(operands(node)) - 1))]


def _group_moments(node: fx.Node, axis: Axis) -> Sequence[Demand] | None:
    """Output (3, N, groups): only N is an axis of the input."""
    return None if axis.dim != 1 else [Window(Axis(0, axis.extent, axis.outer, axis.inner))]


def _group_norm_apply(node: fx.Node, axis: Axis) -> Sequence[Demand] | None:
    rest = len(operands(node)) - 2
    if axis.dim == 1:
        return None
    stats: Demand = Window(Axis(1, axis.extent, axis.outer, axis.inner)) if axis.dim == 0 else WHOLE
    return [Window(axis), stats, *([WHOLE] * rest)]


def _reduce(node: fx.Node, axis: Axis) -> Sequence[Demand] | None:
    """A kept dimension of a reduction; the reduced ones do not reach the output."""
    src = _shape(operands(node)[0])
    at = 2 if node.target is aten.linalg_vector_norm.default else 1
    dims: Any = node.args[at] if len(node.args) > at else ()
    gone = {d % len(src) for d in dims} if dims else set(range(len(src)))
    if len(_shape(node)) == len(src):
        return None if axis.dim in gone else [Window(axis)]
    kept = [d for d in range(len(src)) if d not in gone]
    return [Window(Axis(kept[axis.dim], axis.extent, axis.outer, axis.inner))]


def _upsample(node: fx.Node, axis: Axis) -> Sequence[Demand] | None:
    if axis.dim < 2:
        return [Window(axis)]
    src = _shape(operands(node)[0])[axis.dim]
    factor, rest = divmod(axis.extent, src)
    if rest or not axis.whole_dim:
        return None
    return [Window(Axis(axis.dim, src), div=factor)]


def _cat(node: fx.Node, axis: Axis) -> Sequence[Demand] | None:
    dim = cat_dim(node)
    if axis.dim != dim:
        return [Window(axis) for _ in operands(node)]
    if not axis.whole_dim:
        return None
    found, offset = [], 0
    for x in operands(node):
        size = _shape(x)[dim]
        found.append(Window(Axis(dim, size), first=-offset, last=-offset))
        offset += size
    return found


def cat_dim(node: fx.Node) -> int:
    """The dimension a cat node joins along, non-negative."""
    dim: Any = node.args[1] if len(node.args) > 1 else 0
    return int(dim) % len(_shape(node))


def _pad(node: fx.Node, axis: Axis) -> Sequence[Demand] | None:
    before, after = pad_of(node, axis.dim)
    if not before and not after:
        return [Window(axis)]
    if not axis.whole_dim or node.target is not aten.constant_pad_nd.default:
        return None
    return [Window(Axis(axis.dim, _shape(operands(node)[0])[axis.dim]), first=-before, last=-before)]


def pad_of(node: fx.Node, dim: int) -> tuple[int, int]:
    """(before, after) padding of one dimension of a pad node."""
    pads: Sequence[int] = node.args[1]  # type: ignore[assignment]
    from_right = len(_shape(node)) - 1 - dim
    if 2 * from_right + 1 >= len(pads):
        return 0, 0
    return int(pads[2 * from_right]), int(pads[2 * from_right + 1])


def _embedding(node: fx.Node, axis: Axis) -> Sequence[Demand] | None:
    return None if axis.dim == len(_shape(node)) - 1 else [WHOLE, Window(axis)]


def _index_select(node: fx.Node, axis: Axis) -> Sequence[Demand]:
    if axis.dim == int(node.args[1]) % len(_shape(node)):  # type: ignore[arg-type]
        return [WHOLE, Window(Axis(0, axis.extent, axis.outer, axis.inner))]
    return [Window(axis), WHOLE]


def _full(node: fx.Node, axis: Axis) -> Sequence[Demand]:
    return []


_RULES: dict[Any, Rule] = {
    aten.reshape.default: _reshape,
    aten.permute.default: _permute,
    aten.expand.default: _expand,
    aten.slice.Tensor: _slice,
    aten.convolution.default: _convolution,
    aten.avg_pool2d.default: _pool,
    aten.avg_pool3d.default: _pool,
    aten.max_pool2d.default: _pool,
    aten.linear.default: _linear,
    aten.matmul.default: _matmul,
    aten.scaled_dot_product_attention.default: _attention,
    own.attention_partial.default: _attention_partial,
    own.attention_finish.default: _softmax_free_last,
    aten.softmax.int: _softmax,
    aten.index_select.default: _index_select,
    aten.layer_norm.default: _trailing_norm,
    aten.rms_norm.default: _trailing_norm,
    aten.group_norm.default: _group_norm,
    own.group_moments.default: _group_moments,
    own.group_norm_apply.default: _group_norm_apply,
    aten.sum.dim_IntList: _reduce,
    aten.mean.dim: _reduce,
    aten.amax.default: _reduce,
    aten.linalg_vector_norm.default: _reduce,
    aten.upsample_nearest1d.vec: _upsample,
    aten.upsample_nearest2d.vec: _upsample,
    aten.upsample_nearest3d.vec: _upsample,
    aten.cat.default: _cat,
    aten.constant_pad_nd.default: _pad,
    aten.pad.default: _pad,
    aten.embedding.default: _embedding,
    aten.full.default: _full,
}
