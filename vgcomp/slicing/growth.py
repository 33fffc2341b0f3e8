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

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import fx

from vgcomp import ir
from vgcomp.axes import Whole, Window, is_summed
from vgcomp.inplace import can_write
from vgcomp.ir import Axis, own
from vgcomp.slicing.inner import slice_inner
from vgcomp.slicing.placing import grown, placed
from vgcomp.slicing.problem import Floats, Problem
from vgcomp.slicing.regions import CARRY, RECOMPUTE, Grow, Into, Region

#: Phase bit of the region's results.
FINAL = 1


@dataclass
class Pending:
    """What consumers inside the region ask of a value, as yet outside of it.

    For a slice ``[0, n)`` of the results they read it from ``behind`` to ``n + ahead``, borders apart.
    """

    axis: Axis
    halo: float = 0.0
    behind: float = 0.0
    ahead: float = 0.0
    phases: int = 0
    #: Largest window that reads it, minus one: what a line buffer must keep.
    tail: float = 0.0
    clash: bool = False

    @property
    def lead(self) -> float:
        """With line buffers: elements that the first step computes beyond its own slice."""
        return max(0.0, self.ahead - max(0.0, self.behind))


@dataclass(frozen=True, slots=True)
class Figures:
    """What is predicted of a region, apart from what crosses it: bytes and seconds by mode and option.

    ``fresh``: bytes of the results that have a buffer of their own, by mode; ``into``: the others, likewise.
    """

    inner: Floats
    seconds: Floats
    fresh: tuple[int, int]
    into: tuple[tuple[Into, ...], tuple[Into, ...]]
    results: tuple[fx.Node, ...]
    grow: Grow | None


@dataclass
class Limits:
    """What is worth growing: ``hot[i]`` prefix counts of ops above the threshold; boundaries allowed."""

    threshold: int
    small: int
    hot_before: list[int]
    #: How many times too large a slice may be.
    hope: float = 1.0
    #: Ops that a region may hold after its last hot one.
    reach: int = 60
    #: Ops that a region may hold unless it ends at a waist.
    longest: int = 256
    #: Boundaries that little crosses.
    waists: frozenset[int] = frozenset()
    #: Boundaries at which a region may start.
    starts: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        self._starts = np.array(sorted(self.starts), dtype=np.int64)
        rises = np.flatnonzero(np.diff(self.hot_before))
        #: For each boundary, the one after the last hot op before it.
        self._after_hot = np.zeros(len(self.hot_before), dtype=np.int64)
        self._after_hot[rises + 1] = rises + 1
        self._after_hot = np.maximum.accumulate(self._after_hot)

    def starts_of(self, end: int, stop: int = 0) -> Sequence[int]:
        """Where the regions that end at ``end`` may start, the last first; none before ``stop``."""
        lowest = max(stop, 0 if end in self.waists else end - self.longest)
        if end - self._after_hot[end] > self.reach:
            return ()  # nothing hot lies close before
        lo, hi = np.searchsorted(self._starts, (lowest, self._after_hot[end]))
        found: list[int] = self._starts[lo:hi][::-1].tolist()
        return found


class Tables:
    """Arrays by number of slices that growths need again and again, remembered: one for each tuple of counts."""

    def __init__(self, problem: Problem, options: tuple[int, ...]) -> None:
        self.problem = problem
        self.counts = np.array(options, dtype=np.float64)
        self._fractions: dict[tuple[int, float, float], Floats] = {}
        self._seconds: dict[tuple[int, int, float, int], Floats] = {}
        self._at: dict[tuple[int, bytes], Floats] = {}

    def fractions(self, extent: int, halo: float, lead: float) -> Floats:
        """Share of an axis that a slice holds, by mode and option."""
        key = (extent, halo, lead)
        found = self._fractions.get(key)
        if found is None:
            tile = np.ceil(extent / self.counts)
            found = self._fractions[key] = np.minimum(np.stack((tile + halo, tile + lead)), extent) / extent
        return found

    def seconds(self, i: int, extent: int, halo: float, phases: int) -> Floats:
        """Seconds of op i in all slices and phases, by mode and option."""
        key = (self.problem.alike[i], extent, halo, phases)
        found = self._seconds.get(key)
        if found is None:
            runs, even = self.counts * phases, 1.0 / self.counts
            # A slice is at least one element of the axis, however few elements the op has of it.
            needed = np.minimum(1.0, np.maximum(1.0, extent * even + halo) / extent)
            repeated, steady = runs * self.seconds_at(i, needed), runs * self.seconds_at(i, even)
            found = self._seconds[key] = np.stack((repeated, steady))
        return found

    def seconds_at(self, i: int, fractions: Floats) -> Floats:
        """Seconds of op i on each of ``fractions`` of its elements."""
        key = (self.problem.alike[i], fractions.tobytes())
        found = self._at.get(key)
        if found is None:
            work, model = self.problem.works[i], self.problem.cost_model
            assert work is not None
            found = self._at[key] = np.array([model.seconds_at(work, float(f)) for f in fractions])
        return found


