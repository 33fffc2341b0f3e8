"""What ops hold inside themselves while they run on a slice: copies of the slice, and what no slicing makes smaller.

A convolution's workspace holds its filter in another layout whatever the slice; a slice that lies scattered in memory
is copied first. Both matter where slices are small, and only there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from vgcomp import ir
from vgcomp.axes import Window
from vgcomp.cuda_temporaries import cuda_temporaries, has_temporaries
from vgcomp.ir import Axis
from vgcomp.slicing.problem import Problem

#: The shortest axis that has two short slices of different lengths.
_LEAST = 4


def slice_inner(problem: Problem, i: int, axis: Axis) -> tuple[float, float]:
    """Bytes that op i holds inside on a slice of ``axis``: those of any slice, and those that shrink with it.

    The second are for the whole axis: a slice of a tenth of it holds the first and a tenth of the second.
    """
    key = (i, axis)
    if key not in problem.inner_slices:
        problem.inner_slices[key] = _slice_inner(problem, i, axis)
    return problem.inner_slices[key]


def comes_scattered(x: fx.Node) -> bool:
    """True where a slice of x, as an op in the region gets it, is a part of something larger.

    That is a value from before the graph, or one that is made in whole cells of which a slice needs parts. Ops in a
    region that make their own output make it dense.
    """
    return x.op == "placeholder" or x.target in ir.UPSAMPLE_OPS


def _slice_inner(problem: Problem, i: int, axis: Axis) -> tuple[float, float]:
    node, whole = problem.nodes[i], problem.inner[i]
    if problem.workspace != "cuda" or not has_temporaries(node.target) or axis.extent < _LEAST:
        return 0.0, float(whole)
    # Two short slices: kernels of very large ones are others, and hold less.
    longer, shorter = max(2, axis.extent // 8), max(1, axis.extent // 16)
    large, small = (_inner_of(problem, node, axis, length) for length in (longer, shorter))
    slope = (large - small) / (longer - shorter)
    return max(0.0, large - slope * longer), slope * axis.extent


def _inner_of(problem: Problem, node: fx.Node, axis: Axis, length: int) -> int:
    """Bytes inside an op that makes ``length`` elements of the axis."""
    demands = problem.amap.demands(node, axis)
    assert demands is not None
    operands = problem.amap.operands(node)
    wanted = {x: d.axis for x, d in zip(operands, demands, strict=True) if isinstance(d, Window)}

    def sliced(x: fx.Node) -> Any:
        if x not in wanted or not isinstance(x.meta["val"], torch.Tensor):
            return x.meta["val"]
        return _part(ir.val(x), wanted[x], length / axis.extent, dense=not comes_scattered(x))

    out = _part(ir.val(node), axis, length / axis.extent, dense=True)
    args: Any = fx.map_arg(node.args, sliced)
    return cuda_temporaries(node.target, args, out).total


def _part(x: torch.Tensor, axis: Axis, share: float, *, dense: bool) -> torch.Tensor:
    """A share of a tensor along an axis, without data: by itself or as a part of the whole."""
    shape = list(x.shape)
    shape[axis.dim] = axis.outer * max(1, round(axis.extent * share)) * axis.inner
    strides = list(x.stride())
    if dense:
        step = 1
        for dim in sorted(range(len(shape)), key=lambda d: (strides[d], -d)):
            strides[dim], step = step, step * shape[dim]
    return torch.empty_strided(shape, strides, dtype=x.dtype, device="meta")
