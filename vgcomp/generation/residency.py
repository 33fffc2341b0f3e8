"""Which stages' weights stay on the device, which come with their turn, and which op by op.

A stage whose weights leave the device during any other's turn is copied once a generation, so they may as well leave
during all others': what is to be decided is a set of stages, few enough to try every one. With the set given, each
stage has its own room and is planned alone. To plan costs seconds and a copy saves milliseconds, so

* sets are tried by what their copies cost, until what is left could not gain more than ``WORTH``;
* the first set is the empty one: rooms are largest there, and its answers bound all others' (slices may be a little
  faster than none; that is not counted on).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from vgcomp.generation.stage import Answer, Beside, Planner

#: The share of a generation's seconds that is worth planning stages again for.
WORTH = 1e-3
#: Stages up to which every set is tried; of more, those with the most weights are decided on and the rest kept out.
MOST_STAGES = 12


@dataclass(frozen=True)
class Link:
    """Between host and device. None: one memory, where nothing can be kept off the device."""

    bytes_per_s: float | None

    def seconds(self, size: int) -> float:
        """Of copying so many bytes to the device."""
        return 0.0 if self.bytes_per_s is None else size / self.bytes_per_s


@dataclass(frozen=True)
class Arrangement:
    """A joint plan. ``kept``: numbers of the stages whose weights stay; ``answers``: one a stage."""

    kept: frozenset[int]
    answers: tuple[Answer, ...]
    latency_s: float
    peak_bytes: int
    #: Number of the stage at the peak.
    peak_stage: int


@dataclass(frozen=True)
class Turn:
    """A stage's answer, and the seconds that it comes to in a generation, copies of weights in them."""

    answer: Answer
    seconds: float


@dataclass(frozen=True)
class Search:
    """Stages, what lies beside each, and the link. ``worth``: see :data:`WORTH`."""

    stages: Sequence[Planner]
    beside: Beside
    link: Link
    worth: float = WORTH

    @property
    def forced(self) -> frozenset[int]:
        """The stages whose weights must stay: all where there is but one memory."""
        return frozenset(range(len(self.stages))) if self.link.bytes_per_s is None else frozenset()

    def rooms(self, memory: int, kept: frozenset[int]) -> list[int]:
        """What a budget leaves each stage, its own weights to be in it."""
        return [memory - self.beside(i, kept - {i}) for i in range(len(self.stages))]

    def copy_s(self, i: int) -> float:
        """Seconds of copying all weights of a stage."""
        return self.link.seconds(self.stages[i].weight_bytes)


def arrange(search: Search, memory: int) -> Arrangement | None:
    """The least-latency arrangement within ``memory`` bytes, to within ``worth`` of it; None where none was found."""
    first = _turns(search, search.forced, memory)
    if first is None:
        return None
    best, chosen = search.forced, first
    seconds = _total(first)
    # What a stage that stays comes to at the least; None where not even alone it has room for all its weights.
    at_least = [_kept_bound(search, i, room) for i, room in enumerate(search.rooms(memory, search.forced))]
    for kept, bound in _sets(search, first, at_least):
        if bound >= seconds * (1 - search.worth):
            break  # the others come to more still
        found = _turns(search, kept, memory, (first, at_least), seconds - bound)
        if found is not None and _total(found) < seconds:
            best, chosen, seconds = kept, found, _total(found)
    return _arrangement(search, best, chosen)


def _total(turns: Sequence[Turn]) -> float:
    return sum(turn.seconds for turn in turns)


def _arrangement(search: Search, kept: frozenset[int], turns: Sequence[Turn]) -> Arrangement:
    needs = [turn.answer.need_bytes + search.beside(i, kept - {i}) for i, turn in enumerate(turns)]
    peak = max(range(len(needs)), key=needs.__getitem__)
    return Arrangement(kept, tuple(turn.answer for turn in turns), _total(turns), needs[peak], peak)


