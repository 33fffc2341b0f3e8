"""What a search looks for: objectives, limits, and what is known of a candidate once it was evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from vgcomp.compiled_cost.cost import Cost
from vgcomp.errors import UsageError
from vgcomp.search.front import nondominated
from vgcomp.space import Candidate, Space

Objective = Literal["quality", "latency", "memory"]
OBJECTIVES: tuple[Objective, ...] = ("quality", "latency", "memory")


@dataclass(frozen=True)
class Evaluation:
    """What is known of a candidate. ``quality``: higher is better; None where it failed or was not asked for.

    ``failed``: one line, why there is nothing else. ``seconds``: that the evaluation took.
    """

    candidate: Candidate
    cost: Cost | None = None
    quality: float | None = None
    failed: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Limits:
    """The paper's T and M: seconds of one run, and bytes that the device has for it. None: no limit."""

    latency_s: float | None = None
    memory_bytes: int | None = None

    def excess(self, cost: Cost) -> tuple[float, float]:
        """How far latency and memory are over their limits, relative to them; 0 where a limit is met."""
        over_latency = 0.0 if self.latency_s is None else max(0.0, cost.latency_s / self.latency_s - 1)
        over_memory = 0.0 if self.memory_bytes is None else max(0.0, cost.peak_bytes / self.memory_bytes - 1)
        # No program was found within the budget: that is over it, whatever rounding makes of the figure.
        return over_latency, over_memory if cost.feasible else max(over_memory, 1e-9)

    def met(self, cost: Cost) -> bool:
        """True if the cost is within both limits."""
        return not any(self.excess(cost))


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Problem:
    """A space, limits, and two or three objectives that are weighed against each other within the limits."""

    space: Space
    limits: Limits = NO_LIMITS
    objectives: tuple[Objective, ...] = OBJECTIVES

    def __post_init__(self) -> None:
        unknown = [name for name in self.objectives if name not in OBJECTIVES]
        if unknown or len(set(self.objectives)) != len(self.objectives) or "quality" not in self.objectives:
            raise UsageError(f"objectives are quality and one or two of latency, memory: not {', '.join(unknown)}")
        if len(self.objectives) < 2:
            raise UsageError("one objective has no front: weigh quality against latency, memory or both")

    def vector(self, evaluation: Evaluation) -> tuple[float, ...]:
        """What is to be made small: the quality's negative, seconds, bytes. Only of evaluations that are whole."""
        assert evaluation.cost is not None and evaluation.quality is not None
        values = {
            "quality": -evaluation.quality,
            "latency": evaluation.cost.latency_s,
            "memory": float(evaluation.cost.peak_bytes),
        }
        return tuple(values[name] for name in self.objectives)

    def admits(self, evaluation: Evaluation) -> bool:
        """True for an evaluation that is whole and within the limits."""
        return evaluation.cost is not None and evaluation.quality is not None and self.limits.met(evaluation.cost)

    def front(self, evaluations: Iterable[Evaluation]) -> list[Evaluation]:
        """Those within the limits that no other beats, the best quality first; of equals the one evaluated first."""
        admitted = [evaluation for evaluation in evaluations if self.admits(evaluation)]
        kept = [admitted[i] for i in nondominated([self.vector(evaluation) for evaluation in admitted])]
        return sorted(kept, key=self.vector)

    def nearest(self, evaluations: Iterable[Evaluation]) -> Evaluation | None:
        """The one least over the limits; None where no cost is known."""
        priced = [(sum(self.limits.excess(e.cost)), e) for e in evaluations if e.cost is not None]
        return min(priced, key=lambda pair: pair[0])[1] if priced else None


class Engine(Protocol):
    """A search strategy. It sees generations, never the order in which workers finish.

    What it asks may depend on its seed and on what it was told, and on nothing else: then a search that was killed
    asks again what it had asked, finds it in the journal, and ends where it would have ended.
    """

    #: True: it wants the quality of candidates that miss the limits, too.
    judges_all: bool

    def ask(self) -> Sequence[Candidate]:
        """The next generation. What was asked before is told again without being evaluated; empty ends the search."""
        ...

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """The generation's evaluations, in the order in which it was asked."""
        ...
