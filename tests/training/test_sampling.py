"""What is drawn for an iteration: seeded, over all costs and resolutions, the largest first."""

from collections import Counter

import pytest

from vgcomp.errors import UsageError
from vgcomp.space import Choice, Space
from vgcomp.training.sampling import Plan, SubnetSampler, largest, smallest

WIDTHS = (1, 2, 4, 8)
SPACE = Space("test", "test", tuple(Choice(f"width.{n}", WIDTHS) for n in range(6)))


def sampler(**changes) -> SubnetSampler:
    return SubnetSampler(SPACE, Plan(**changes))


def test_a_draw_depends_on_seed_and_iteration_alone():
    one, again, other = sampler(seed=1), sampler(seed=1), sampler(seed=2)
    later = [one.draw(i) for i in range(20)][10:]
    assert later == [again.draw(i) for i in range(10, 20)]
    assert later != [other.draw(i) for i in range(10, 20)]


def test_the_warm_up_starts_at_the_largest_and_opens_every_option():
    drawn = sampler(warmup=300)
    assert all(drawn.draw(0) == largest(SPACE) for _ in range(3)) and drawn.opened(0).size == 1
    sizes = [drawn.opened(i).size for i in range(0, 301, 50)]
    assert sizes == sorted(sizes) and sizes[-1] == SPACE.size
    assert drawn.opened(100).choices[0].options == (4, 8) and drawn.opened(200).choices[0].options == (2, 4, 8)
    assert sampler().opened(0) == SPACE


def test_resolutions_are_drawn_evenly_and_open_from_the_start():
    space = Space("test", "test", (Choice("resolution", (16, 32, 64)), *SPACE.choices))
    drawn = SubnetSampler(space, Plan(warmup=1000))
    counts = Counter(drawn.draw(i)[0] for i in range(900))
    assert all(counts[size] == pytest.approx(300, abs=45) for size in (16, 32, 64))


def test_costs_are_laid_over_the_whole_range_and_options_stay_even():
    def drawn(**changes):
        one = sampler(**changes)
        return [one.draw(i) for i in range(1200)]

    def bands(candidates):
        shares = [sum(SPACE.genes(candidate)) / (3 * len(SPACE.choices)) for candidate in candidates]
        return Counter(min(3, int(4 * share)) for share in shares)

    superposed, alone = drawn(), drawn(superposed=False)
    assert min(bands(superposed)[n] for n in range(4)) > 200
    # Drawn by themselves, options hardly ever add up to the cheapest or the dearest quarter.
    assert max(bands(alone)[0], bands(alone)[3]) < 100
    for place in range(len(SPACE.choices)):
        counts = Counter(candidate[place] for candidate in superposed)
        assert all(counts[width] == pytest.approx(300, abs=60) for width in WIDTHS)
    assert smallest(SPACE) in superposed and largest(SPACE) in superposed


def test_a_plan_that_cannot_be_is_one_line():
    with pytest.raises(UsageError, match="a warm-up has"):
        Plan(warmup=-1)
