"""Workers, and how a generation is spread over them: limits, retries, and what becomes of a worker that is lost."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from vgcomp.search.evaluator import Evaluator
from vgcomp.search.problem import Evaluation
from vgcomp.space import Candidate

#: Times that a candidate is given to another worker after one was lost with it.
RETRIES = 3


@dataclass(frozen=True)
class Report:
    """From the worker of a slot: its evaluation, or None where the worker was lost with the candidate."""

    slot: int
    evaluation: Evaluation | None


class Crew(Protocol):
    """Workers in numbered slots, each with one candidate at a time. A lost one is replaced."""

    def idle(self) -> Sequence[int]:
        """Slots whose workers are ready and have nothing to do."""
        ...

    def start(self, slot: int, candidate: Candidate) -> None:
        """Gives an idle worker a candidate."""
        ...

    def wait(self, timeout: float | None) -> Sequence[Report]:
        """Sleeps until something happens, at most so many seconds; a worker that became ready is no report.

        Raises VgcompError where workers cannot begin.
        """
        ...

    def stop(self, slot: int) -> None:
        """Ends a slot's worker with what it does; another takes its place."""
        ...

    def close(self) -> None:
        """Ends all workers."""
        ...


@dataclass(frozen=True)
class Rules:
    """``limit_s``: seconds that one evaluation may take, None for any; ``retries``: after lost workers."""

    limit_s: float | None = None
    retries: int = RETRIES


USUAL = Rules()


@dataclass(frozen=True)
class _Running:
    candidate: Candidate
    began: float


def evaluate_all(crew: Crew, candidates: Sequence[Candidate], rules: Rules, done: Callable[[Evaluation], None]) -> None:
    """Evaluates candidates and calls ``done`` for each as soon as it is known, in whatever order that is."""
    waiting, running = deque(candidates), dict[int, _Running]()
    lost: dict[Candidate, int] = {}
    while waiting or running:
        for slot in crew.idle():
            if waiting:
                running[slot] = _Running(waiting.popleft(), time.monotonic())
                crew.start(slot, running[slot].candidate)
        for report in crew.wait(_patience(running, rules)):
            candidate = running.pop(report.slot).candidate
            if report.evaluation is not None:
                done(report.evaluation)
                continue
            lost[candidate] = lost.get(candidate, 0) + 1
            if lost[candidate] <= rules.retries:
                waiting.appendleft(candidate)
            else:
                done(Evaluation(candidate, failed=f"its worker was lost, {lost[candidate]} times in a row"))
        for slot in _overdue(running, rules):
            entry = running.pop(slot)
            crew.stop(slot)
            took = time.monotonic() - entry.began
            done(Evaluation(entry.candidate, failed=f"it took more than {rules.limit_s:g} s", seconds=took))


def _patience(running: dict[int, _Running], rules: Rules) -> float | None:
    """Seconds until the next evaluation is overdue."""
    if rules.limit_s is None or not running:
        return None
    first = min(entry.began for entry in running.values())
    return max(0.0, first + rules.limit_s - time.monotonic())


def _overdue(running: dict[int, _Running], rules: Rules) -> list[int]:
    if rules.limit_s is None:
        return []
    now = time.monotonic()
    return [slot for slot, entry in running.items() if now - entry.began >= rules.limit_s]


class InProcess:
    """One worker that is this process: for evaluators that need neither limits nor protection."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._opened = evaluator.ready()
        self._report: Report | None = None

    def idle(self) -> Sequence[int]:
        return () if self._report else (0,)

    def start(self, slot: int, candidate: Candidate) -> None:
        self._report = Report(slot, self._opened.evaluate(candidate))

    def wait(self, timeout: float | None) -> Sequence[Report]:
        reports, self._report = (self._report,) if self._report else (), None
        return reports

    def stop(self, slot: int) -> None:
        """Nothing runs between two calls."""

    def close(self) -> None:
        """Nothing to end."""
