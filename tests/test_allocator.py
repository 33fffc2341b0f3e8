"""The caching allocator, rule by rule, against sequences worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vgcomp.alloc_trace import Alloc, Event, Free, Move, Replay, Steps
from vgcomp.allocator import CachingAllocator, OutOfDeviceMemory, rounded_size, segment_size

KIB, MIB = 1 << 10, 1 << 20


@pytest.mark.parametrize(
    ("size", "rounded", "segment"),
    [
        (1, 512, 2 * MIB),
        (512, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),
        (11 * MIB, 11 * MIB, 12 * MIB),
    ],
)
def test_sizes_and_the_segments_made_for_them(size: int, rounded: int, segment: int) -> None:
    assert (rounded_size(size), segment_size(rounded_size(size))) == (rounded, segment)
    allocator = CachingAllocator()
    allocator.malloc(size)
    assert allocator.reserved_bytes == segment


def test_small_ones_share_a_segment_and_are_split_down_to_512_bytes() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.malloc(512 * KIB) for _ in range(4)]
    assert allocator.reserved_bytes == 2 * MIB
    assert [block.address for block in blocks] == [0, 512 * KIB, 1024 * KIB, 1536 * KIB]
    assert allocator.state() == ((), ())
    allocator.malloc(1)
    assert allocator.reserved_bytes == 4 * MIB


def test_a_large_block_is_split_only_where_more_than_a_mebibyte_remains() -> None:
    allocator = CachingAllocator()
    whole = allocator.malloc(19 * MIB + 1)
    assert (whole.size, allocator.reserved_bytes) == (20 * MIB, 20 * MIB)
    allocator.free(whole)
    kept = allocator.malloc(19 * MIB)  # leaves 1 MiB, which is not more than 1 MiB
    assert (kept.size, allocator.allocated_bytes, allocator.requested_bytes) == (20 * MIB, 20 * MIB, 19 * MIB)
    allocator.free(kept)
    assert allocator.malloc(19 * MIB - 512).size == 19 * MIB - 512
    assert allocator.reserved_peak == 20 * MIB


def test_the_best_fit_is_taken_the_lowest_of_equals() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.malloc(size * MIB) for size in (40, 30, 30, 12)]
    for block in blocks:
        allocator.free(block)
    taken = allocator.malloc(25 * MIB)
    assert taken.address == blocks[1].address
    assert allocator.malloc(25 * MIB).address == blocks[2].address
    assert allocator.malloc(13 * MIB).address == blocks[0].address  # 12 and the two rests of 5 are too small
    assert allocator.reserved_bytes == 112 * MIB


def test_small_requests_never_take_from_the_large_pool() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(20 * MIB))
    allocator.malloc(MIB)
    assert allocator.reserved_bytes == 22 * MIB


def test_freed_neighbours_join_within_their_segment_only() -> None:
    allocator = CachingAllocator()
    first, second, third = (allocator.malloc(6 * MIB) for _ in range(3))
    other = allocator.malloc(20 * MIB)
    allocator.free(first)
    allocator.free(third)  # joins the 2 MiB behind it
    assert allocator.state()[0] == ((6 * MIB, 0), (8 * MIB, 12 * MIB))
    allocator.free(second)
    allocator.free(other)
    assert allocator.state()[0] == ((20 * MIB, 0), (20 * MIB, 20 * MIB))


def test_only_whole_segments_go_back() -> None:
    allocator = CachingAllocator()
    kept, dropped = allocator.malloc(6 * MIB), allocator.malloc(30 * MIB)
    allocator.free(dropped)
    allocator.empty_cache()
    assert (allocator.reserved_bytes, allocator.reserved_peak) == (20 * MIB, 50 * MIB)
    allocator.free(kept)
    allocator.empty_cache()
    assert allocator.reserved_bytes == 0


def test_at_the_limit_cached_segments_are_given_back_first() -> None:
    allocator = CachingAllocator(limit=50 * MIB)
    allocator.free(allocator.malloc(30 * MIB))
    allocator.malloc(40 * MIB)
    assert allocator.reserved_bytes == 40 * MIB
    with pytest.raises(OutOfDeviceMemory):
        allocator.malloc(12 * MIB)


def test_a_carry_takes_the_place_of_the_one_before() -> None:
    body: tuple[Event, ...] = (Alloc(1, 600), Move(1, 0, "carry"))
    replay = Replay().run([Steps((body,), (0,) * 5, (0,))])
    assert replay.live["carry"] == 600
    assert replay.allocator.requested_peak == 1200


def test_equal_steps_are_not_replayed_again_and_again() -> None:
    class Counting(list[Event]):
        runs = 0

        def __iter__(self):  # type: ignore[no-untyped-def]
            type(self).runs += 1
            return super().__iter__()

    body = Counting([Alloc(1, 3 * MIB), Alloc(2, 600), Move(2, 0, "carry"), Free(1)])
    steps = Steps((body,), (0,) * 100_001, (0,))  # type: ignore[arg-type]
    found = Replay().run([steps]).allocator
    assert Counting.runs < 10
    plain = Replay().run([event for _ in range(11) for event in body]).allocator
    assert found.reserved_peak == plain.reserved_peak
    assert found.state() == plain.state()


@st.composite
def traces(draw: st.DrawFn) -> list[Event]:
    sizes = st.one_of(st.integers(1, 4 * KIB), st.integers(900 * KIB, 1200 * KIB), st.integers(1, 40 * MIB))
    events: list[Event] = []
    held: list[int] = []
    for slot in range(draw(st.integers(1, 30))):
        events.append(Alloc(slot, draw(sizes)))
        held.append(slot)
        for other in draw(st.lists(st.sampled_from(held), unique=True, max_size=3)):
            held.remove(other)
            events.append(Free(other))
    return events


@settings(max_examples=150, deadline=None)
@given(traces())
def test_reserved_holds_allocated_holds_requested(events: list[Event]) -> None:
    replay = Replay()
    for event in events:
        allocator = replay.run([event]).allocator
        assert allocator.reserved_bytes >= allocator.allocated_bytes >= allocator.requested_bytes
        assert sum(replay.live.values()) == allocator.requested_bytes
        free = sum(size for pool in allocator.state() for size, _ in pool)
        assert allocator.reserved_bytes == allocator.allocated_bytes + free
    replay.run([Free(event.slot) for event in events if isinstance(event, Alloc)])
    replay.allocator.empty_cache()
    assert (allocator.reserved_bytes, allocator.allocated_bytes) == (0, 0)


@settings(max_examples=100, deadline=None)
@given(traces(), st.integers(1, 7))
def test_a_loop_is_its_steps_one_after_the_other(events: list[Event], times: int) -> None:
    body = [*events, *(Free(event.slot) for event in events if isinstance(event, Alloc))]
    looped = Replay().run([Steps((tuple(body),), (0,) * times, ())]).allocator
    plain = Replay().run(body * times).allocator
    assert looped.state() == plain.state()
    assert looped.reserved_peak == plain.reserved_peak
    assert looped.allocated_peak == plain.allocated_peak
