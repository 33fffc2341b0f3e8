"""The axes worth slicing each value by, factors of merged dimensions included."""

from __future__ import annotations

from torch import fx

from vgcomp.axes import Window, axes_of, summed_axis
from vgcomp.ir import Axis
from vgcomp.slicing.problem import Problem

#: Axes kept a value; a transformer's tokens have about six (batch, frames, height, width, heads).
MOST_AXES = 10


def seed_axes(problem: Problem) -> dict[fx.Node, list[Axis]]:
    """For each op, the axes of its result: its dimensions, and the factors that consumers ask of it.

    One pass backwards: where a reshape after it takes a merged dimension apart, a value learns of the parts.
    """
    found: dict[fx.Node, dict[Axis, None]] = {n: dict.fromkeys(_own_axes(n)) for n in problem.nodes}
    for node in reversed(problem.nodes):
        for axis in list(found[node])[:MOST_AXES]:
            demands = problem.amap.demands(node, axis)
            if demands is None:
                continue
            for x, demand in zip(problem.amap.operands(node), demands, strict=True):
                if isinstance(demand, Window) and demand.identity and x in found and demand.axis.extent > 1:
                    found[x].setdefault(demand.axis)
    return {node: [a for a in list(axes)[:MOST_AXES] if _sliceable(problem, node, a)] for node, axes in found.items()}


def _own_axes(node: fx.Node) -> list[Axis]:
    summed = summed_axis(node)
    return axes_of(node) if summed is None else [summed, *axes_of(node)]


def _sliceable(problem: Problem, node: fx.Node, axis: Axis) -> bool:
    return problem.amap.demands(node, axis) is not None
