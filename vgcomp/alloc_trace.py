"""Allocation traces: what a run asks of the allocator, in order, and the replay of it.

A trace is a sequence of events on *slots*, numbers that stand for storages. A loop is one event that holds a trace for
each way that its bodies are entered, and the order in which its steps run them; the replay stops repeating steps once
the allocator's state does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vgcomp.allocator import Block, CachingAllocator

#: What a storage is for.
Kind = Literal["weight", "input", "output", "temporary", "carry", "accumulator", "workspace"]
KINDS: tuple[Kind, ...] = ("weight", "input", "output", "temporary", "carry", "accumulator", "workspace")


@dataclass(frozen=True, slots=True)
class Alloc:
    """A storage of ``size`` bytes from the pool of a stream; none where that is 0."""

    slot: int
    size: int
    kind: Kind = "temporary"
    stream: int = 0


@dataclass(frozen=True, slots=True)
class Free:
    """The slot's storage goes, if it has one."""

    slot: int


@dataclass(frozen=True, slots=True)
class Move:
    """The storage of ``slot`` becomes that of ``to``, whose old one goes; ``kind`` is what it is for from now on."""

    slot: int
    to: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class Steps:
    """A loop: step i runs ``traces[order[i]]``. ``slots``: what its steps hand on to each other."""

    traces: tuple[Trace, ...]
    order: tuple[int, ...]
    slots: tuple[int, ...]


Event = Alloc | Free | Move | Steps
Trace = Sequence[Event]


@dataclass(slots=True)
class Replay:
    """Runs traces on an allocator. ``live``: bytes asked for and held, by kind; ``at_peak``: the same at their most."""

    allocator: CachingAllocator = field(default_factory=CachingAllocator)
    live: dict[Kind, int] = field(default_factory=lambda: defaultdict(int))
    at_peak: dict[Kind, int] = field(default_factory=dict)
    _held: dict[int, tuple[Block, Kind]] = field(default_factory=dict)

    def run(self, events: Iterable[Event]) -> Replay:
        """Replays the events, in order, after those of earlier calls. Returns itself."""
        for event in events:
            if isinstance(event, Alloc):
                self._alloc(event)
            elif isinstance(event, Free):
                self._free(event.slot)
            elif isinstance(event, Move):
                self._move(event)
            else:
                self._steps(event)
        return self

    def _alloc(self, event: Alloc) -> None:
        if event.size == 0:
            return
        assert event.slot not in self._held, "a slot is allocated once at a time"
        before = self.allocator.requested_peak
        self._held[event.slot] = (self.allocator.malloc(event.size, event.stream), event.kind)
        self.live[event.kind] += event.size
        if self.allocator.requested_peak > before:
            self.at_peak = dict(self.live)

    def _free(self, slot: int) -> None:
        found = self._held.pop(slot, None)
        if found is None:
            return
        block, kind = found
        self.live[kind] -= block.requested
        self.allocator.free(block)

    def _move(self, event: Move) -> None:
        self._free(event.to)
        found = self._held.pop(event.slot, None)
        if found is None:
            return
        block, kind = found
        self.live[kind] -= block.requested
        self.live[event.kind] += block.requested
        self._held[event.to] = (block, event.kind)

    def _steps(self, loop: Steps) -> None:
        """Runs the steps; where a state comes back with the same steps ahead, whole rounds of them are left out."""
        seen: dict[object, int] = {}
        order, i = loop.order, 0
        while i < len(order):
            key = self._state(loop)
            start = seen.get(key)
            if start is not None:
                i = _after_rounds(order, start, i)
                seen.clear()
                if i == len(order):
                    return
            seen[key] = i
            self.run(loop.traces[order[i]])
            i += 1

    def _state(self, loop: Steps) -> object:
        held = tuple(
            (slot, self._held[slot][0].address, self._held[slot][0].requested)
            for slot in loop.slots
            if slot in self._held
        )
        return self.allocator.state(), held


def _after_rounds(order: Sequence[int], start: int, now: int) -> int:
    """The step to go on with: ``now``, moved past every repetition of the steps from ``start`` to ``now``."""
    period = order[start:now]
    while order[now : now + len(period)] == period:
        now += len(period)
    return now