@functools.lru_cache(maxsize=4096)
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
    """A region being grown backwards from ``end``; ``first`` is where it starts by now."""

    problem: Problem
    limits: Limits
    end: int
    axis: Axis
    tables: Tables
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
        self.first = self.end
        self.counts = self.tables.counts
        shape = (2, len(self.counts))
        #: Bytes live at each op (0: the region's last) but for ``base``, and the most of them.
        self.live = np.zeros((64, *shape))
        self.most = np.zeros(shape)
        self.base = np.zeros(shape)
        self.seconds = np.zeros(shape)
        self.pending[self.problem.nodes[self.end - 1]] = Pending(self.axis, phases=FINAL)

    # -- liveness

    def _add_live(self, first: int, last: int, size: Floats) -> None:
        lo, hi = self.end - 1 - last, self.end - first
        if hi > len(self.live):
            longer = np.zeros((max(2 * len(self.live), hi), *self.base.shape))
            longer[: len(self.live)] = self.live
            self.live = longer
        if hi <= lo:
            return
        here = self.live[lo:hi]
        here += size
        # It only ever grows, so that the most is kept up to date by what has changed.
        np.maximum(self.most, here[0] if hi - lo == 1 else here.max(axis=0), out=self.most)

    def inner_peak(self) -> Floats:
        """Bytes live inside the region at the most, by mode and option."""
        return self.most + self.base  # type: ignore[no-any-return]

    # -- growth

    def add(self, i: int) -> bool:
        """Takes op i into the region; False when the region cannot start before i + 1."""
        node = self.problem.nodes[i]
        self.first = i
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
        # A value of few elements (the first frame, repeated before itself) is read to its end and no further.
        behind, ahead = by.behind * rate + window.first, min(by.ahead, by.axis.extent - 1) * rate + window.last
        if window.first == window.last:  # a shift (slice, concatenation), not a window
            halo = by.halo * rate
        tail = max(0.0, window.last - window.first) if window.first != window.last else 0.0
        known = self.pending.get(x)
        if known is None:
            self.pending[x] = Pending(window.axis, halo, behind, ahead, by.phases, tail)
            return
        known.clash |= known.axis != window.axis
        known.tail = max(known.tail, tail, min(abs(known.ahead - ahead), window.axis.extent - 1))
        known.halo, known.behind, known.ahead = (
            max(known.halo, halo),
            min(known.behind, behind),
            max(known.ahead, ahead),
        )
        known.phases |= by.phases

    def _ask_whole(self, x: fx.Node, phases: int) -> None:
        if x.op != "get_attr":
            self.whole[x] = self.whole.get(x, 0) | phases

    def _account(self, i: int, node: fx.Node, wanted: Pending) -> None:
        """Adds the op's slice to the liveness array and its time to the total."""
        problem, axis = self.problem, wanted.axis
        buffer = problem.buffer[node]
        fractions = self.tables.fractions(axis.extent, wanted.halo, wanted.lead)
        size = fractions * self.problem.size[node]
        always, scaled = slice_inner(problem, i, axis)
        if always or scaled:
            self._add_live(i, i, always + fractions * scaled)
        if is_summed(node, axis):
            size = np.full_like(size, self.problem.size[node])
            self.base += self.problem.size[node]  # beside the step's value and the old one there is the merged one
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
        self._add_live(i, i, np.stack((np.zeros_like(tail), fresh)))

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
        self.seconds += self.tables.seconds(i, wanted.axis.extent, wanted.halo, wanted.phases.bit_count())
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
            self.seconds += self.counts * self.tables.seconds_at(i, 1.0 / self.counts)
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

    def figures(self) -> Figures:
        """What is predicted of the region as grown so far."""
        results = self.results()
        carried = placed(self, CARRY)
        haloed = any(wanted.halo for wanted in self.pending.values())
        into = (placed(self, RECOMPUTE) if haloed else carried, carried)
        fresh = tuple(self._fresh_bytes(results, pairs) for pairs in into)
        seconds = self.seconds.copy()  # it goes on growing
        for node in results:
            if is_summed(node, self.axis_of[node]):
                seconds = seconds + self.counts * self._copy_seconds(self.problem.size[node])
            elif not can_write(node) or self.axis_of[node].outer > 1:
                seconds = seconds + self._copy_seconds(self.problem.size[node])
        return Figures(self.inner_peak(), seconds, (fresh[0], fresh[1]), into, tuple(results), grown(self))

    def _fresh_bytes(self, results: Sequence[fx.Node], pairs: tuple[Into, ...]) -> int:
        taken = {pair.result for pair in pairs}
        return sum(self.problem.size[node] for node in results if node not in taken)

    def results(self) -> list[fx.Node]:
        """Values used after the region, less the views of what lies before it."""
        return [node for key, node in self.outputs.items() if key in self.covered]

    def region(self) -> Region:
        """The region as grown so far."""
        into = (placed(self, RECOMPUTE), placed(self, CARRY))
        return Region(
            self.first, self.end, self.axis, into, dict(self.axis_of), tuple(self.barriers), tuple(self.prologue),
            tuple(self.foreign), grown(self),
        )  # fmt: skip
