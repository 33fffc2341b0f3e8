"""Which subnet and resolution an iteration trains: all costs and resolutions laid over one supernet, after a warm-up.

SNED (Li et al., CVPR 2024) trains one subnet an iteration, over cost and resolution at once, and warms the sampling up.
Its schedules are not public; these are ours. The warm-up starts at the largest subnet and lets in ever smaller options
until all are open. Costs are laid over each other evenly: a cost is drawn between the least and the greatest that are
open, on a logarithmic scale, and of a few candidates the nearest to it is taken; drawn option by option, nearly all
would be of a middling cost.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from vgcomp.errors import UsageError
from vgcomp.space import Candidate, Choice, Option, Space


@dataclass(frozen=True)
class Plan:
    """How iterations draw.

    ``warmup``: iterations until every option is open; 0 opens all from the start. ``tries``: candidates among which the
    one nearest to the drawn cost is taken; 1 draws options evenly, whatever they cost. ``even``: choices that are drawn
    evenly and open from the start, as cost has no say in them.
    """

    warmup: int = 0
    tries: int = 8
    even: tuple[str, ...] = ("resolution",)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.warmup < 0 or self.tries < 1:
            raise UsageError("sampling wants a warm-up of no less than 0 iterations and at least one try")


class SubnetSampler:
    """Draws by an iteration's number alone, so that a resumed run draws as an unbroken one."""

    def __init__(self, space: Space, plan: Plan, cost: Callable[[Candidate], float]) -> None:
        self.space, self.plan, self.cost = space, plan, cost

    def opened(self, i: int) -> Space:
        """The space that iteration ``i`` draws from: each choice's largest options, more of them as ``i`` grows."""
        share = 1.0 if not self.plan.warmup else min(1.0, i / self.plan.warmup)
        return replace(self.space, choices=tuple(self._opened(choice, share) for choice in self.space.choices))

    def _opened(self, choice: Choice, share: float) -> Choice:
        if choice.name in self.plan.even:
            return choice
        last = len(choice.options) - 1
        return Choice(choice.name, choice.options[last - math.floor(share * last) :])

    def draw(self, i: int) -> Candidate:
        """The subnet of iteration ``i``."""
        rng = random.Random(f"{self.plan.seed}/{i}")
        opened = self.opened(i)
        first, *others = (opened.sample(rng) for _ in range(self.plan.tries))
        if not others:
            return first
        even = {n: first[n] for n, choice in enumerate(opened.choices) if choice.name in self.plan.even}
        # The ends themselves can be drawn: option by option they hardly ever are.
        ends = [_with(end(opened), even) for end in (smallest, largest)]
        low, high = (math.log(self.cost(end)) for end in ends)
        wanted = low + rng.random() * (high - low)
        drawn = (*ends, first, *(_with(other, even) for other in others))
        return min(drawn, key=lambda found: abs(math.log(self.cost(found)) - wanted))


def _with(candidate: Candidate, options: dict[int, Option]) -> Candidate:
    return tuple(options.get(n, option) for n, option in enumerate(candidate))


def smallest(space: Space) -> Candidate:
    """The first option of each choice, which is the cheapest."""
    return tuple(choice.options[0] for choice in space.choices)


def largest(space: Space) -> Candidate:
    """The last option of each choice."""
    return tuple(choice.options[-1] for choice in space.choices)
