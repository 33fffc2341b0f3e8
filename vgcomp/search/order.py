"""A search from what a user names: a space, a device, limits, who judges and who works."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vgcomp import __version__
from vgcomp.errors import UsageError
from vgcomp.models.spaces import find_space
from vgcomp.search.crew import Crew, Rules
from vgcomp.search.engines.a1 import AlgorithmA1
from vgcomp.search.engines.named import named_engine
from vgcomp.search.evaluator import Evaluator
from vgcomp.search.journal import Journal
from vgcomp.search.local_crew import LocalCrew, cores
from vgcomp.search.problem import NO_LIMITS, OBJECTIVES, Evaluation, Limits, Objective, Problem
from vgcomp.search.result import Outcome
from vgcomp.search.run import Search
from vgcomp.search.sources import cost_source, quality_source
from vgcomp.space import Candidate
from vgcomp.targets import load_target
from vgcomp.units import parse_bytes


@dataclass(frozen=True)
class Order:
    """What is to be searched, and how. Text as on the command line; see ``vgcomp search --help``.

    ``latency_s``: seconds of one run; ``memory``: as ``--mem``; ``evaluation_limit``: seconds of one evaluation;
    ``jobs``: processes of this machine, None for one a core; ``ray``: a cluster's address instead of them.
    """

    space: str
    quality: str | None
    target: str = "a100"
    memory: str | int | None = None
    latency_s: float | None = None
    cost: str = "compiled"
    engine: str = "surrogate"
    evaluations: int = 200
    objectives: tuple[str, ...] = OBJECTIVES
    seed: int = 0
    jobs: int | None = None
    evaluation_limit: float | None = None
    ray: str | None = None
    ray_gpus: float = 0.0
    journal: Path | None = None
    resume: bool = False


#: Told what is known after each evaluation.
Tell = Callable[[Mapping[Candidate, Evaluation]], None]


def search(order: Order, tell: Tell = lambda known: None) -> Outcome:
    """Runs it. Raises UsageError for what is named wrongly, Unavailable for what is not installed.

    An interrupt leaves the journal as it is, with everything that was evaluated.
    """
    if order.resume and order.journal is None:
        raise UsageError("--resume goes on with a journal: add --journal FILE")
    quality = quality_source(order.quality)
    problem = _problem(order)
    engine = named_engine(order.engine, problem, order.seed)
    costs = cost_source(order.cost, order.target, problem.limits.memory_bytes)
    evaluator = Evaluator(problem.space, costs, quality, NO_LIMITS if engine.judges_all else problem.limits)
    evaluator.open()  # what is missing is found missing now, and not in each worker
    rules = Rules(order.evaluation_limit)
    with _journal(order, problem) as journal:
        found = Search(problem, engine, _crew(order, evaluator), rules, journal, tell).run(order.evaluations)
    device = load_target(order.target).name
    asked = (order.engine, order.seed, device, str(order.quality))
    if isinstance(engine, AlgorithmA1):
        return Outcome(found, *asked, tuple(engine.trace), tuple(engine.eliminated))
    return Outcome(found, *asked)


def _problem(order: Order) -> Problem:
    load_target(order.target)
    memory = None if order.memory is None else parse_bytes(order.memory)
    names: tuple[Objective, ...] = tuple(name for name in OBJECTIVES if name in order.objectives)
    unknown = [name for name in order.objectives if name not in OBJECTIVES]
    if unknown:
        raise UsageError(f"--objectives: {unknown[0]!r} is not one of {', '.join(OBJECTIVES)}")
    return Problem(find_space(order.space), Limits(order.latency_s, memory), names)


def _crew(order: Order, evaluator: Evaluator) -> Callable[[], Crew]:
    if order.ray is None:
        return lambda: LocalCrew(evaluator, order.jobs or cores())
    from vgcomp.search.require import require_ray

    require_ray()
    from vgcomp.search.ray_crew import RayCrew

    address = order.ray
    return lambda: RayCrew(evaluator, address, order.jobs, order.ray_gpus)


def _journal(order: Order, problem: Problem) -> Journal | nullcontext[None]:
    """The journal, if one was asked for. Evaluations of another version may be of other costs: they are not mixed."""
    if order.journal is None:
        return nullcontext()
    header: dict[str, Any] = {
        "vgcomp": __version__,
        "space": f"{problem.space.name} {hashlib.sha256(problem.space.to_json().encode()).hexdigest()[:16]}",
        "engine": order.engine,
        "seed": order.seed,
        "target": order.target,
        "memory_bytes": problem.limits.memory_bytes,
        "latency_s": problem.limits.latency_s,
        "objectives": list(problem.objectives),
        "quality": order.quality,
        "cost": order.cost,
    }
    return Journal.open(order.journal, header, problem.space, resume=order.resume)
