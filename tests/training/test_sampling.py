"""What is drawn for an iteration: seeded, over all costs and resolutions, the largest first."""

import math
from collections import Counter

import pytest

from vgcomp.errors import UsageError
from vgcomp.space import Choice, Space
from vgcomp.training.sampling import Plan, SubnetSampler, largest, smallest

WIDTHS = (1, 2, 4, 8)
SPACE = Space("test", "test", tuple(Choice(f"width.{n}", WIDTHS) for n in range(6)))


def cost(candidate):
    return float(sum(candidate))


def sampler(**changes) -> SubnetSampler:
    return SubnetSampler(SPACE, Plan(**changes), cost)


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
    drawn = SubnetSampler(space, Plan(warmup=1000), lambda candidate: cost(candidate[1:]))
    counts = Counter(drawn.draw(i)[0] for i in range(900))
    assert all(counts[size] == pytest.approx(300, abs=45) for size in (16, 32, 64))


def test_costs_are_laid_evenly_over_the_whole_range():
    def bands(**changes):
        drawn, low, high = sampler(**changes), math.log(cost(smallest(SPACE))), math.log(cost(largest(SPACE)))
        logs = [math.log(cost(drawn.draw(i))) for i in range(600)]
        return Counter(min(3, int(4 * (value - low) / (high - low))) for value in logs)

    superposed, option_by_option = bands(), bands(tries=1)
    assert min(superposed[n] for n in range(4)) > 60
    # Drawn option by option, the cheapest quarter of the range hardly occurs.
    assert option_by_option[0] < 30
    drawn = {sampler().draw(i) for i in range(600)}
    assert smallest(SPACE) in drawn and largest(SPACE) in drawn


def test_a_plan_that_cannot_be_is_one_line():
    with pytest.raises(UsageError, match="at least one try"):
        Plan(tries=0)
