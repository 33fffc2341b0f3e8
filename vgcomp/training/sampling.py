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
from dataclasses import dataclass

from vgcomp.errors import UsageError
from vgcomp.space import Candidate, Choice, Space


@dataclass(frozen=True)
class Draw:
    """What an iteration trains. ``size``: of the frames, in pixels."""

    candidate: Candidate
    size: int


@dataclass(frozen=True)
class Plan:
    """How iterations draw. ``sizes``: resolutions in pixels, each as likely as another.

    ``warmup``: iterations until every option is open; 0 opens all from the start. ``tries``: candidates among which the
    one nearest to the drawn cost is taken; 1 draws options evenly, whatever they cost.
    """

    sizes: tuple[int, ...] = (32,)
    warmup: int = 0
    tries: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sizes or self.warmup < 0 or self.tries < 1:
            raise UsageError("sampling wants a size, a warm-up of no less than 0 iterations and at least one try")


class SubnetSampler:
    """Draws by an iteration's number alone, so that a resumed run draws as an unbroken one."""

    def __init__(self, space: Space, plan: Plan, cost: Callable[[Candidate], float]) -> None:
        self.space, self.plan, self.cost = space, plan, cost

    def opened(self, i: int) -> Space:
        """The space that iteration ``i`` draws from: each choice's largest options, more of them as ``i`` grows."""
        share = 1.0 if not self.plan.warmup else min(1.0, i / self.plan.warmup)
        choices = tuple(Choice(choice.name, _largest(choice.options, share)) for choice in self.space.choices)
        return Space(self.space.name, self.space.network, choices, self.space.settings)

    def draw(self, i: int) -> Draw:
        """The subnet and resolution of iteration ``i``."""
        rng = random.Random(f"{self.plan.seed}/{i}")
        opened = self.opened(i)
        size = rng.choice(self.plan.sizes)
        drawn = [opened.sample(rng) for _ in range(self.plan.tries)]
        if len(drawn) == 1:
            return Draw(drawn[0], size)
        smallest, largest = (tuple(choice.options[end] for choice in opened.choices) for end in (0, -1))
        low, high = sorted(math.log(self.cost(end)) for end in (smallest, largest))
        wanted = low + rng.random() * (high - low)
        # The ends themselves can be drawn: option by option they hardly ever are.
        return Draw(min((smallest, largest, *drawn), key=lambda found: abs(math.log(self.cost(found)) - wanted)), size)


def smallest(space: Space) -> Candidate:
    """The first option of each choice, which is the cheapest."""
    return tuple(choice.options[0] for choice in space.choices)


def largest(space: Space) -> Candidate:
    """The last option of each choice."""
    return tuple(choice.options[-1] for choice in space.choices)


def _largest(options: tuple[int | str, ...], share: float) -> tuple[int | str, ...]:
    return options[len(options) - 1 - math.floor(share * (len(options) - 1)) :]
