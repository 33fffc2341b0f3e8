"""Does a search beat chance? Fronts found with a twentieth of a space's evaluations, beside the true front.

    python -m tests.benchmarks.search_control                      # --costs FILE: computed into it, if it is not there

The space is four open positions of the full-size ``snapgen-v``, nothing at the others, seven options each: 2401
candidates; costs are those of the compiled programs on the A18 Pro within 3 GB. No trained network of this size is at
hand, so quality is a stated function: every layer has a worth by its kind and place, worths saturate (1 - exp(-sum)),
equal kinds in a row are worth less, pairs of layers help or hinder each other at random, and each candidate's score has
an error of its own, as a measured one has. It is drawn anew for each of the qualities.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from vgcomp.compiled_cost.cost import Cost
from vgcomp.compiled_cost.costs import CompiledCosts
from vgcomp.files import atomic_write
from vgcomp.models.spaces import find_space
from vgcomp.search.engines.a1 import AlgorithmA1
from vgcomp.search.engines.named import named_engine
from vgcomp.search.front import hypervolume
from vgcomp.search.problem import NO_LIMITS, Engine, Evaluation, Limits, Problem
from vgcomp.search.tables import cost_of
from vgcomp.space import Candidate, Space
from vgcomp.units import format_bytes, format_seconds

TARGET, MEMORY = "a18pro", 3_000_000_000
#: The costs, as they were computed on the day of the first result.
COSTS = Path(__file__).parent / "results" / "snapgen-v-four-costs.json"
#: T and M of the searches within limits, which most candidates miss.
LATENCY, TIGHT = 0.7, 1_300_000_000
PLACES = ("temporal.down.0.0", "temporal.down.1.0", "temporal.mid", "temporal.up.1.0")
ENGINES = ("surrogate", "nsga2", "unsga3", "random")
SEEDS, QUALITIES = range(5), range(3)
#: Shares of the space that are evaluated.
SHARES = (0.0125, 0.025, 0.05)
GOAL = 0.98

#: Worths of kinds and of places, before they are drawn.
_KINDS = {
    "none": 0.0,
    "conv1d": 0.5,
    "conv3d": 0.8,
    "selfattention1d": 0.6,
    "selfattention3d": 1.0,
    "crossattention1d": 0.35,
    "crossattention3d": 0.6,
}
_PLACES = (0.4, 0.6, 0.9, 0.8)
_ERROR = 0.003


def space() -> Space:
    whole = find_space("snapgen-v")
    bare = (("temporal", "+".join(["none"] * len(whole.choices))),)
    return Space("snapgen-v-four", whole.network, tuple(c for c in whole.choices if c.name in PLACES), bare)


class Judge:
    """The stated quality, drawn by a seed."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(1000 + seed)
        self._worth = {
            (i, kind): _KINDS[kind] * _PLACES[i] * rng.uniform(0.6, 1.4) for i in range(4) for kind in _KINDS
        }
        pairs = itertools.combinations(range(4), 2)
        self._pairs = {(i, a, j, b): rng.gauss(0, 0.05) for i, j in pairs for a in _KINDS for b in _KINDS}
        self._seed = seed

    def __call__(self, candidate: Candidate) -> float:
        kinds = [str(kind) for kind in candidate]
        total = sum(self._worth[place] for place in enumerate(kinds))
        for (i, a), (j, b) in itertools.combinations(enumerate(kinds), 2):
            if "none" not in (a, b):
                total += self._pairs[i, a, j, b] - (0.08 if a == b and j == i + 1 else 0.0)
        error = random.Random(f"{self._seed} {kinds}").gauss(0, _ERROR)
        return 1 - math.exp(-total) + error


@dataclass(frozen=True)
class Row:
    """Shares of the true hypervolume after so many evaluations, and how many brought it to the goal."""

    limits: str
    quality: int
    engine: str
    seed: int
    shares: tuple[float, ...]
    reached_at: int | None


