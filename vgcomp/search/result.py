"""What a search ends with: the figures of its JSON report, and which candidates of the front are worth keeping."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from vgcomp.errors import VgcompError
from vgcomp.search.engines.a1 import Step
from vgcomp.search.front import hypervolume
from vgcomp.search.problem import Evaluation, Limits, Problem
from vgcomp.search.run import Found
from vgcomp.units import budget_text, format_seconds

_UNITS = {
    "seconds": "seconds of this run, by the clock",
    "candidates_per_second": "evaluations of this run (without resumed ones) a second",
    "quality": "the evaluator's own, higher is better",
    "latency_s": "seconds of one run of the compiled program",
    "memory_bytes": "bytes that the device must have for it",
}
_NAMES = {"quality": "quality", "latency": "latency_s", "memory": "memory_bytes"}
_PRODUCT = {"quality": "quality", "latency": "s", "memory": "bytes"}


class NothingFits(VgcompError):
    """No candidate that was evaluated is within the limits."""

    exit_code: ClassVar[int] = 4


@dataclass(frozen=True)
class Outcome:
    """A search's result with what it was asked. ``trace``: Algorithm A1's, empty for other engines."""

    found: Found
    engine: str
    seed: int
    target: str
    quality: str
    trace: tuple[Step, ...] = ()
    #: Layers that Algorithm A1's coarse search took out.
    eliminated: tuple[str, ...] = ()

    @property
    def problem(self) -> Problem:
        return self.found.problem

    def volume(self) -> float:
        """Volume that the front dominates, up to :meth:`reference`."""
        return hypervolume([self.problem.vector(e) for e in self.found.front], self.reference())

    def reference(self) -> tuple[float, ...]:
        """The corner of the hypervolume: the limits, and the worst that was evaluated where nothing is limited."""
        vectors = [self.problem.vector(e) for e in self.found.evaluations if self.problem.admits(e)]
        worst = np.array(vectors).max(axis=0).tolist() if vectors else [0.0] * len(self.problem.objectives)
        limits = {"latency": self.problem.limits.latency_s, "memory": self.problem.limits.memory_bytes}
        corner = (limits.get(name) or value for name, value in zip(self.problem.objectives, worst, strict=True))
        return tuple(float(value) for value in corner)

    def to_json(self) -> str:
        """The report, its units beside the figures."""
        return json.dumps(self.figures(), indent=2)

    def figures(self) -> dict[str, Any]:
        """The report as plain values."""
        found, problem = self.found, self.problem
        fresh = len(found.evaluations) - found.resumed
        reference = dict(zip(problem.objectives, self.reference(), strict=True))
        reference["quality"] = -reference["quality"]
        return {
            "space": problem.space.name,
            "candidates": problem.space.size,
            "engine": self.engine,
            "seed": self.seed,
            "target": self.target,
            "quality": self.quality,
            "limits": asdict(problem.limits),
            "objectives": list(problem.objectives),
            "evaluations": len(found.evaluations),
            "failed": sum(bool(e.failed) for e in found.evaluations),
            "resumed": found.resumed,
            "seconds": found.seconds,
            "candidates_per_second": fresh / found.seconds if found.seconds > 0 else 0.0,
            "hypervolume": self.volume(),
            "hypervolume_unit": "·".join(_PRODUCT[name] for name in problem.objectives),
            "reference": {_NAMES[name]: value for name, value in reference.items()},
            "units": _UNITS,
            "front": [_point(problem, evaluation) for evaluation in found.front],
            **({"trace": [_step(problem, step) for step in self.trace]} if self.trace else {}),
            **({"eliminated": list(self.eliminated)} if self.eliminated else {}),
        }

    def kept(self, count: int) -> list[Evaluation]:
        """The best of the front, at most ``count``: the best quality, then what adds most to the volume of those."""
        front, corner = self.found.front, self.reference()
        chosen = front[:1]
        while len(chosen) < min(count, len(front)):
            rest = [e for e in front if e not in chosen]
            chosen.append(max(rest, key=lambda e: self._volume_of([*chosen, e], corner)))
        return sorted(chosen, key=self.problem.vector)

    def _volume_of(self, evaluations: Sequence[Evaluation], corner: Sequence[float]) -> float:
        return hypervolume([self.problem.vector(e) for e in evaluations], corner)

    def hold(self) -> None:
        """Raises VgcompError where all evaluations failed, NothingFits where none is within the limits."""
        if self.found.front:
            return
        evaluations, limits = self.found.evaluations, self.problem.limits
        failures = Counter(e.failed for e in evaluations if e.failed)
        if failures and len(evaluations) == sum(failures.values()):
            reason, count = failures.most_common(1)[0]
            raise VgcompError(f"all {len(evaluations)} evaluations failed, {count} of them so: {reason}")
        nearest = self.problem.nearest(evaluations)
        raise NothingFits(f"none of {len(evaluations)} candidates is within {limits_text(limits)}{_near(nearest)}")


def limits_text(limits: Limits) -> str:
    """``1.02 s and 3000MiB``; ``no limit``."""
    parts = []
    if limits.latency_s is not None:
        parts.append(format_seconds(limits.latency_s))
    if limits.memory_bytes is not None:
        parts.append(budget_text(limits.memory_bytes))
    return " and ".join(parts) or "no limit"


def options_text(evaluation: Evaluation) -> str:
    """``conv1d+none+selfattention3d``: a candidate's options in their order."""
    return "+".join(map(str, evaluation.candidate))


def _near(nearest: Evaluation | None) -> str:
    if nearest is None or nearest.cost is None:
        return ""
    cost = nearest.cost
    return (
        f"; the nearest takes {format_seconds(cost.latency_s)} and {budget_text(cost.peak_bytes)}: "
        f"{options_text(nearest)}"
    )


def _point(problem: Problem, evaluation: Evaluation) -> dict[str, Any]:
    assert evaluation.cost is not None
    cost = evaluation.cost
    return {
        "candidate": problem.space.named(evaluation.candidate),
        "quality": evaluation.quality,
        "latency_s": cost.latency_s,
        "memory_bytes": cost.peak_bytes,
        "weight_bytes": cost.weight_bytes,
        "flops": cost.flops,
        "uncompiled_latency_s": cost.uncompiled_latency_s,
        "uncompiled_memory_bytes": cost.uncompiled_peak_bytes,
    }


def _step(problem: Problem, step: Step) -> Mapping[str, Any]:
    return {
        "descent": step.descent,
        "condition": step.condition,
        "action": step.action,
        "delta_quality": step.quality,
        "delta_latency_s": step.latency_s,
        "delta_memory_bytes": step.memory_bytes,
        "after": _point(problem, step.after),
    }
