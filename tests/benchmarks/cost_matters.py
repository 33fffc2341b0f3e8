"""What the wrong cost costs: the network that each of three criteria calls the cheapest, and what it takes compiled.

    python -m tests.benchmarks.cost_matters --space snapgen-v --target a18pro --mem 3GB

Quality is held by a stand-in, said with the result: parameters. Of random candidates, those with at least as many as a
``--share`` of all have count as equal, and each criterion (FLOPs, simulated latency as built, simulated latency
compiled) chooses its cheapest one within the budget. The pipeline is the phone's: what the Neural Engine refuses is put
in another form before all else.
Writes a dated json and md beside the other results.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vgcomp.compiled_cost.cost import Cost
from vgcomp.compiled_cost.costs import CompiledCosts
from vgcomp.models.spaces import find_space
from vgcomp.space import Candidate
from vgcomp.units import parse_bytes

RESULTS = Path(__file__).parent / "results"
PHONE = ("canonicalize", "legalize-coreml", "canonicalize", "schedule", "slice-and-group", "assign-buffers")
CRITERIA: dict[str, Callable[[Cost], float]] = {
    "FLOPs": lambda cost: cost.flops,
    "latency as built": lambda cost: cost.uncompiled_latency_s,
    "latency compiled": lambda cost: cost.latency_s,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--space", default="snapgen-v")
    parser.add_argument("--target", default="a18pro")
    parser.add_argument("--mem", default="3GB")
    parser.add_argument("--candidates", type=int, default=400)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    costs = CompiledCosts(find_space(options.space), options.target, options.mem, passes=PHONE)
    costs.meet_pairs()
    rng = random.Random(options.seed)
    known = {candidate: costs.cost(candidate) for candidate in _sample(costs, rng, options.candidates)}
    _write(options, _result(options, known, costs))


def _sample(costs: CompiledCosts, rng: random.Random, count: int) -> list[Candidate]:
    return list(dict.fromkeys(costs.compiler.space.sample(rng) for _ in range(count)))


def _result(options: argparse.Namespace, known: dict[Candidate, Cost], costs: CompiledCosts) -> dict[str, Any]:
    sizes = sorted(cost.weight_bytes for cost in known.values())
    least = sizes[int(len(sizes) * (1 - options.share))]
    equal = {candidate: cost for candidate, cost in known.items() if cost.weight_bytes >= least}
    within = {name: _within(equal, name, parse_bytes(options.mem)) for name in CRITERIA}
    chosen = {name: min(within[name], key=lambda c, name=name: CRITERIA[name](equal[c])) for name in CRITERIA}
    best = equal[chosen["latency compiled"]].latency_s
    ranks = {name: _ranks(equal, measure) for name, measure in CRITERIA.items()}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "space": options.space,
        "target": options.target,
        "memory": options.mem,
        "passes": list(PHONE),
        "candidates": len(known),
        "equal": len(equal),
        "least_weight_bytes": least,
        "counts": vars(costs.counts),
        "chosen": {name: _row(candidate, equal[candidate], best) for name, candidate in chosen.items()},
        "fit": {name: len(found) for name, found in within.items()},
        "rank_correlation": {name: _correlation(rank, ranks["latency compiled"]) for name, rank in ranks.items()},
    }


def _within(equal: dict[Candidate, Cost], name: str, memory: int) -> list[Candidate]:
    """Who ranks by the network as it was built takes what fits as it was built, if anything does."""
    if name == "latency compiled":
        return [candidate for candidate, cost in equal.items() if cost.feasible]
    return [candidate for candidate, cost in equal.items() if cost.uncompiled_peak_bytes <= memory] or list(equal)


def _row(candidate: Candidate, cost: Cost, best: float) -> dict[str, Any]:
    return {
        "candidate": list(candidate),
        "flops": cost.flops,
        "as_built_s": cost.uncompiled_latency_s,
        "compiled_s": cost.latency_s,
        "peak_bytes": cost.peak_bytes,
        "weight_bytes": cost.weight_bytes,
        "slower_than_best": cost.latency_s / best - 1.0,
    }


def _ranks(known: dict[Candidate, Cost], measure: Callable[[Cost], float]) -> list[int]:
    order = sorted(range(len(known)), key=[measure(cost) for cost in known.values()].__getitem__)
    ranks = [0] * len(order)
    for rank, i in enumerate(order):
        ranks[i] = rank
    return ranks


def _correlation(a: list[int], b: list[int]) -> float:
    """Spearman's rank correlation."""
    n = len(a)
    return 1.0 - 6.0 * sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / (n * (n * n - 1))


def _write(options: argparse.Namespace, r: dict[str, Any]) -> None:
    name = f"{r['date']}-cost-matters-{options.space}-{options.target}-{options.mem}".lower()
    (RESULTS / f"{name}.json").write_text(json.dumps(r, indent=2) + "\n", encoding="utf-8")
    lines = [
        f"# The cheapest network by three criteria: {r['space']}, {r['target']}, {r['memory']} ({r['date']})",
        "",
        f"Of {r['candidates']} random candidates the {r['equal']} with at least {r['least_weight_bytes'] / 1e6:.0f} MB "
        "of weights count as equally good: parameters stand in for quality, which was not measured. Latencies are "
        "simulated.",
        "",
        "| cheapest by | TFLOP | as built | compiled | slower than the best | needs | rank correlation with compiled |",
        "|---|---|---|---|---|---|---|",
    ]
    for criterion, row in r["chosen"].items():
        lines.append(
            f"| {criterion} | {row['flops'] / 1e12:.2f} | {row['as_built_s']:.3f} s | {row['compiled_s']:.3f} s "
            f"| {row['slower_than_best']:+.1%} | {row['peak_bytes'] / 1e9:.2f} GB "
            f"| {r['rank_correlation'][criterion]:.3f} |"
        )
    lines += ["", "Chosen:", ""]
    lines += [f"- {criterion}: {', '.join(row['candidate'])}" for criterion, row in r["chosen"].items()]
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
