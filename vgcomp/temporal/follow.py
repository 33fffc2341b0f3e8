"""Follows axes forwards through a graph, from values where they are known to all that is computed from these.

:mod:`vgcomp.axes` says how an output reads its operands. Here the question is the other way round: where an axis of an
operand lies in the output, and whether the op mixes its elements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import fx

from vgcomp import ir
from vgcomp.axes import WHOLE, AxisMap, Demand, Window, conv_args, moved_by_reshape
from vgcomp.ir import Axis, aten

#: Ops whose result has the shape of their first operand, place for place, whatever they mix.
_IN_PLACE = ir.NORM_OPS | {aten.softmax.int, aten.scaled_dot_product_attention.default}


class Followed:
    """Where one axis lies in each value: ``at[node]``; no entry where it is lost or was never there.

    ``seeds``: axes known from the start. They stand for themselves, whatever reaches their nodes.
    """

    def __init__(self, amap: AxisMap, nodes: Iterable[fx.Node], seeds: Mapping[fx.Node, Axis]) -> None:
        self._amap = amap
        self.at: dict[fx.Node, Axis] = dict(seeds)
        for node in nodes:
            if node.op != "call_function" or node in self.at or ir.is_loop(node) or ir.is_getitem(node):
                continue
            found = self._carried(node)
            if found is not None:
                self.at[node] = found

    def mixes(self, node: fx.Node) -> bool:
        """True where an element of the output needs others along the axis than the one at its own place."""
        read = [(k, self.at[x]) for k, x in enumerate(self._amap.operands(node)) if x in self.at]
        if not read:
            return False
        if node not in self.at:
            return node.target not in ir.VIEW_OPS  # a view that tears the axis apart reads no more than it shows
        found = self._demands(node, self.at[node])
        if found is None:
            return True
        return not all(_same_place(found[k], axis) for k, axis in read)

    def _carried(self, node: fx.Node) -> Axis | None:
        """Of the first operand that brings the axis along."""
        for k, operand in enumerate(self._amap.operands(node)):
            axis = self.at.get(operand)
            found = None if axis is None else self._through(node, k, operand, axis)
            if found is not None:
                return found
        return None

    def _through(self, node: fx.Node, k: int, operand: fx.Node, axis: Axis) -> Axis | None:
        before, after = _shape(operand), _shape(node)
        if node.target is aten.reshape.default:
            return moved_by_reshape(before, after, axis)
        if node.target in _IN_PLACE:
            return axis if k == 0 and before[axis.dim] == after[axis.dim] else None
        for dim in _likely(axis.dim, len(before), len(after)):
            candidate = Axis(dim, axis.extent, axis.outer, axis.inner)
            if after[dim] != axis.size:
                continue
            found = self._demands(node, candidate)
            if found is not None and isinstance(found[k], Window) and found[k].axis == axis:  # type: ignore[union-attr]
                return candidate
        return None

    def _demands(self, node: fx.Node, axis: Axis) -> tuple[Demand, ...] | None:
        """As the op declares it; a convolution's kernel of 1 leaves a merged dimension as it is too."""
        if node.target is aten.convolution.default and axis.dim >= 2 and _untouched(node, axis.dim - 2):
            return (Window(axis), *([WHOLE] * (len(self._amap.operands(node)) - 1)))
        return self._amap.demands(node, axis)


def _likely(dim: int, before: int, after: int) -> list[int]:
    """Dimensions of the output, those first where most ops leave an axis."""
    aligned = dim + after - before
    first = [d for d in (aligned, dim) if 0 <= d < after]
    return list(dict.fromkeys([*first, *range(after)]))


def _untouched(node: fx.Node, d: int) -> bool:
    """True where a convolution takes one element along its spatial dimension ``d`` to one."""
    conv = conv_args(node)
    return not conv.transposed and (conv.kernel[d], conv.stride[d], conv.padding[d]) == (1, 1, 0)


def _same_place(demand: object, axis: Axis) -> bool:
    return isinstance(demand, Window) and demand.axis == axis and demand.identity


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(int(n) for n in ir.val(node).shape)
