"""Costs of candidates linked from known pieces against the whole compiler, on random candidates of a space.

    python -m tests.benchmarks.candidate_costs --space snapgen-v --target a18pro --mem 3GB --candidates 200

Each finished candidate is a line of a JSONL file, so a run that stops goes on where it was. The result, with its date,
is written beside it as json and md: errors of every figure, times of both ways, candidates a second.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vgcomp.compiled_cost.cost import Cost
from vgcomp.compiled_cost.costs import CompiledCosts
from vgcomp.compiled_cost.pipeline import full_cost
from vgcomp.models.spaces import find_space
from vgcomp.space import Candidate, Space

RESULTS = Path(__file__).parent / "results"
FIGURES = ("latency_s", "peak_bytes", "weight_bytes", "flops", "uncompiled_latency_s", "uncompiled_peak_bytes")
#: Candidates in a row that needed no new piece before pieces count as known, and the most that are met for that.
CALM, MOST = 10, 60


def main() -> None:
    options = _options()
    space = find_space(options.space)
    name = f"candidate-costs-{options.space}-{options.target}-{options.mem}".lower()
    journal = options.journal or RESULTS / f"{name}.jsonl"
    costs = CompiledCosts(space, options.target, None if options.mem == "none" else options.mem)
    warm = _warmed(costs, space)
    done = {tuple(row["candidate"]): row for row in _rows(journal)}
    rng = random.Random(options.seed)
    tests = [space.sample(rng) for _ in range(options.candidates)]
    for candidate in tests:
        if candidate not in done:
            done[candidate] = _compared(costs, candidate)
            with journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[candidate]) + "\n")
        _write(name, options, [done[c] for c in tests if c in done], warm, None)
    _write(name, options, [done[c] for c in tests], warm, _rate(costs, space, options.rate))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--space", default="snapgen-v")
    parser.add_argument("--target", default="a18pro")
    parser.add_argument("--mem", default="3GB")
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--rate", type=int, default=1000, help="candidates whose costing is timed in a row")
    parser.add_argument("--journal", type=Path, help="default: beside the results")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _rows(journal: Path) -> list[dict[str, Any]]:
    if not journal.exists():
        return []
    return [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]


def _warmed(costs: CompiledCosts, space: Space) -> dict[str, Any]:
    """Meets the pieces on candidates that are not tested."""
    begin = time.process_time()
    costs.meet_pairs()
    rng, calm, met = random.Random(12345), 0, 0
    while calm < CALM and met < MOST:
        built, full = costs.counts.built, costs.counts.full
        costs.cost(space.sample(rng))
        met += 1
        calm = calm + 1 if (built, full) == (costs.counts.built, costs.counts.full) else 0
    return {"seconds": time.process_time() - begin, "candidates": met, "built": costs.counts.built}


def _compared(costs: CompiledCosts, candidate: Candidate) -> dict[str, Any]:
    before = (costs.counts.built, costs.counts.full)
    linked, linked_s = _timed(lambda: costs.cost(candidate))
    short = before == (costs.counts.built, costs.counts.full)
    whole, whole_s = _timed(lambda: full_cost(costs.compiler, costs.compiler.built(candidate)))
    row: dict[str, Any] = {"candidate": candidate, "linked": short, "linked_s": linked_s, "whole_s": whole_s}
    row["feasible"] = [linked.feasible, whole.feasible]
    return row | {name: [getattr(linked, name), getattr(whole, name)] for name in FIGURES}


def _timed(work: Any) -> tuple[Cost, float]:
    begin = time.process_time()
    return work(), time.process_time() - begin


def _rate(costs: CompiledCosts, space: Space, count: int) -> dict[str, float]:
    """Candidates a second of one process, none of them seen before; what had to be built is in it."""
    rng = random.Random(777)
    fresh = [space.sample(rng) for _ in range(count)]
    built, begin = costs.counts.built, time.process_time()
    for candidate in fresh:
        costs.cost(candidate)
    seconds = time.process_time() - begin
    return {"candidates": count, "seconds": seconds, "built": costs.counts.built - built, "a_second": count / seconds}


def _write(name: str, options: argparse.Namespace, rows: list[dict[str, Any]], warm: Any, rate: Any) -> None:
    short = [row for row in rows if row["linked"]]
    worst = {f: max((abs(row[f][0] / row[f][1] - 1) for row in rows), default=0.0) for f in FIGURES}
    result = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "space": options.space,
        "target": options.target,
        "memory": options.mem,
        "candidates": len(rows),
        "linked": len(short),
        "feasible": sum(row["feasible"][1] for row in rows),
        "feasibility_differs": sum(row["feasible"][0] != row["feasible"][1] for row in rows),
        "beyond_1_percent": sum(any(abs(row[f][0] / row[f][1] - 1) > 0.01 for f in FIGURES[:2]) for row in rows),
        "worst": worst,
        "linked_s": _mean([row["linked_s"] for row in short]),
        "whole_s": _mean([row["whole_s"] for row in rows]),
        "warm_up": warm,
        "rate": rate,
    }
    name = f"{result['date']}-{name}"
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(_page(result), encoding="utf-8")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _page(r: dict[str, Any]) -> str:
    faster = r["whole_s"] / r["linked_s"] if r["linked_s"] else 0.0
    lines = [
        f"# Costs of candidates: {r['space']}, {r['target']}, {r['memory']} ({r['date']})",
        "",
        f"{r['candidates']} random candidates, {r['feasible']} feasible; {r['linked']} linked of known pieces, the "
        "others had a piece to meet first or took the whole compiler.",
        "",
        f"- beyond 1 % in latency or peak: {r['beyond_1_percent']}; feasibility differs: {r['feasibility_differs']}",
        f"- one candidate: {r['linked_s'] * 1e3:.1f} ms linked, {r['whole_s']:.2f} s by the whole compiler "
        f"({faster:.0f} times), CPU time of one process",
        f"- pieces met before: {r['warm_up']['candidates']} candidates, {r['warm_up']['built']} built, "
        f"{r['warm_up']['seconds']:.0f} s",
    ]
    if r["rate"]:
        lines.append(
            f"- in a row: {r['rate']['a_second']:.0f} candidates a second of one core, {r['rate']['candidates']} "
            f"candidates of which {r['rate']['built']} had to be built"
        )
    lines += ["", "| figure | largest error |", "|---|---|"]
    lines += [f"| {name} | {value:.2%} |" for name, value in r["worst"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
