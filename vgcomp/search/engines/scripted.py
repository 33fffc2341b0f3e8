"""An engine whose steps depend on one another, written down as one generator instead of a state machine."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from vgcomp.search.problem import Evaluation
from vgcomp.space import Candidate

#: Yields generations and is sent their evaluations.
Script = Generator[list[Candidate], Sequence[Evaluation], None]


class Scripted:
    """Asks what a script yields, and sends it what is told."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._asked: list[Candidate] = next(script, [])

    def ask(self) -> Sequence[Candidate]:
        return self._asked

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        try:
            self._asked = self._script.send(evaluations)
        except StopIteration:
            self._asked = []
