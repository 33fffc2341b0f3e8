"""Subnets extracted from the supernets' graphs, against the supernets run eagerly with the same choice.

    python -m tests.benchmarks.extraction                       # 200 random choices of each reduced supernet
    python -m tests.benchmarks.extraction --choices 20 --full   # and the ends of the full-size spaces, by count

Errors are the largest difference over the largest value. In fp64 they tell a wrong graph from rounding; in fp32 they
are what a user sees: slices of weights and weights cut to size go through other kernels. Parameters are counted in the
graph and, independently, by the eager layers.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.models.supernets import Pair, pair
from tests.node_by_node import relative_error, run
from vgcomp.elastic import extract, marks_of
from vgcomp.models import build
from vgcomp.models.sned import CONFIGS, Supernet

RESULTS = Path(__file__).parent / "results"
SMALL = ("sned-pixel-small", "sned-latent-small")
FULL = ("sned-pixel", "sned-latent")


def reduced(name: str, dtype: torch.dtype, choices: int, seed: int = 0) -> dict[str, Any]:
    """Random choices of one supernet."""
    supernet = pair(name, dtype, frames=2, height=16, width=16)
    rng = random.Random(seed)
    rows = [_one(supernet, rng) for _ in range(choices)]
    errors, seconds, counts, same = zip(*rows, strict=True)
    return {
        "supernet": name,
        "dtype": str(dtype).removeprefix("torch."),
        "choices": choices,
        "largest_error": max(errors),
        "median_error": statistics.median(errors),
        "parameters_as_counted": sum(same),
        "parameters": [min(counts), max(counts)],
        "median_extraction_cpu_s": statistics.median(seconds),
    }


def _one(supernet: Pair, rng: random.Random) -> tuple[float, float, int, bool]:
    """(error, CPU seconds of the extraction, parameters, whether the eager count agrees) of one choice."""
    named = supernet.choice(rng)
    marks = marks_of(supernet.program)
    assert marks is not None
    begin = time.process_time()
    subnet = extract(supernet.program, marks, named)
    seconds = time.process_time() - begin
    wanted = supernet.run(named)
    error = relative_error(run(subnet, supernet.inputs)[0], wanted)
    count = subnet.parameters()
    return error, seconds, count, count == supernet.module.active_parameters()


def ends(name: str) -> list[dict[str, Any]]:
    """The smallest and the largest subnet at full size, without data."""
    program = build(name)
    marks = marks_of(program)
    assert marks is not None
    with torch.device("meta"):
        network = Supernet(CONFIGS[name], 16)
    rows = []
    for end in (0, -1):
        named = {choice: found.options[end] for choice, found in network.choices.items()}
        network.choose(named)
        begin = time.process_time()
        subnet = extract(program, marks, named)
        rows.append(
            {
                "supernet": name,
                "end": "smallest" if end == 0 else "largest",
                "parameters": subnet.parameters(),
                "eager_count": network.active_parameters(),
                "nodes": subnet.n_nodes,
                "extraction_cpu_s": time.process_time() - begin,
            }
        )
    return rows


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [
        f"# Subnets against their supernets, {result['date']}",
        "",
        f"PyTorch {result['torch']}, one CPU thread; clips of 2 frames of 16×16 pixels; seed 0.",
        "",
        "| supernet | dtype | choices | largest error | median error | counted alike | parameters | extraction CPU s |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r['supernet']} | {r['dtype']} | {r['choices']} | {r['largest_error']:.1e} | {r['median_error']:.1e} | "
        f"{r['parameters_as_counted']} | {r['parameters'][0]:,} – {r['parameters'][1]:,} | "
        f"{r['median_extraction_cpu_s']:.2f} |"
        for r in result["reduced"]
    ]
    if result["full"]:
        lines += ["", "| full size | end | parameters | eager count | nodes | extraction, CPU s |"]
        lines += ["|---|---|---:|---:|---:|---:|"]
    lines += [
        f"| {r['supernet']} | {r['end']} | {r['parameters']:,} | {r['eager_count']:,} | {r['nodes']} | "
        f"{r['extraction_cpu_s']:.2f} |"
        for r in result["full"]
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Exit code 1 where a subnet differs from its supernet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--choices", type=int, default=200)
    parser.add_argument("--fp32", type=int, default=50, help="choices that are run in fp32 too")
    parser.add_argument("--full", action="store_true", help="the ends of the full-size spaces too")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    result: dict[str, Any] = {"date": datetime.date.today().isoformat(), "torch": torch.__version__}
    result["full"] = [row for name in FULL for row in ends(name)] if options.full else []
    result["reduced"] = []
    for dtype, choices in ((torch.float64, options.choices), (torch.float32, options.fp32)):
        for name in SMALL:
            result["reduced"].append(reduced(name, dtype, choices))
            print(result["reduced"][-1], flush=True)
    file = options.out / f"{result['date']}-extraction"
    file.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text(table(result), encoding="utf-8")
    print(table(result))
    exact = (r for r in result["reduced"] if r["dtype"] == "float64")
    alike = all(r["parameters_as_counted"] == r["choices"] for r in result["reduced"])
    return 0 if alike and all(r["largest_error"] < 1e-12 for r in exact) else 1


if __name__ == "__main__":
    sys.exit(main())
