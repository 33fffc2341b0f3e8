"""The least-latency plan under a budget: a shortest path over boundaries.

An edge is one unsliced op, or one region with a way to slice it. The bytes live while an edge runs depend
on that edge and nothing else in the plan, so a budget only removes edges, and the front of
memory against latency comes from the same edges again and again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import fx

from vgcomp.ir import Axis
from vgcomp.slicing.candidates import grow_regions, region_at
from vgcomp.slicing.choices import Choice, Plan
from vgcomp.slicing.emit import BuiltLoop
from vgcomp.slicing.growth import Limits
from vgcomp.slicing.hopes import hopes_of
from vgcomp.slicing.memo import memo_of
from vgcomp.slicing.problem import Bools, Floats, Ints, Problem
from vgcomp.slicing.regions import CARRY, GROW, RECOMPUTE, Candidates, Placement, Region, joined
from vgcomp.slicing.seeds import seed_axes
from vgcomp.slicing.shortest import shortest

#: Ops that a reservation may last, at the most.
_RESERVED_FOR = 150
#: A boundary that at most this share of the budget crosses is a waist.
_WAIST = 0.1


class PlanSpace:
    """All edges of a problem above a threshold of interest, and the exact peaks of those that were built."""

    def __init__(self, problem: Problem, limits: Limits, candidates: Sequence[Candidates]) -> None:
        self.problem = problem
        self.limits = limits
        self.candidates = sorted(candidates, key=lambda c: c.end)
        grids = [_grid(c, k, limits.threshold) for k, c in enumerate(self.candidates)]
        table = np.concatenate(grids) if grids else np.zeros((0, 7))
        self.first = table[:, 0].astype(np.int64)
        self.peak, self.seconds = table[:, 1].copy(), table[:, 2]
        #: Bytes of each buffer, by id.
        self.sizes = {id(buffer): buffer.size for buffer in problem.buffer.values()}
        #: Loops written so far, by edge and statistics node (None: the results' loop).
        self.built: dict[tuple[int, fx.Node | None], BuiltLoop] = {}
        #: (candidates, mode, option) of each edge, and which of the candidates' starts it has.
        self.which = table[:, 3:6].astype(np.int64)
        self.start = table[:, 6].astype(np.int64)
        #: Edges of one kind begin, end and place their results alike; those that grow have none.
        kinds, self.kind = _kinds(self.candidates, self.which, self.start)
        self.n_kinds = len(kinds)
        #: Buffers (by id) that edges of a kind make: rows of (kind, buffer); and take over: (kind, source, result).
        self.makes = _table([(number, b) for (_, _, placement), number in kinds.items() for b in placement.fresh], 2)
        pairs = [(number, *pair) for (_, _, placement), number in kinds.items() for pair in placement.taken]
        self.takes = _table(pairs, 3)
        #: By the id of a result's buffer: the buffers that it may be taken over from.
        self.sources: dict[int, set[int]] = {}
        for _, source, result in pairs:
            self.sources.setdefault(result, set()).add(source)
        settled = np.nonzero(self.which[:, 1] != GROW)[0]
        #: The edges that do not grow, fastest first.
        self.by_seconds = settled[np.argsort(self.seconds[settled], kind="stable")]
        ends = np.repeat([c.end for c in self.candidates], [len(g) for g in grids]) if grids else np.zeros(0)
        self.end = ends.astype(np.int64)
        #: Edges ``span[j]:span[j + 1]`` end at boundary j.
        self.span = np.searchsorted(ends, np.arange(problem.n + 2))

    def best(self, budget: int) -> Plan | None:
        """The least-latency plan whose every edge stays within ``budget`` bytes; None if there is none."""
        return shortest(self, budget)

    def choice(self, edge: int) -> Choice:
        """An edge as a choice."""
        index, mode, k = (int(v) for v in self.which[edge])
        found = self.candidates[index]
        first, n_slices = int(self.first[edge]), found.options[k]
        peak, seconds = int(self.peak[edge]), float(self.seconds[edge])
        return Choice(edge, first, found.end, found.axis, n_slices, mode == CARRY, peak, seconds, mode == GROW)

    def region(self, choice: Choice) -> Region:
        """The chosen region in full."""
        return region_at(self.problem, self.limits, choice.end, choice.axis, choice.first)

    def forbid(self, choice: Choice) -> None:
        """Takes an edge out, and those that slice the same region the same way into other numbers."""
        lo, hi = self.span[choice.end], self.span[choice.end + 1]
        kin = np.all(self.which[lo:hi, :2] == self.which[choice.edge, :2], axis=1)
        self.peak[lo:hi][kin & (self.start[lo:hi] == self.start[choice.edge])] = np.inf

    def correct(self, choice: Choice, actual: int) -> None:
        """Replaces an edge's predicted peak by what the built loop takes, and scales its kin alike."""
        index, mode, _ = self.which[choice.edge]
        actual, predicted = actual - choice.extra, choice.peak - choice.extra
        lo, hi = self.span[choice.end], self.span[choice.end + 1]
        kin = (self.which[lo:hi, 0] == index) & (self.which[lo:hi, 1] == mode) & (self.first[lo:hi] == choice.first)
        outside = float(self.problem.crossing[choice.first])
        inside = np.maximum(self.peak[lo:hi] - outside, 0.0)
        ratio = max(1.0, (actual - outside) / max(1.0, predicted - outside))
        self.peak[lo:hi] = np.where(kin, outside + inside * ratio, self.peak[lo:hi])
        self.peak[choice.edge] = actual


