"""Growths remembered by structure: what was found from one end serves every end that looks the same backwards.

A growth's state after some ops is named by a *step*: the axis it began with, and the tokens
(:mod:`vgcomp.slicing.structure`) of the ops taken in. All that a step knows is relative: bytes inside the
region, seconds, and which of its values lie over which of its operands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from torch import fx

from vgcomp.ir import Axis
from vgcomp.slicing.growth import Figures, Growth, Limits, Tables, slice_counts
from vgcomp.slicing.problem import Floats, Problem
from vgcomp.slicing.regions import Grow, Into, Placement
from vgcomp.slicing.structure import Structure

#: Steps kept before the memo starts anew: about 300 MB.
_MOST_STEPS = 400_000
#: Tokens are less than this, and so are ops.
_TOKENS = 1 << 24
#: The peak of a step that no region takes.
DEAD: Final = float("inf")

#: A value of a region: how far before the end its op, or one that reads it, stands; and as which operand (-1: its own).
_Ref = tuple[int, int]
_Pairs = tuple[tuple[_Ref, _Ref], ...]


@dataclass(frozen=True, slots=True)
class Relative:
    """:class:`Figures` with values named by where they stand in the region.

    ``placements``: by mode, numbers of what the memo has under ``placements``.
    """

    inner: Floats
    seconds: Floats
    fresh: tuple[int, int]
    placements: tuple[int, int]
    grow: tuple[_Ref, _Ref, int, int] | None


class Memo:
    """Steps by what led to them."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.structure = Structure(problem)
        self.tables: dict[tuple[int, ...], Tables] = {}
        #: (pairs of source and result, results with a buffer of their own).
        self.placements: list[tuple[_Pairs, tuple[_Ref, ...]]] = []
        self._forget()

    def _forget(self) -> None:
        self.roots: dict[Axis, int] = {}
        self.after: dict[int, int] = {}
        #: By step: least bytes live inside, over all ways of slicing; and the figures, where they were asked for.
        self.least: list[float] = []
        self.figures: list[Relative | None] = []
        self.placements.clear()
        self._numbers: dict[tuple[_Pairs, tuple[_Ref, ...]], int] = {}

    def make_room(self) -> None:
        """Forgets all when that is too much by now."""
        if len(self.least) > _MOST_STEPS:
            self._forget()

    def begin(self, axis: Axis) -> int:
        """The step before any op."""
        if axis not in self.roots:
            self.roots[axis] = self.new(0.0)
        return self.roots[axis]

    def new(self, least: float) -> int:
        """A step more; returns its number."""
        self.least.append(least)
        self.figures.append(None)
        return len(self.least) - 1

    def tables_of(self, options: tuple[int, ...]) -> Tables:
        """The tables of a tuple of slice counts."""
        if options not in self.tables:
            self.tables[options] = Tables(self.problem, options)
        return self.tables[options]

    def number(self, pairs: _Pairs, fresh: tuple[_Ref, ...]) -> int:
        """The number of a placement."""
        key = (pairs, fresh)
        if key not in self._numbers:
            self._numbers[key] = len(self.placements)
            self.placements.append(key)
        return self._numbers[key]


def memo_of(problem: Problem) -> Memo:
    """The problem's memo, made when first asked for."""
    if problem.memo is None:
        problem.memo = Memo(problem)
    return problem.memo


class Walk:
    """One growth: over what is known already as long as that goes, and in earnest from there on."""

    def __init__(self, problem: Problem, limits: Limits, end: int, axis: Axis) -> None:
        self.problem, self.limits, self.end, self.axis = problem, limits, end, axis
        self.memo = memo_of(problem)
        self.step = self.memo.begin(axis)
        self._growth: Growth | None = None
        self._placements: dict[int, Placement] = {}
        self._numbers: dict[Any, int] = {}

    def take(self, i: int) -> float:
        """Takes op i in; returns the least bytes then live inside the region, DEAD where it cannot be taken."""
        memo = self.memo
        small = self.problem.size[self.problem.nodes[i]] <= self.limits.small
        token = memo.structure.token(i, self.end - 1 - i)
        key = ((2 * self.step + small) * _TOKENS) + token
        step = memo.after.get(key)
        if step is None:
            step = memo.after[key] = memo.new(self._least(i))
        self.step = step
        return memo.least[step]

    def figures(self, first: int) -> Relative:
        """The figures of the region that starts here."""
        found = self.memo.figures[self.step]
        if found is None:
            found = self.memo.figures[self.step] = self._relative(self._grown(first).figures())
        return found

    def _least(self, i: int) -> float:
        growth = self._grown(i + 1)
        return float(growth.inner_peak().min()) if growth.add(i) else DEAD

    def _grown(self, first: int) -> Growth:
        if self._growth is None:
            tables = self.memo.tables_of(slice_counts(self.axis.extent))
            self._growth = Growth(self.problem, self.limits, self.end, self.axis, tables)
        for i in range(self._growth.first - 1, first - 1, -1):
            taken = self._growth.add(i)
            assert taken, f"op {i} was taken in before from an end that looks like {self.end}"
        return self._growth

    # -- values by where they stand

    def _relative(self, found: Figures) -> Relative:
        recompute, carry = (self._number(pairs, found.results) for pairs in found.into)
        grow = found.grow
        relative = (self._ref(grow.source), self._ref(grow.result), grow.saved, grow.extra) if grow else None
        return Relative(found.inner, found.seconds, found.fresh, (recompute, carry), relative)

    def _number(self, pairs: tuple[Into, ...], results: tuple[fx.Node, ...]) -> int:
        key = (results, *[(pair.source, pair.result) for pair in pairs])
        if key not in self._numbers:
            taken = {pair.result for pair in pairs}
            fresh = tuple(self._ref(node) for node in results if node not in taken)
            places = tuple((self._ref(pair.source), self._ref(pair.result)) for pair in pairs)
            self._numbers[key] = self.memo.number(places, fresh)
        return self._numbers[key]

    def _ref(self, node: fx.Node) -> _Ref:
        assert self._growth is not None
        index, first = self.problem.index, self._growth.first
        at = index.get(node, -1)
        if at >= first:
            return self.end - 1 - at, -1
        user = next(u for u in node.users if first <= index.get(u, -1) < self.end)
        return self.end - 1 - index[user], self.problem.amap.operands(user).index(node)

    def _node(self, ref: _Ref) -> fx.Node:
        op = self.problem.nodes[self.end - 1 - ref[0]]
        return op if ref[1] < 0 else self.problem.amap.operands(op)[ref[1]]

    def placement(self, number: int) -> Placement:
        """A placement in terms of this region's buffers."""
        if number not in self._placements:
            pairs, fresh = self.memo.placements[number]
            buffer = {ref: id(self.problem.buffer[self._node(ref)]) for pair in (*pairs, fresh) for ref in pair}
            taken = tuple((buffer[source], buffer[result]) for source, result in pairs)
            self._placements[number] = Placement(taken, tuple(buffer[ref] for ref in fresh))
        return self._placements[number]

    def grow(self, found: Relative) -> Grow | None:
        """The way to grow in terms of this region's values."""
        if found.grow is None:
            return None
        source, result, saved, extra = found.grow
        return Grow(self._node(result), self._node(source), saved, extra)
