"""Random candidates: the control that a search is worth nothing without beating."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from vgcomp.search.problem import Evaluation, Problem
from vgcomp.space import Candidate

_GENERATION = 16
#: Draws in a row that bring nothing new, after which the space is taken as exhausted.
_PATIENCE = 10_000


@dataclass
class RandomSearch:
    """Distinct candidates, each as likely as another."""

    problem: Problem
    seed: int = 0
    judges_all: bool = False
    _drawn: dict[Candidate, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    def ask(self) -> Sequence[Candidate]:
        space, before, misses = self.problem.space, len(self._drawn), 0
        while len(self._drawn) < min(before + _GENERATION, space.size) and misses < _PATIENCE:
            candidate = space.sample(self._rng)
            misses = misses + 1 if candidate in self._drawn else 0
            self._drawn[candidate] = None
        return list(self._drawn)[before:]

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Chance learns nothing."""