def _table(rows: Sequence[tuple[int, ...]], width: int) -> Ints:
    return np.array(rows, dtype=np.int64).reshape(-1, width)


def _kinds(
    candidates: Sequence[Candidates], which: Ints, start: Ints
) -> tuple[dict[tuple[int, int, Placement], int], Ints]:
    """A number for each edge, the same where end, start and placement of results are; and what it stands for."""
    numbers: dict[tuple[int, int, Placement], int] = {}
    begins: list[int] = []
    flat: list[int] = []
    for found in candidates:
        begins.append(len(flat))
        for first, placements in zip(found.firsts, found.placements, strict=True):
            flat.extend(numbers.setdefault((found.end, first, p), len(numbers)) for p in placements)
    if not flat:
        return numbers, np.zeros(0, dtype=np.int64)
    modes = np.minimum(which[:, 1], CARRY)  # edges that grow place their result otherwise; nobody asks
    return numbers, np.array(flat)[np.array(begins)[which[:, 0]] + 2 * start + modes]


def _grid(found: Candidates, index: int, most: int) -> Floats:
    """One row an edge: first, peak, seconds, index, mode, option, start; dominated ways of slicing left out.

    Nor is there one for what takes more than ``most`` bytes.
    """
    starts, _, options = found.peak.shape
    peak, seconds = found.peak.reshape(starts, -1), found.seconds.reshape(starts, -1)
    order = np.argsort(seconds, axis=1, kind="stable")
    sorted_peak = np.take_along_axis(peak, order, axis=1)
    lowest = np.minimum.accumulate(sorted_peak, axis=1)
    keep = np.ones_like(order, dtype=bool)
    keep[:, 1:] = sorted_peak[:, 1:] < lowest[:, :-1]
    row, column = np.nonzero(keep)
    which = order[row, column]
    rows = [np.column_stack((row, peak[row, which], seconds[row, which], which // options, which % options))]
    for start, grow in enumerate(found.grows):
        if grow is not None:
            less = found.peak[start, RECOMPUTE] - grow.saved
            mode, each = np.full(options, GROW), np.arange(options)
            rows.append(np.column_stack((np.full(options, start), less, found.seconds[start, RECOMPUTE], mode, each)))
    table = np.concatenate(rows)
    table = table[table[:, 1] <= most]
    firsts = np.asarray(found.firsts)[table[:, 0].astype(np.int64)]
    return np.column_stack((firsts, table[:, 1:3], np.full(len(table), index), table[:, 3:], table[:, 0]))


def plan_space(problem: Problem, low: int, high: int, hope: float = 1.0) -> PlanSpace:
    """The edges that plans for budgets from ``low`` to ``high`` bytes may want.

    A region must hold an op whose unsliced peak is above ``low``, and at most ``high`` bytes may cross
    its ends. Where a buffer may be reserved for a later result, the ops that run meanwhile have that much less.
    With ``hope`` above 1, regions whose slices take up to that much more are let in as hopes (:mod:`.hopes`).
    """
    starts = frozenset(_cuts(problem, high))
    ends = frozenset(_end_before(problem, j) for j in starts if j > 0)
    waists = frozenset(j for j in ends if problem.crossing[j] <= _WAIST * high)
    hot = problem.plain_peak > low
    limits = Limits(high, max(low // 400, 1 << 12), _counted(hot), hope, waists=waists, starts=starts)
    seeds = seed_axes(problem)
    memo_of(problem).make_room()
    found = dict(_candidates(problem, limits, sorted(ends), seeds))
    hotter = hot | _beside_reservations(problem, found.values(), low, high)
    if hotter.any() and (hotter != hot).any():
        earlier, limits = limits, replace(limits, hot_before=_counted(hotter))
        again = [j for j in sorted(ends) if (hotter & ~hot)[max(0, j - limits.reach) : j].any()]
        stop = _hot_already(earlier, hot)
        for key, more in _candidates(problem, limits, again, seeds, stop):
            found[key] = joined(more, found[key]) if stop[key[0]] and key in found else more
    if hope > 1:
        sizes = {id(buffer): buffer.size for buffer in problem.buffer.values()}
        hopes = [more for each in found.values() for more in hopes_of(problem, limits, each, low, sizes)]
        return PlanSpace(problem, limits, [*found.values(), *hopes])
    return PlanSpace(problem, limits, list(found.values()))


def _counted(hot: Bools) -> list[int]:
    """How many hot ops lie before each boundary."""
    return [0, *np.cumsum(hot).tolist()]


def _hot_already(limits: Limits, hot: Bools) -> list[int]:
    """For each end, where regions had begun to hold a hot op already: those that start before it are known."""
    last = np.maximum.accumulate(np.where(hot, np.arange(1, len(hot) + 1), 0)).tolist()
    return [h if h > max(0, end - limits.reach) else 0 for end, h in enumerate([0, *last])]


def _candidates(
    problem: Problem,
    limits: Limits,
    ends: Sequence[int],
    seeds: Mapping[fx.Node, Sequence[Axis]],
    stop: Sequence[int] | None = None,
) -> Iterator[tuple[tuple[int, Axis], Candidates]]:
    for end in ends:
        if not limits.starts_of(end, stop[end] if stop else 0):
            continue
        for axis in seeds[problem.nodes[end - 1]]:
            candidates = grow_regions(problem, limits, end, axis, stop[end] if stop else 0)
            if candidates is not None:
                yield (end, axis), candidates


def _beside_reservations(problem: Problem, found: Iterable[Candidates], low: int, high: int) -> Bools:
    """Ops that are too much beside a buffer reserved for a region which begins not long after them."""
    beside = np.zeros(problem.n, dtype=bool)
    for candidates in found:
        for first, grow, peak in zip(candidates.firsts, candidates.grows, candidates.peak[:, RECOMPUTE], strict=True):
            if grow is None or peak.min() - grow.saved > high:
                continue
            since = max(0, first - _RESERVED_FOR)
            beside[since:first] |= problem.plain_peak[since:first] > low - grow.extra
    return beside


def _end_before(problem: Problem, start: int) -> int:
    """The same cut as an end: right after the last op with a storage of its own, before any views."""
    while start > 1 and problem.is_view[start - 1]:
        start -= 1
    return start


def _cuts(problem: Problem, threshold: int) -> Iterator[int]:
    """Boundaries worth cutting at: few enough bytes cross, and not amid a chain along which as many cross.

    Along a chain (elementwise ops, say) a cut in the middle materialises as much as one at either end. Where the
    op after the cut reads nothing of the one before (a norm of the queries and then one of the keys), no region
    could hold both, and the cut stays.
    """
    crossing = problem.crossing
    solid = [j for j in range(problem.n) if not problem.is_view[j]]
    for before, j, after in zip([0, *solid], solid, [*solid[1:], problem.n], strict=False):
        level = crossing[before] == crossing[j] == crossing[after]
        if crossing[j] <= threshold and not (level and _reads(problem, j, before)):
            yield j
    yield problem.n


def _reads(problem: Problem, j: int, before: int) -> bool:
    """True where op j reads the buffer that op ``before`` makes."""
    made = problem.buffer.get(problem.nodes[before])
    return any(problem.buffer.get(x) is made for x in problem.nodes[j].all_input_nodes)