def searched(engine: Engine, truth: Mapping[Candidate, Evaluation], limits: Limits, most: int) -> list[Evaluation]:
    """What an engine asks for, in order, answered from the table as workers would answer."""
    known: dict[Candidate, Evaluation] = {}
    while len(known) < most:
        asked = engine.ask()
        for candidate in asked:
            found = truth[candidate]
            judged = engine.judges_all or (found.cost is not None and limits.met(found.cost))
            known.setdefault(candidate, found if judged else Evaluation(candidate, found.cost))
        if not asked:
            break
        engine.tell([known[candidate] for candidate in asked])
    return list(known.values())[:most]


class Contest:
    """One quality and limits: the true front, and what engines find of it."""

    def __init__(self, costs: Mapping[Candidate, Cost], quality: int, name: str, limits: Limits) -> None:
        judge = Judge(quality)
        self.truth = {c: Evaluation(c, cost, judge(c)) for c, cost in costs.items()}
        self.problem, self.name, self.quality = Problem(space(), limits), name, quality
        admitted = [self.problem.vector(e) for e in self.truth.values() if self.problem.admits(e)]
        worst = [max(vector[i] for vector in admitted) for i in range(3)]
        self.corner = (worst[0], limits.latency_s or worst[1], limits.memory_bytes or worst[2])
        self.front = self.problem.front(self.truth.values())
        self.volume = self._volume(self.front)

    def _volume(self, evaluations: Sequence[Evaluation]) -> float:
        return hypervolume([self.problem.vector(e) for e in self.problem.front(evaluations)], self.corner)

    def row(self, name: str, seed: int) -> Row:
        most = int(max(SHARES) * len(self.truth))
        found = searched(named_engine(name, self.problem, seed), self.truth, self.problem.limits, most)
        counts = [int(share * len(self.truth)) for share in SHARES]
        shares = tuple(self._volume(found[:count]) / self.volume for count in counts)
        reached = next((n for n in range(4, most + 1, 4) if self._volume(found[:n]) >= GOAL * self.volume), None)
        return Row(self.name, self.quality, name, seed, shares, reached)

    def a1(self) -> dict[str, Any]:
        """Algorithm A1's first descent, against the best candidate within the limits."""
        engine = AlgorithmA1(self.problem, 0)
        seen = 0
        while not any(step.descent for step in engine.trace) and seen < len(self.truth):
            asked = engine.ask()
            engine.tell([self.truth[candidate] for candidate in asked])
            seen += len(asked)
        steps = [step for step in engine.trace if not step.descent]
        last = steps[-1].after
        assert last.cost is not None
        return {
            "quality": self.quality,
            "evaluations": seen,
            "eliminated": engine.eliminated,
            "actions": [f"{step.condition}: {step.action}" for step in steps],
            "reached": self.problem.limits.met(last.cost),
            "latency_s": last.cost.latency_s,
            "memory_bytes": last.cost.peak_bytes,
            "found": last.quality,
            "best": max(e.quality for e in self.front if e.quality is not None),
        }


