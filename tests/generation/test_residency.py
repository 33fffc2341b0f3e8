"""Which weights stay, on made-up stages: the budget holds, and nothing better exists."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.generation.made_up import MadeUp, search_of
from vgcomp.generation.residency import Link, Search, arrange, smallest
from vgcomp.generation.stage import Answer

LINK = Link(10.0)
NOTHING = (None, 0.0)


@st.composite
def stages(draw: st.DrawFn) -> list[MadeUp]:
    """One to four stages, each with a few ways, some of them with streamed weights."""
    found = []
    for i in range(draw(st.integers(1, 4))):
        weights = draw(st.integers(0, 50))
        whole = draw(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), min_size=1, max_size=3))
        streamed = draw(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), max_size=2))
        ways = [Answer(weights + size, float(seconds)) for size, seconds in whole]
        ways += [Answer(size, seconds + LINK.seconds(weights), streamed=True) for size, seconds in streamed]
        found.append(MadeUp(f"stage {i}", draw(st.integers(1, 5)), weights, tuple(ways)))
    return found


def every_arrangement(search: Search) -> Iterator[tuple[int, float]]:
    """(memory, seconds) of every set of stages that stay with every way to run each."""
    n = len(search.stages)
    for stay in product((False, True), repeat=n):
        kept = frozenset(i for i in range(n) if stay[i])
        if not search.forced <= kept:
            continue
        for ways in product(*(stage.ways for stage in search.stages)):  # type: ignore[attr-defined]
            if any(way.streamed and (i in kept or search.link.bytes_per_s is None) for i, way in enumerate(ways)):
                continue
            needs = [way.need_bytes + search.beside(i, kept - {i}) for i, way in enumerate(ways)]
            copies = sum(search.copy_s(i) for i, way in enumerate(ways) if i not in kept and not way.streamed)
            runs = sum(stage.runs * way.latency_s for stage, way in zip(search.stages, ways, strict=True))
            yield max(needs), runs + copies


@pytest.mark.parametrize("link", [LINK, Link(None)], ids=["host and device", "one memory"])
@settings(deadline=None, max_examples=60)
@given(data=st.data(), budget=st.integers(0, 200))
def test_an_arrangement_holds_the_budget_and_none_is_faster(link: Link, data: st.DataObject, budget: int) -> None:
    made = data.draw(stages())
    search = search_of(made, data.draw(st.lists(st.integers(0, 9), min_size=len(made), max_size=len(made))), link)
    best = min((seconds for memory, seconds in every_arrangement(search) if memory <= budget), default=None)
    found = arrange(search, budget)
    if best is None:
        assert found is None
        return
    assert found is not None
    assert found.peak_bytes <= budget
    assert found.latency_s == pytest.approx(best)


@pytest.mark.parametrize("link", [LINK, Link(None)], ids=["host and device", "one memory"])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_the_smallest_budget_is_the_smallest(link: Link, data: st.DataObject) -> None:
    made = data.draw(stages())
    if link.bytes_per_s is None:
        made = [MadeUp(s.name, s.runs, s.weight_bytes, tuple(way for way in s.ways if not way.streamed)) for s in made]
    search = search_of(made, [1] * len(made), link)
    least = smallest(search)
    assert least.need_bytes == min(memory for memory, _ in every_arrangement(search))
    assert arrange(search, least.need_bytes) is not None
    assert arrange(search, least.need_bytes - 1) is None


def test_what_cannot_gain_enough_is_not_planned_again() -> None:
    """With everything off the device all fits at once; to keep anything would save a thousandth."""
    one = MadeUp("a", 1, 10, (Answer(60, 1000.0), Answer(50, 1000.1)))
    two = MadeUp("b", 1, 10, (Answer(60, 1000.0),))
    search = search_of([one, two], [0, 0], Link(10.0), worth=0.01)
    found = arrange(search, 60)
    assert found is not None
    assert found.kept == frozenset()
    assert found.latency_s == 2002.0
    # Once for each stage as it is wanted first, by either form, and once to stay.
    assert (one.asked, two.asked) == (3, 3)
