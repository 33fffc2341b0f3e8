"""A small space with figures that are quickly had, and evaluators that misbehave."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vgcomp.compiled_cost.cost import Cost
from vgcomp.search.crew import USUAL, Crew, InProcess, Rules
from vgcomp.search.engines.named import named_engine
from vgcomp.search.evaluator import Evaluator
from vgcomp.search.journal import Journal
from vgcomp.search.problem import NO_LIMITS, Limits, Problem
from vgcomp.search.run import Found, Search
from vgcomp.search.sources import CostFunction, QualityFunction
from vgcomp.space import Choice, Option, Space

KINDS = ("none", "conv1d", "selfattention1d", "selfattention3d")
PLACES = ("down.0.0", "down.1.0", "mid", "up.0.0")
SPACE = Space("toy", "snapgen-v-small", tuple(Choice(f"temporal.{place}", KINDS) for place in PLACES))

#: Seconds, bytes and worth of each kind, at places of falling size.
_SECONDS = (0.0, 0.05, 0.16, 0.55)
_BYTES = (0, 120_000_000, 90_000_000, 800_000_000)
_WORTH = (0.0, 0.10, 0.22, 0.30)
_SIZE = (1.0, 0.6, 0.4, 0.8)

MARKS = "VGCOMP_TEST_MARKS"


def cost(named: Mapping[str, Option]) -> dict[str, float]:
    """Half a second and a gigabyte, and each layer's own: latencies add up, the largest memory counts."""
    layers = [(KINDS.index(str(kind)), size) for kind, size in zip(named.values(), _SIZE, strict=True)]
    latency = 0.5 + sum(_SECONDS[kind] * size for kind, size in layers)
    return {"latency_s": latency, "peak_bytes": 1_000_000_000 + max(int(_BYTES[k] * size) for k, size in layers)}


def quality(named: Mapping[str, Option]) -> float:
    """Each layer adds, less the more there are, and two of a kind side by side add less."""
    kinds = [KINDS.index(str(kind)) for kind in named.values()]
    worth = [_WORTH[kind] * (1.3 - 0.2 * i) for i, kind in enumerate(kinds)]
    alike = sum(a == b != 0 for a, b in zip(kinds, kinds[1:], strict=False))
    return sum(sorted(worth, reverse=True)[i] * 0.9**i for i in range(len(worth))) - 0.03 * alike


def once(what: str) -> bool:
    """True the first time, over all processes; of a folder that the environment names."""
    try:
        (Path(os.environ[MARKS]) / what).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def deadly(named: Mapping[str, Option]) -> float:
    """Ends its process at every seventh candidate, the first time that it is asked."""
    number = sum(KINDS.index(str(kind)) * 4**i for i, kind in enumerate(named.values()))
    if number % 7 == 3 and once(str(number)):
        os._exit(9)
    return quality(named)


def always_deadly(named: Mapping[str, Option]) -> float:
    """Ends its process at one kind in the middle."""
    if named["temporal.mid"] == "conv1d":
        os._exit(9)
    return quality(named)


def throwing(named: Mapping[str, Option]) -> float:
    """Has no answer for one kind in the middle."""
    if named["temporal.mid"] == "conv1d":
        raise ArithmeticError("no answer\nfor this one")
    return quality(named)


def hanging(named: Mapping[str, Option]) -> float:
    """Never comes back with one candidate."""
    if set(named.values()) == {"none"}:
        threading.Event().wait()
    return quality(named)


@dataclass
class Counting:
    """A quality that counts how often it was asked, in this process."""

    asked: list[tuple[Option, ...]]

    def open(self, space: Space) -> Counting:
        self.space = space
        return self

    def quality(self, candidate: tuple[Option, ...]) -> float:
        self.asked.append(candidate)
        return quality(self.space.named(candidate))


def evaluator(name: str = "quality") -> Evaluator:
    return Evaluator(SPACE, CostFunction(f"{__name__}:cost"), QualityFunction(f"{__name__}:{name}"))


def run(
    engine: str,
    most: int,
    crew: Crew | None = None,
    *,
    limits: Limits = NO_LIMITS,
    seed: int = 0,
    rules: Rules = USUAL,
    journal: Journal | None = None,
) -> Found:
    """A search of the small space, in this process unless a crew is given."""
    problem = Problem(SPACE, limits)
    made = named_engine(engine, problem, seed)
    return Search(problem, made, lambda: crew or InProcess(evaluator()), rules, journal).run(most)


def points(found: Found) -> Sequence[tuple[object, ...]]:
    """What two searches are compared by."""
    return [(e.candidate, e.quality, e.cost) for e in found.front]


def as_cost(latency: float, peak: int) -> Cost:
    return Cost(latency, peak, 0, 0.0, True, latency, peak)


def stuck(named: Mapping[str, Option]) -> float:
    """Where the environment names a pipe: hangs once the journal has a dozen lines, and says so."""
    pipe_name = os.environ.get("VGCOMP_TEST_STUCK")
    if pipe_name and len(Path(os.environ["VGCOMP_TEST_JOURNAL"]).read_text().splitlines()) > 12:
        with Path(pipe_name).open("w") as pipe:
            pipe.write("!")
            pipe.flush()
            threading.Event().wait()
    return quality(named)
