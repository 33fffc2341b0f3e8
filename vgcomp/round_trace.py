"""The allocations of a pipelined loop's rounds, from those of its bodies' stages.

Engines keep no time with each other, so in a round the most that each stage holds may be held at one moment. A trace
shows that: up to where the stage of the slice furthest on holds most, then the next slice's stage in the same way, then
the rest. What a loop inside a stage holds at its most is then asked for in one piece, as nothing can come in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vgcomp.alloc_trace import Alloc, Event, Free, Move, Steps
from vgcomp.stages import rounds

#: The slot of what stands for the inside of a loop; one a stage, below those of weights.
_INSIDE = -(1 << 40)


@dataclass(frozen=True, slots=True)
class _Stage:
    """The events before the point where a stage holds most, those after; bytes that it holds inside a loop there."""

    before: tuple[Event, ...]
    after: tuple[Event, ...]
    inside: int
    stream: int


@dataclass
class StagedTrace:
    """One body, as entered in one way, by stages. ``left``: slots that a stage leaves to later ones."""

    events: Sequence[Sequence[Event]]
    stages: list[_Stage] = field(default_factory=list)
    left: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        sizes: dict[int, int] = {}
        for events in self.events:
            self.stages.append(_split(events, sizes))
            self.left |= sizes.keys()


def _split(events: Sequence[Event], sizes: dict[int, int]) -> _Stage:
    """Finds where a stage holds most; ``sizes``: the bytes of the slots held, kept up to date."""
    live = most = sum(sizes.values())
    at = inside = 0
    for i, event in enumerate(events):
        peak = live + _inner_peak(event)
        live = _apply(event, sizes, live)
        if max(peak, live) > most:
            most, at = max(peak, live), i if peak > live else i + 1
            inside = peak - live if peak > live else 0
    streams = [event.stream for event in events if isinstance(event, Alloc)]
    return _Stage(tuple(events[:at]), tuple(events[at:]), inside, streams[0] if streams else 0)


def _inner_peak(event: Event) -> int:
    """The most that a loop asks for beside what is held before it; 0 for any other event."""
    if not isinstance(event, Steps):
        return 0
    sizes: dict[int, int] = {}
    live = most = 0
    for k in event.order:
        for inner in event.traces[k]:
            most = max(most, live + _inner_peak(inner))
            live = _apply(inner, sizes, live)
            most = max(most, live)
    return most


def _apply(event: Event, sizes: dict[int, int], live: int) -> int:
    """Bytes held after an event. Slots that were there before are not known, and count nothing."""
    if isinstance(event, Alloc):
        sizes[event.slot] = event.size
        return live + event.size
    if isinstance(event, Free):
        return live - sizes.pop(event.slot, 0)
    if isinstance(event, Move):
        old = sizes.pop(event.to, 0)
        if event.slot in sizes:
            sizes[event.to] = sizes.pop(event.slot)
        return live - old
    for k in event.order:
        for inner in event.traces[k]:
            live = _apply(inner, sizes, live)
    return live


def round_steps(
    known: Mapping[object, StagedTrace], walked: Sequence[object], n_stages: int, handed: Sequence[int]
) -> Steps:
    """A trace for each kind of round, and their order.

    Step i goes as ``known[walked[i]]``; ``handed``: slots that steps hand on.
    """
    traces: dict[object, int] = {}
    found: list[tuple[Event, ...]] = []
    order: list[int] = []
    for running in rounds(len(walked), n_stages):
        key = tuple((stage, walked[i]) for stage, i in running)
        if key not in traces:
            traces[key] = len(found)
            found.append(tuple(_together([known[walked[i]].stages[stage] for stage, i in running])))
        order.append(traces[key])
    left = sorted({slot for trace in known.values() for slot in trace.left} - set(handed))
    return Steps(tuple(found), tuple(order), (*handed, *left))


def _together(stages: Sequence[_Stage]) -> Iterator[Event]:
    if not stages:
        return
    first, rest = stages[0], stages[1:]
    slot = _INSIDE - len(rest)
    yield from first.before
    if first.inside:
        yield Alloc(slot, first.inside, "temporary", first.stream)
    yield from _together(rest)
    if first.inside:
        yield Free(slot)
    yield from first.after
