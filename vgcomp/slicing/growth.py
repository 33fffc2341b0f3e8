"""Candidate regions: from each end and each axis of its result, backwards as far as the axis goes.

Growing a region by one op at its start costs one application of that op's axis rule and one update
of a liveness array, whatever the region's length. Each op in the region is in one of three roles:

- *sliced*: it carries the axis, with one consistent position and the halo its consumers need;
- *barrier*: a norm's statistics. All that leads to them runs once more, slice by slice, in a phase of its
  own before (the statistics merge exactly), and they are whole for what follows;
- *prologue*: small and needed whole (an embedding's projection): run once, before the loop.

Anything else ends the region.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import fx

from vgcomp import ir
from vgcomp.axes import Whole, Window
from vgcomp.inplace import can_write
from vgcomp.ir import Axis, own
from vgcomp.slicing.placing import grown, placed, placement
from vgcomp.slicing.problem import Floats, Problem
from vgcomp.slicing.regions import CARRY, RECOMPUTE, Grow, Into, Placement, Region

#: Phase bit of the region's results.
FINAL = 1


@dataclass
class Pending:
    """What consumers inside the region ask of a value, as yet outside of it."""

    axis: Axis
    halo: float = 0.0
    lag: float = 0.0
    phases: int = 0
    #: Largest window that reads it, minus one: what a line buffer must keep.
    tail: float = 0.0
    clash: bool = False


@dataclass(frozen=True)
class Figures:
    """A candidate's figures, see :class:`Candidates`."""

    peak: Floats
    seconds: Floats
    placements: tuple[Placement, Placement]
    grow: Grow | None


@dataclass
class Limits:
    """What is worth growing: ``hot[i]`` prefix counts of ops above the threshold; boundaries allowed."""

    threshold: int
    small: int
    hot_before: list[int]
    #: Ops that a region may hold after its last hot one.
    reach: int = 60
    #: Ops that a region may hold unless it ends at a waist.
    longest: int = 256
    #: Boundaries that little crosses.
    waists: frozenset[int] = frozenset()
    #: Boundaries at which a region may start.
    starts: frozenset[int] = frozenset()
    _places: dict[tuple[fx.Node, Axis], tuple[Any, ...] | None] = field(default_factory=dict)
    _seconds: dict[tuple[int, bytes], Floats] = field(default_factory=dict)

    def placement(self, node: fx.Node, axis: Axis) -> tuple[Any, ...] | None:
        """:func:`placement` of a node's value, remembered."""
        key = (node, axis)
        if key not in self._places:
            self._places[key] = placement(ir.val(node), axis)
        return self._places[key]

    def seconds_at(self, problem: Problem, i: int, fractions: Floats) -> Floats:
        """Seconds of op i on each of ``fractions`` of its elements, remembered."""
        key = (i, fractions.tobytes())
        found = self._seconds.get(key)
        if found is None:
            work, model = problem.works[i], problem.cost_model
            assert work is not None
            found = np.array([model.seconds_at(work, float(f)) for f in fractions])
            self._seconds[key] = found
        return found


