"""Evaluates one candidate: what it costs, then how good it is. Runs in workers, which it travels to by pickle."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from vgcomp.compiled_cost.cost import Costs
from vgcomp.errors import VgcompError
from vgcomp.search.problem import NO_LIMITS, Evaluation, Limits
from vgcomp.space import Candidate, Space


class Quality(Protocol):
    """How good candidates are: higher is better."""

    def quality(self, candidate: Candidate) -> float:
        """A candidate's quality. Whatever it raises is recorded as the candidate's failure."""
        ...


class CostSource(Protocol):
    """Where costs come from, as text and numbers that travel to a worker."""

    def open(self, space: Space) -> Costs:
        """Ready to be asked. Raises VgcompError where it cannot be."""
        ...


class QualitySource(Protocol):
    """Where qualities come from, as text and numbers that travel to a worker."""

    def open(self, space: Space) -> Quality:
        """Ready to be asked. Raises VgcompError where it cannot be."""
        ...


@runtime_checkable
class Preparable(Protocol):
    """Costs or a quality with work to do once, which no candidate's time limit is meant for."""

    def prepare(self) -> None: ...


@dataclass(frozen=True)
class Evaluator:
    """What workers are given. ``judged_within``: the quality of candidates over these limits is not asked for."""

    space: Space
    costs: CostSource
    quality: QualitySource
    judged_within: Limits = NO_LIMITS

    def open(self) -> Opened:
        """Loads what it needs. Raises VgcompError where something is missing."""
        return Opened(self.costs.open(self.space), self.quality.open(self.space), self.judged_within)

    def ready(self) -> Opened:
        """The same, with what is done once done: for workers."""
        opened = self.open()
        for part in (opened.costs, opened.quality):
            if isinstance(part, Preparable):
                part.prepare()
        return opened


@dataclass(frozen=True)
class Opened:
    """An evaluator at work, in one process."""

    costs: Costs
    quality: Quality
    judged_within: Limits

    def evaluate(self, candidate: Candidate) -> Evaluation:
        """Never raises for what an evaluator does: a failure is a result, with its reason in one line."""
        begin = time.perf_counter()
        try:
            evaluation = self._evaluate(candidate)
        except (Exception, SystemExit) as error:
            evaluation = Evaluation(candidate, failed=reason(error))
        return replace(evaluation, seconds=time.perf_counter() - begin)

    def _evaluate(self, candidate: Candidate) -> Evaluation:
        cost = self.costs.cost(candidate)
        if not (math.isfinite(cost.latency_s) and math.isfinite(cost.peak_bytes)):
            return Evaluation(candidate, failed=f"its cost is {cost.latency_s} s and {cost.peak_bytes} bytes")
        if not self.judged_within.met(cost):
            return Evaluation(candidate, cost)
        quality = float(self.quality.quality(candidate))
        if not math.isfinite(quality):
            return Evaluation(candidate, cost, failed=f"its quality is {quality}")
        return Evaluation(candidate, cost, quality)


def reason(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, VgcompError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