def _sets(
    search: Search, first: Sequence[Turn], at_least: Sequence[Turn | None]
) -> Iterator[tuple[frozenset[int], float]]:
    """Every other set of stages with the least that it can come to, the most promising first."""
    free = [i for i, turn in enumerate(at_least) if turn is not None and i not in search.forced]
    free = sorted(free, key=lambda i: -search.stages[i].weight_bytes)[:MOST_STAGES]
    saved = {i: first[i].seconds - turn.seconds for i in free if (turn := at_least[i]) is not None}
    total = _total(first)
    sets = [frozenset(chosen) for n in range(1, len(free) + 1) for chosen in combinations(free, n)]
    bounds = [(kept, total - sum(saved[i] for i in kept)) for kept in sets]
    yield from sorted(bounds, key=lambda pair: pair[1])


def _turns(
    search: Search,
    kept: frozenset[int],
    memory: int,
    known: tuple[Sequence[Turn], Sequence[Turn | None]] | None = None,
    spare: float = math.inf,
) -> list[Turn] | None:
    """Every stage's turn where a set stays; None where one does not fit.

    ``known``: turns that no other is faster than, of stages that go and that stay; ``spare``: seconds more than theirs
    from which the set is of no use.
    """
    rooms = search.rooms(memory, kept)
    if any(room < stage.floor_bytes for room, stage in zip(rooms, search.stages, strict=True)):
        return None
    found: list[Turn] = []
    for i, room in enumerate(rooms):
        bound = None if known is None else known[i in kept][i]
        turn = bound
        if bound is None or bound.answer.need_bytes > room:
            most = math.inf if bound is None else bound.seconds + spare
            turn = _stays(search, i, room, most) if i in kept else _goes(search, i, room, most)
        if turn is None:
            return None
        spare -= 0.0 if bound is None else turn.seconds - bound.seconds
        if spare <= 0:
            return None
        found.append(turn)
    return found


def _kept_bound(search: Search, i: int, room: int) -> Turn | None:
    return _stays(search, i, room, math.inf)


def _stays(search: Search, i: int, room: int, most: float) -> Turn | None:
    """A stage whose weights stay, in at most so many seconds a generation."""
    stage = search.stages[i]
    answer = stage.fastest(room, most / stage.runs)
    return None if answer is None else Turn(answer, stage.runs * answer.latency_s)


def _goes(search: Search, i: int, room: int, most: float) -> Turn | None:
    """A stage whose weights go: copied as a whole for all its runs, or op by op in each, whichever takes less."""
    stage, copy_s = search.stages[i], search.copy_s(i)
    whole = stage.fastest(room, (most - copy_s) / stage.runs) if most > copy_s else None
    best = None if whole is None else Turn(whole, copy_s + stage.runs * whole.latency_s)
    streamed = stage.fastest(room, (most if best is None else best.seconds) / stage.runs, streamed=True)
    if streamed is not None and (best is None or stage.runs * streamed.latency_s < best.seconds):
        best = Turn(streamed, stage.runs * streamed.latency_s)
    return best


@dataclass(frozen=True)
class Smallest:
    """The least memory that every stage gets through with. ``stage``: the number of the one that needs it."""

    need_bytes: int
    stage: int
    answer: Answer


def smallest(search: Search) -> Smallest:
    """The smallest feasible budget: as few weights beside each stage as can be.

    Only stages that do not fit what others need anyway are brought down as far as they go.
    """
    kept = search.forced
    beside = [search.beside(i, kept - {i}) for i in range(len(search.stages))]
    order = sorted(range(len(search.stages)), key=lambda i: -(search.stages[i].floor_bytes + beside[i]))
    found: Smallest | None = None
    for i in order:
        stage = search.stages[i]
        room = -math.inf if found is None else found.need_bytes - beside[i]
        if room >= stage.floor_bytes and _fits(search, i, int(room)):
            continue
        least = stage.smallest()
        need = least.need_bytes + beside[i]
        if found is None or need > found.need_bytes:
            found = Smallest(need, i, least)
    assert found is not None, "a generation has stages"
    return found


def _fits(search: Search, i: int, room: int) -> bool:
    turn = _stays if i in search.forced else _goes
    return turn(search, i, room, math.inf) is not None
