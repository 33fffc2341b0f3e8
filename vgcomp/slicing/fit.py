"""From a plan space to a graph that holds a budget: plan, write, measure, correct, until nothing is over.

Plans are found on predicted figures and then built. A built loop's memory is known exactly; where it is above
the budget the edge is corrected and the path searched again, so what is returned holds the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import fx

from vgcomp import ir
from vgcomp.loops import operands_of, storage_root
from vgcomp.slicing.choices import Choice, Plan
from vgcomp.slicing.plan import PlanSpace
from vgcomp.slicing.rewrite import Written, rewrite
from vgcomp.verify_loops import storage_size

#: Corrections of one plan before its budget counts as not reachable.
MOST_CORRECTIONS = 40

#: Bytes live while each node of a graph runs.
Live = Callable[[fx.Graph], Sequence[int]]


@dataclass(frozen=True)
class Fitted:
    """A graph whose live bytes at every node are within a budget, and the plan that it came from."""

    plan: Plan
    graph: fx.Graph
    peak: int


def fit(space: PlanSpace, budget: int, live: Live) -> Fitted | None:
    """The least-latency plan within ``budget`` bytes, written; None if none was found."""
    allowed = budget
    for _ in range(MOST_CORRECTIONS):
        plan = space.best(allowed)
        if plan is None:
            return None
        written = rewrite(space, plan)
        if _forbid_cramped(space, written):
            continue
        at = live(written.graph)
        peak = max(at, default=0)
        if peak <= budget:
            return Fitted(plan, written.graph, peak)
        if not _correct(space, written, at, budget):
            allowed -= peak - budget
    return None


def _forbid_cramped(space: PlanSpace, written: Written) -> bool:
    """Takes out what was to grow into room that is not there: a result on the way did not stay where it should."""
    cramped = [c for c, nodes in written.nodes_of if c.grow and not all(map(_has_room, nodes))]
    for choice in cramped:
        space.forbid(choice)
    return bool(cramped)


def _correct(space: PlanSpace, written: Written, at: Sequence[int], budget: int) -> bool:
    """Gives edges that take more than the budget, and than predicted, their true peak; False if there are none."""
    live = dict(zip(written.graph.nodes, at, strict=True))
    over: list[tuple[Choice, int]] = [(c, max(live[n] for n in nodes)) for c, nodes in written.nodes_of]
    over = [(c, peak) for c, peak in over if peak > budget and peak > c.peak]
    for choice, peak in over:
        space.correct(choice, peak)
    return bool(over)


def _has_room(node: fx.Node) -> bool:
    """True where each result that a loop lays over an operand fits its storage."""
    for result in ir.loop_of(node).results:
        if result.into is None:
            continue
        root, index = storage_root(operands_of(node)[result.into])
        if math.prod(result.shape) * result.dtype.itemsize > storage_size(root, index):
            return False
    return True
