"""The search itself: generations are asked, evaluated by workers, kept in the journal and told in the order asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vgcomp.search.crew import USUAL, Crew, Rules, evaluate_all
from vgcomp.search.journal import Journal
from vgcomp.search.problem import Engine, Evaluation, Problem
from vgcomp.space import Candidate

#: Generations without a new candidate, after which an engine is taken to have no more.
STALE = 50


@dataclass(frozen=True)
class Found:
    """What a search knows in the end. ``resumed``: how many evaluations came from the journal.

    ``evaluations``: in the order in which they were asked. ``seconds``: of this run.
    """

    problem: Problem
    evaluations: tuple[Evaluation, ...]
    resumed: int
    seconds: float

    @property
    def front(self) -> list[Evaluation]:
        """See :meth:`Problem.front`."""
        return self.problem.front(self.evaluations)


@dataclass
class Search:
    """``crew``: makes the workers, when there is something to do. ``tell``: called after each evaluation."""

    problem: Problem
    engine: Engine
    crew: Callable[[], Crew]
    rules: Rules = USUAL
    journal: Journal | None = None
    tell: Callable[[Mapping[Candidate, Evaluation]], None] = lambda known: None
    _known: dict[Candidate, Evaluation] = field(default_factory=dict)
    _crew: Crew | None = None

    def run(self, most: int) -> Found:
        """Searches until ``most`` candidates were evaluated, failed ones among them, or there is nothing to ask."""
        begin = time.perf_counter()
        recorded = {e.candidate: e for e in self.journal.found} if self.journal is not None else {}
        resumed = 0
        try:
            for new in self._generations(most):
                resumed += sum(candidate in recorded for candidate in new)
                self._evaluate(new, recorded)
        finally:
            if self._crew is not None:
                self._crew.close()
        return Found(self.problem, tuple(self._known.values()), resumed, time.perf_counter() - begin)

    def _generations(self, most: int) -> Iterator[list[Candidate]]:
        """Yields what is new of each generation, and tells the engine of it when it was evaluated."""
        stale = 0
        while len(self._known) < most and stale < STALE:
            asked = self.engine.ask()
            if not asked:
                return
            new = [candidate for candidate in dict.fromkeys(asked) if candidate not in self._known]
            stale = 0 if new else stale + 1
            yield new[: most - len(self._known)]
            if all(candidate in self._known for candidate in asked):
                self.engine.tell([self._known[candidate] for candidate in asked])

    def _evaluate(self, new: Sequence[Candidate], recorded: dict[Candidate, Evaluation]) -> None:
        """Evaluates what the journal does not hold. The order in which that ends goes no further than the journal."""
        missing = [candidate for candidate in new if candidate not in recorded]

        def done(evaluation: Evaluation) -> None:
            if self.journal is not None:
                self.journal.write(evaluation)
            recorded[evaluation.candidate] = evaluation
            self.tell(recorded)

        if missing:
            self._crew = self._crew or self.crew()
            evaluate_all(self._crew, missing, self.rules, done)
        self._known |= {candidate: recorded[candidate] for candidate in new}