def costs_of(path: Path) -> Mapping[Candidate, Cost]:
    """The space's costs, from the file or computed into it: seconds and bytes, in the order of the candidates."""
    here = space()
    if not path.exists():
        costs, begin = CompiledCosts(here, TARGET, MEMORY), time.perf_counter()
        found = [costs.cost(candidate) for candidate in here.every()]
        table = {"latency_s": [c.latency_s for c in found], "peak_bytes": [c.peak_bytes for c in found]}
        atomic_write(path, json.dumps({"space": asdict(here), **table}, separators=(",", ":")) + "\n")
        print(f"costs of {here.size} candidates: {time.perf_counter() - begin:.1f} s, {costs.counts}")
    table = json.loads(path.read_text(encoding="utf-8"))
    figures = zip(table["latency_s"], table["peak_bytes"], strict=True)
    costs_found = (cost_of({"latency_s": latency, "peak_bytes": peak}) for latency, peak in figures)
    return dict(zip(here.every(), costs_found, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--costs", type=Path, default=COSTS, help="read, or computed into")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    costs = costs_of(given.costs)
    settings = {"no limits": NO_LIMITS, "limits": Limits(LATENCY, TIGHT)}
    contests = [Contest(costs, quality, name, limits) for name, limits in settings.items() for quality in QUALITIES]
    rows = [contest.row(name, seed) for contest in contests for name in ENGINES for seed in SEEDS]
    traces = [contest.a1() for contest in contests if contest.problem.limits.latency_s]
    facts = [
        {
            "limits": contest.name,
            "quality": contest.quality,
            "within": sum(contest.problem.admits(e) for e in contest.truth.values()),
            "front": len(contest.front),
        }
        for contest in contests
    ]
    text = markdown(costs, settings, facts, rows, traces)
    print(text)
    stem = given.out / f"{datetime.date.today()}-search-control"
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    content = {"facts": facts, "rows": [asdict(row) for row in rows], "a1": traces}
    stem.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def markdown(
    costs: Mapping[Candidate, Cost],
    settings: Mapping[str, Limits],
    facts: Sequence[Mapping[str, object]],
    rows: Sequence[Row],
    traces: Sequence[Mapping[str, Any]],
) -> str:
    latencies, peaks = [c.latency_s for c in costs.values()], [c.peak_bytes for c in costs.values()]
    lines = [
        "# Searches beside chance",
        "",
        f"`python -m tests.benchmarks.search_control`: {len(costs)} candidates of snapgen-v at {', '.join(PLACES)}, "
        f"compiled for {TARGET} within {format_bytes(MEMORY, binary=False)}: {format_seconds(min(latencies))} to "
        f"{format_seconds(max(latencies))}, {format_bytes(min(peaks))} to {format_bytes(max(peaks))}. Quality is the "
        "stated function of the script. Share of the true hypervolume after so much of the space was evaluated, the "
        f"mean and the least of {len(SEEDS)} seeds and {len(QUALITIES)} qualities, and how many of these searches "
        f"reach {GOAL:.0%} of it.",
        "",
    ]
    head = [f"{share:.2%} ({int(share * len(costs))})" for share in SHARES]
    for name, limits in settings.items():
        some = [fact for fact in facts if fact["limits"] == name]
        within = (
            f"Within {LATENCY:g} s and {format_bytes(TIGHT, binary=False)}" if limits.latency_s else "Without limits"
        )
        lines += [
            f"**{within}**: {', '.join(str(f['within']) for f in some)} candidates within, "
            f"{', '.join(str(f['front']) for f in some)} of them the front, by the quality",
            "",
            f"| engine | {' | '.join(head)} | {GOAL:.0%} reached | after, at most |",
            f"|---|{'---:|' * (len(head) + 2)}",
        ]
        for engine in ENGINES:
            mine = [row for row in rows if row.limits == name and row.engine == engine]
            cells = [f"{mean(r.shares[i] for r in mine):.3f}, {min(r.shares[i] for r in mine):.3f}" for i in range(3)]
            reached = [row.reached_at for row in mine if row.reached_at is not None]
            latest = str(max(reached)) if len(reached) == len(mine) else "–"
            lines.append(f"| {engine} | {' | '.join(cells)} | {len(reached)} of {len(mine)} | {latest} |")
        beaten = sum(_beats(rows, name, quality, seed) for quality in QUALITIES for seed in SEEDS)
        lines += ["", f"surrogate beats random in {beaten} of {len(SEEDS) * len(QUALITIES)} pairs.", ""]
    lines += ["Algorithm A1, its first start:", ""]
    for trace in traces:
        at = f"{format_seconds(trace['latency_s'])} and {format_bytes(trace['memory_bytes'])}"
        lines.append(
            f"- quality {trace['quality']}: {trace['evaluations']} evaluations, {len(trace['actions'])} actions, "
            f"{'within' if trace['reached'] else 'over'} the limits at {at}; quality {trace['found']:.4f}, the best "
            f"within them {trace['best']:.4f}. {'; '.join(trace['actions'])}."
        )
    return "\n".join(lines) + "\n"


def _beats(rows: Sequence[Row], limits: str, quality: int, seed: int) -> bool:
    ours, chance = (
        next(r for r in rows if (r.limits, r.quality, r.engine, r.seed) == (limits, quality, name, seed))
        for name in ("surrogate", "random")
    )
    return ours.shares[-1] > chance.shares[-1]


if __name__ == "__main__":
    main()