def slice_counts(extent: int, most: int = 14) -> tuple[int, ...]:
    """Slice counts worth trying: distinct tile sizes, dense for few slices and geometric beyond."""
    wanted = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32, 40, 48, 64, 96, 128]
    tiles = dict.fromkeys(-(-extent // n) for n in wanted if n <= extent)
    counts = [-(-extent // t) for t in tiles]
    counts = [c for c in dict.fromkeys(counts) if c > 1]
    if len(counts) > most:
        picks = np.unique(np.linspace(0, len(counts) - 1, most).round().astype(int))
        counts = [counts[k] for k in picks]
    return tuple(counts)


@dataclass
class Growth:
    """A region being grown backwards from ``end``."""

    problem: Problem
    limits: Limits
    end: int
    axis: Axis
    options: tuple[int, ...]
    live: Floats = field(init=False)
    base: Floats = field(init=False)
    seconds: Floats = field(init=False)
    pending: dict[fx.Node, Pending] = field(default_factory=dict)
    whole: dict[fx.Node, int] = field(default_factory=dict)
    axis_of: dict[fx.Node, Axis] = field(default_factory=dict)
    phases_of: dict[fx.Node, int] = field(default_factory=dict)
    barriers: list[tuple[fx.Node, Axis]] = field(default_factory=list)
    prologue: list[fx.Node] = field(default_factory=list)
    foreign: list[fx.Node] = field(default_factory=list)
    outputs: dict[int, fx.Node] = field(default_factory=dict)
    covered: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counts = np.array(self.options, dtype=np.float64)
        self.live = np.zeros((2, len(self.options), 64))
        self.base = np.zeros((2, len(self.options)))
        self.seconds = np.zeros((2, len(self.options)))
        self.used = 0

    # -- liveness, position 0 is the region's last op

    def _add_live(self, first: int, last: int, size: Floats) -> None:
        lo, hi = self.end - 1 - last, self.end - 1 - first
        if hi >= self.live.shape[2]:
            grown = np.zeros((2, len(self.options), max(2 * self.live.shape[2], hi + 1)))
            grown[:, :, : self.live.shape[2]] = self.live
            self.live = grown
        self.live[:, :, lo : hi + 1] += size[:, :, None]

    def inner_peak(self, first: int) -> Floats:
        return self.live[:, :, : self.end - first].max(axis=2) + self.base  # type: ignore[no-any-return]

    # -- growth

    def add(self, i: int) -> bool:
        """Takes op i into the region; False when the region cannot start before i + 1."""
        node = self.problem.nodes[i]
        if ir.is_loop(node) or ir.is_getitem(node):
            return False
        wanted, whole = self.pending.get(node), node in self.whole
        if wanted is not None and not whole:
            return self._add_sliced(i, node, wanted)
        if whole and wanted is None:
            return self._add_whole(i, node)
        return wanted is None and not whole and self._add_foreign(i, node)

    def _add_sliced(self, i: int, node: fx.Node, wanted: Pending) -> bool:
        if wanted.clash:
            return False
        demands = self.problem.amap.demands(node, wanted.axis)
        if demands is None:
            return False
        operands = self.problem.amap.operands(node)
        for x, demand in zip(operands, demands, strict=True):
            if isinstance(demand, Whole) and x in self.axis_of:
                return False
        del self.pending[node]
        self.axis_of[node] = wanted.axis
        self.phases_of[node] = wanted.phases
        for x, demand in zip(operands, demands, strict=True):
            if isinstance(demand, Whole):
                self._ask_whole(x, wanted.phases)
            else:
                self._ask(x, demand, wanted)
        self._account(i, node, wanted)
        return True

    def _ask(self, x: fx.Node, window: Window, by: Pending) -> None:
        rate = window.mul / window.div
        halo = by.halo * rate + (window.last - window.first) if window.axis.extent > 1 else 0.0
        lag = by.lag * rate + max(0, window.last)
        if window.first == window.last:  # a shift (slice, concatenation), not a window
            halo, lag = by.halo * rate, by.lag * rate
        tail = max(0.0, window.last - window.first) if window.first != window.last else 0.0
        known = self.pending.get(x)
        if known is None:
            self.pending[x] = Pending(window.axis, halo, lag, by.phases, tail)
            return
        known.clash |= known.axis != window.axis
        known.tail = max(known.tail, tail, abs(known.lag - lag))
        known.halo, known.lag = max(known.halo, halo), max(known.lag, lag)
        known.phases |= by.phases

    def _ask_whole(self, x: fx.Node, phases: int) -> None:
        if x.op != "get_attr":
            self.whole[x] = self.whole.get(x, 0) | phases

    def _lengths(self, axis: Axis, wanted: Pending) -> Floats:
        """Elements of the axis that a slice holds, by mode and option."""
        tile = np.ceil(axis.extent / self.counts)
        both = np.stack((tile + wanted.halo, tile + wanted.lag))
        return np.minimum(both, axis.extent)  # type: ignore[no-any-return]

    def _account(self, i: int, node: fx.Node, wanted: Pending) -> None:
        """Adds the op's slice to the liveness array and its time to the total."""
        problem, axis = self.problem, wanted.axis
        buffer = problem.buffer[node]
        fraction = self._lengths(axis, wanted) / axis.extent
        size = fraction * self.problem.size[node]
        last = self._last_use(i, node)
        if not problem.is_view[i]:
            start = self.covered.get(id(buffer))
            self._add_live(i, last if start is None else start - 1, size)
            self.covered[id(buffer)] = i
        if problem.last[id(buffer)] >= self.end and id(buffer) not in self.outputs:
            self.outputs[id(buffer)] = node
        if wanted.tail:
            self._add_line_buffer(i, last, wanted, size[CARRY])
        self._add_seconds(i, wanted)

    def _add_line_buffer(self, i: int, last: int, wanted: Pending, fresh: Floats) -> None:
        """The tail kept between steps, and the fresh part joined to it: both exist while the join runs."""
        whole = float(self.problem.size[self.problem.nodes[i]])
        tail = np.minimum(fresh, wanted.tail / wanted.axis.extent * whole)
        self.base[CARRY] += tail
        self._add_live(i, last, np.stack((np.zeros_like(tail), tail)))
        self._add_live(i, i, np.stack((np.zeros_like(tail), fresh + tail)))

    def _last_use(self, i: int, node: fx.Node) -> int:
        """Index of the last op in the region that uses the node's buffer."""
        last, buffer = i, self.problem.buffer[node]
        stack = list(node.users)
        while stack:
            user = stack.pop()
            at = self.problem.index.get(user)
            if at is None or at >= self.end:
                continue
            last = max(last, at)
            if self.problem.buffer.get(user) is buffer and self.problem.is_view[at]:
                stack.extend(user.users)
        return last

    def _add_seconds(self, i: int, wanted: Pending) -> None:
        work = self.problem.works[i]
        if work is None or work.is_free:
            return
        runs = self.counts * wanted.phases.bit_count()
        even = 1.0 / self.counts
        steady = self.limits.seconds_at(self.problem, i, even)
        # A slice is at least one element of the axis, however few elements the op has of it.
        needed = np.minimum(1.0, np.maximum(1.0, wanted.axis.extent * even + wanted.halo) / wanted.axis.extent)
        repeated = self.limits.seconds_at(self.problem, i, needed)
        self.seconds[RECOMPUTE] += runs * repeated
        self.seconds[CARRY] += runs * steady
        if wanted.tail:
            out = self.problem.size[self.problem.nodes[i]]
            self.seconds[CARRY] += wanted.phases.bit_count() * self._copy_seconds(out)

    def _copy_seconds(self, size: float) -> Floats:
        target = self.problem.target
        return self.counts * target.launch_s + 2.0 * size / target.memory_bytes_per_s  # type: ignore[no-any-return]

    def _add_whole(self, i: int, node: fx.Node) -> bool:
        if node.target is own.group_moments.default:
            return self._add_barrier(i, node)
        return self._add_prologue(i, node)

    def _add_barrier(self, i: int, node: fx.Node) -> bool:
        """Statistics over the sliced axis: a phase of its own."""
        x = self.problem.amap.operands(node)[0]
        wanted = self.pending.get(x)
        if wanted is None or wanted.clash or wanted.axis.dim < 2:
            return False
        wanted.phases |= 1 << (len(self.barriers) + 1)
        self.barriers.append((node, wanted.axis))
        self.base += self.problem.size[node] * 2
        if self.problem.works[i] is not None:
            self.seconds += self.counts * self.limits.seconds_at(self.problem, i, 1.0 / self.counts)
        return True

    def _add_prologue(self, i: int, node: fx.Node) -> bool:
        size = self.problem.size[node]
        if size > self.limits.small or any(x in self.pending for x in self.problem.amap.operands(node)):
            return False
        for x in self.problem.amap.operands(node):
            self._ask_whole(x, FINAL)
        self.prologue.append(node)
        self.base += 0 if self.problem.is_view[i] else size
        self.seconds += self.problem.seconds[i]
        return True

    def _add_foreign(self, i: int, node: fx.Node) -> bool:
        """An op whose result is used only after the region: left out of the loop if it is small or a view."""
        operands = self.problem.amap.operands(node)
        if any(x in self.axis_of for x in operands):
            return False
        if not self.problem.is_view[i] and self.problem.size[node] > self.limits.small:
            return False
        if self.problem.is_view[i]:
            return False
        for x in operands:
            self._ask_whole(x, FINAL)
        self.foreign.append(node)
        self.seconds += self.problem.seconds[i]
        return True

    # -- candidates

    def figures(self, first: int) -> Figures | None:
        """What is predicted of the region that starts here, if one may."""
        results = self.results()
        if any(node not in self.axis_of for node in results):
            return None
        inner = self.inner_peak(first)
        if inner.min() + self.problem.crossing[first] > self.limits.threshold:
            return None  # wherever the results may lie
        outside = np.zeros((2, 1))
        seconds = self.seconds.copy()  # it goes on growing
        placements = []
        carried = placed(self, first, CARRY)
        haloed = any(wanted.halo for wanted in self.pending.values())
        for mode, pairs in enumerate((placed(self, first, RECOMPUTE) if haloed else carried, carried)):
            taken = {pair.result for pair in pairs}
            placements.append(self._placement(pairs))
            fresh = sum(self.problem.size[node] for node in results if node not in taken)
            outside[mode] = self.problem.crossing[first] + fresh
        for node in results:
            if not can_write(node) or self.axis_of[node].outer > 1:
                seconds = seconds + self._copy_seconds(self.problem.size[node])
        grow = grown(self, first)
        return Figures(inner + outside, seconds, (placements[0], placements[1]), grow)

    def _placement(self, pairs: tuple[Into, ...]) -> Placement:
        buffer = self.problem.buffer
        taken = tuple((id(buffer[p.source]), id(buffer[p.result])) for p in pairs)
        placed = {pair.result for pair in pairs}
        return Placement(taken, tuple(id(buffer[node]) for node in self.results() if node not in placed))

    def results(self) -> list[fx.Node]:
        """Values used after the region, less the views of what lies before it."""
        return [node for key, node in self.outputs.items() if key in self.covered]

    def region(self, first: int) -> Region:
        """The region as grown so far."""
        into = (placed(self, first, RECOMPUTE), placed(self, first, CARRY))
        return Region(
            first, self.end, self.axis, into, dict(self.axis_of), tuple(self.barriers), tuple(self.prologue),
            tuple(self.foreign), grown(self, first),
        )  # fmt: skip
