"""Which subnet and resolution an iteration trains: all costs and resolutions laid over one supernet, after a warm-up.

SNED (Li et al., CVPR 2024) trains one subnet an iteration, over cost and resolution at once, and warms the sampling up.
Its schedules are not public; these are ours. The warm-up starts at the largest subnet and lets in ever smaller options
until all are open. Costs are laid over each other evenly: a share is drawn between 0 and 1, and each choice's option is
binomial with that share. So each option is as likely as another, as if drawn by itself, and yet subnets of every size
occur; drawn by themselves, options of many choices nearly always add up to a middling cost.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from vgcomp.errors import UsageError
from vgcomp.space import Candidate, Choice, Space


@dataclass(frozen=True)
class Plan:
    """How iterations draw.

    ``warmup``: iterations until every option is open; 0 opens all from the start. ``superposed``: draws costs evenly;
    otherwise each option by itself. ``even``: choices that are drawn by themselves and open from the start, as cost has
    no say in them.
    """

    warmup: int = 0
    superposed: bool = True
    even: tuple[str, ...] = ("resolution",)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise UsageError("a warm-up has no less than 0 iterations")


class SubnetSampler:
    """Draws by an iteration's number alone, so that a resumed run draws as an unbroken one."""

    def __init__(self, space: Space, plan: Plan) -> None:
        self.space, self.plan = space, plan

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
        opened, share = self.opened(i), rng.random()
        if not self.plan.superposed:
            return opened.sample(rng)
        genes = [
            rng.randrange(len(choice.options))
            if choice.name in self.plan.even
            else sum(rng.random() < share for _ in choice.options[1:])
            for choice in opened.choices
        ]
        return opened.from_genes(genes)


def smallest(space: Space) -> Candidate:
    """The first option of each choice, which is the cheapest."""
    return tuple(choice.options[0] for choice in space.choices)


def largest(space: Space) -> Candidate:
    """The last option of each choice."""
    return tuple(choice.options[-1] for choice in space.choices)
