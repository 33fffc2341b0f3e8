"""Which elements each node of a loop computes at each step.

Given the nodes of one loop with one axis each, and the parts of its targets that each step has to
deliver, :func:`schedule_spans` walks the demands backwards and returns exact intervals. Windows are
met in one of two ways:

- *recompute*: a step computes all that it needs; neighbouring steps repeat the halo.
- *carry*: a step computes only what no earlier step did; the overlap comes from a line buffer
  (:class:`~vgcomp.ir.Body` carries). Every element is computed once. A causal window streams. A value whose
  end is wanted before its beginning (as where the halves of a tensor change places) is recomputed all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx

from vgcomp.axes import AxisMap, Window, is_summed
from vgcomp.ir import Axis, Span

#: A value read inside a loop: a node computed in it, or an operand from outside along one axis.
Item = tuple[fx.Node, Axis]


@dataclass(frozen=True)
class LoopSpec:
    """One loop to be built: ``nodes`` in order, each with its axis; ``targets`` it delivers.

    A target in ``merged`` sums over the axis: a moments node, whose axis is its operand's, or a node with a
    :func:`~vgcomp.axes.summed_axis`.
    """

    nodes: tuple[fx.Node, ...]
    axis_of: Mapping[fx.Node, Axis]
    targets: tuple[fx.Node, ...]
    merged: frozenset[fx.Node]
    n_slices: int
    carry: bool
    #: Outside operands that are overwritten by a result: what later steps need of them is carried.
    overwritten: frozenset[fx.Node] = frozenset()
    reverse: bool = False


#: (position, operand, window) of each sliced operand of each node.
Reads = Mapping[fx.Node, Sequence[tuple[int, fx.Node, Window]]]


@dataclass
class StepSpans:
    """Spans of one step: what is computed (``new``), what is wanted, what is delivered."""

    new: dict[Item, Span] = field(default_factory=dict)
    wanted: dict[Item, Span] = field(default_factory=dict)
    delivered: dict[fx.Node, Span] = field(default_factory=dict)


@dataclass(frozen=True)
class Schedule:
    """The steps in the order that they run, and the items that each of them computes only the rest of."""

    steps: tuple[StepSpans, ...]
    carried: frozenset[Item]


def partition(extent: int, n: int, of: int | None = None) -> list[Span]:
    """At most ``n`` equal spans of ``extent``; aligned with the same partition of ``of`` when given."""
    base = of or extent
    tile = -(-base // n)
    edges = [min(k * tile, base) for k in range(-(-base // tile) + 1)]
    return [(a * extent // base, b * extent // base) for a, b in zip(edges, edges[1:], strict=False)]


def reads_of(spec: LoopSpec, amap: AxisMap, node: fx.Node) -> list[tuple[int, fx.Node, Window]]:
    """(position, operand, window) of each sliced operand of a node of the loop."""
    axis = spec.axis_of[node]
    if node in spec.merged and not is_summed(node, axis):
        return [(0, amap.operands(node)[0], Window(axis))]
    found = amap.demands(node, axis)
    assert found is not None, f"{node} cannot be sliced along {axis}"
    pairs = enumerate(zip(amap.operands(node), found, strict=True))
    return [(k, x, d) for k, (x, d) in pairs if isinstance(d, Window)]


def schedule_spans(spec: LoopSpec, amap: AxisMap) -> Schedule:
    """The spans of every step, in the order that steps run."""
    reads = {node: reads_of(spec, amap, node) for node in spec.nodes}
    carried = _may_be_carried(spec, reads) if spec.carry else frozenset()
    base = spec.axis_of[spec.targets[-1]].extent
    parts = {t: partition(spec.axis_of[t].extent, spec.n_slices, base) for t in spec.targets}
    order: Iterable[int] = range(len(parts[spec.targets[-1]]))
    if spec.reverse:
        order = reversed(list(order))
    wanted = [{t: parts[t][k] for t in spec.targets} for k in order]
    while True:
        progress = _Progress(carried)
        steps = [_one_step(spec, reads, part, progress) for part in wanted]
        if not progress.backward:
            return Schedule(tuple(steps), carried)
        carried -= progress.backward


def _may_be_carried(spec: LoopSpec, reads: Reads) -> frozenset[Item]:
    """Every node of the loop, and the operands that results overwrite."""
    inside = {(node, spec.axis_of[node]) for node in spec.nodes if node not in spec.merged}
    outside = {
        (x, w.axis) for node in spec.nodes for _, x, w in reads[node] if x in spec.overwritten and x not in spec.axis_of
    }
    return frozenset(inside | outside)


@dataclass
class _Progress:
    """How far each carried item has come, and those that a step wanted from before where they began."""

    carried: frozenset[Item]
    done: dict[Item, Span] = field(default_factory=dict)
    backward: set[Item] = field(default_factory=set)

    def fresh(self, item: Item, wanted: Span) -> Span:
        """The part of ``wanted`` to compute now."""
        if item not in self.carried:
            return wanted
        start, end = self.done.get(item, (wanted[0], wanted[0]))
        if wanted[0] < start:
            self.backward.add(item)
        self.done[item] = start, max(end, wanted[1])
        return end, self.done[item][1]


def _one_step(spec: LoopSpec, reads: Reads, parts: Mapping[fx.Node, Span], progress: _Progress) -> StepSpans:
    step = StepSpans()
    for node in reversed(spec.nodes):
        item = (node, spec.axis_of[node])
        if node in parts and parts[node][0] < parts[node][1]:
            _widen(step.wanted, item, parts[node])
        if item not in step.wanted:
            continue
        span = progress.fresh(item, step.wanted[item])
        if span[0] >= span[1]:
            continue
        step.new[item] = span
        delivered = span if item in progress.carried else parts.get(node, span)
        if node in parts and delivered[0] < delivered[1]:
            step.delivered[node] = delivered
        for _, x, window in reads[node]:
            needed = window.needs(span)
            if needed[0] < needed[1]:
                _widen(step.wanted, (x, window.axis), needed)
    for item, wanted in step.wanted.items():
        if item[0] not in spec.axis_of:
            span = progress.fresh(item, wanted)
            if span[0] < span[1]:
                step.new[item] = span
    return step


def _widen(spans: dict[Item, Span], item: Item, span: Span) -> None:
    old = spans.get(item)
    spans[item] = span if old is None else (min(old[0], span[0]), max(old[1], span[1]))


def kept_tails(schedule: Schedule) -> list[dict[Item, int]]:
    """For each step, from where each carried item must be kept for the steps after it."""
    tails: list[dict[Item, int]] = [{} for _ in schedule.steps]
    lowest: dict[Item, int] = {}
    for k in range(len(schedule.steps) - 1, -1, -1):
        tails[k] = dict(lowest)
        for item, span in schedule.steps[k].wanted.items():
            if item in schedule.carried:
                lowest[item] = min(lowest.get(item, span[0]), span[0])
    return tails
