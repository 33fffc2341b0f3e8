"""Whole pipelines: the least memory a generation goes through with, and what it takes within stated budgets.

    python -m tests.benchmarks.generations                      # hours on a CPU; writes results/
    python -m tests.benchmarks.generations --only svd --no-write

What `vgcomp optimize PIPELINE --mem SIZE --target a100` reports: fp16, tensors without data, all stages planned
together under the analytic cost model, ops run eagerly. On a machine with a GPU,
`python -m tests.benchmarks.generations_gpu` runs the same plans and measures them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from vgcomp.errors import Infeasible
from vgcomp.generation.joint import Generation, culprit_of, stages_of
from vgcomp.generation.report import GenerationReport
from vgcomp.models.pipelines import PIPELINES
from vgcomp.units import GB, format_seconds, parse_bytes

RESULTS = Path(__file__).parent / "results"
#: Latency, relative to the unmodified pipeline's, that a plan may take at its first budget.
LATENCY = 1.02


@dataclass(frozen=True)
class Case:
    """A pipeline and the budgets to plan it for; the first is held to ``LATENCY`` where ``barred``."""

    pipeline: str
    budgets: tuple[str, ...]
    barred: bool = False
    #: Table 1 of Streamlined Inference, GiB at 576×1024: original, naive slicing, their method.
    published: tuple[float, float, float] | None = None


CASES = (
    Case("svd", ("8GB", "6GB"), True, (39.49, 10.72, 23.42)),
    Case("animatediff", ("6GB", "4GB"), True, (41.71, 9.92, 11.07)),
    Case("svd-xt", ("10GB", "8GB"), True, (61.17, 10.72, 36.32)),
    Case("snapgen-v", ("4GB", "3GB")),
    Case("wan-1.3b", ("16GB", "12GB")),
    Case("cogvideox-2b", ("16GB", "12GB")),
)


@dataclass(frozen=True)
class Planned:
    """A plan at a budget, both in bytes; latency relative to the unmodified pipeline's; seconds that planning took."""

    budget: int
    peak: int
    peak_stage: str
    ratio: float
    copy_s: float
    weights: dict[str, str]
    seconds: float


@dataclass(frozen=True)
class Row:
    """A pipeline's figures. ``smallest``: the least feasible budget found, what stands at its peak, and where."""

    pipeline: str
    unmodified: int
    unmodified_s: float
    plans: list[Planned]
    missed: list[str]
    smallest: int
    culprit: str
    smallest_plan: Planned | None
    published: tuple[float, float, float] | None


def measure(case: Case, target: str, *, smallest: bool) -> Row:
    """The case at its budgets, and at the smallest."""
    pipeline = PIPELINES[case.pipeline]
    generation = Generation(case.pipeline, stages_of(pipeline, {}), target, progress=_tell)
    plans: list[Planned] = []
    missed: list[str] = []
    reports: list[GenerationReport] = []
    for budget in case.budgets:
        try:
            plans.append(_planned(generation, parse_bytes(budget), reports))
        except Infeasible as error:
            missed.append(f"{budget}: {error}")
    least, culprit, at_least = 0, "", None
    if smallest:
        found = generation.smallest()
        least = found.need_bytes
        culprit = f"{culprit_of(found.answer)} in {generation.stages[found.stage].name}"
        at_least = _planned(generation, least, reports)
    before = reports[0].before
    return Row(
        case.pipeline, before.peak_bytes, before.latency_s, plans, missed, least, culprit, at_least, case.published
    )  # fmt: skip


def _planned(generation: Generation, budget: int, reports: list[GenerationReport]) -> Planned:
    begin = time.perf_counter()
    report = generation.plan(budget).report
    reports.append(report)
    return Planned(
        budget,
        report.after.peak_bytes,
        report.after.peak_stage,
        report.latency_ratio,
        report.after.copy_s,
        {stage.name: stage.weights for stage in report.stages},
        time.perf_counter() - begin,
    )


def _tell(what: str, fraction: float) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


def markdown(rows: Sequence[Row]) -> str:
    """The tables."""
    lines = [
        "| pipeline | unmodified, GB | latency | budget, GB | needs, GB | at its peak | latency | copies | weights |",
        "|---|---:|---:|---:|---:|---|---:|---:|---|",
    ]
    for row in rows:
        for plan in [*row.plans, *([row.smallest_plan] if row.smallest_plan else [])]:
            what = " (smallest)" if plan is row.smallest_plan else ""
            lines.append(
                f"| {row.pipeline} | {row.unmodified / GB:.2f} | {format_seconds(row.unmodified_s)} "
                f"| {plan.budget / GB:.2f}{what} | {plan.peak / GB:.2f} | {plan.peak_stage} | ×{plan.ratio:.3f} "
                f"| {format_seconds(plan.copy_s)} | {_weights(plan.weights)} |"
            )
    lines += ["", "| pipeline | smallest feasible, GB | at its peak | Table 1, GiB: original, naive slices, theirs |"]
    lines.append("|---|---:|---|---|")
    for row in rows:
        published = ", ".join(map(str, row.published)) if row.published else "–"
        least = f"{row.smallest / GB:.2f}" if row.smallest else "–"
        lines.append(f"| {row.pipeline} | {least} | {row.culprit or '–'} | {published} |")
    lines += [f"\n{row.pipeline}, {text}" for row in rows for text in row.missed]
    return "\n".join(lines) + "\n"


def _weights(places: dict[str, str]) -> str:
    by_place: dict[str, list[str]] = {}
    for name, place in places.items():
        by_place.setdefault(place, []).append(name)
    return "; ".join(f"{place}: {', '.join(names)}" for place, names in by_place.items())


def write(rows: Sequence[Row], target: str, folder: Path) -> None:
    """``<date>-generations.json`` and ``.md``; rows of other pipelines written the same day stay."""
    date = datetime.date.today().isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{date}-generations.json"
    merged = {row.pipeline: row for row in [*_written(path), *rows]}
    kept = [merged[case.pipeline] for case in CASES if case.pipeline in merged]
    record = {
        "schema": "vgcomp.generations/1",
        "date": date,
        "target": target,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "cores": os.cpu_count(),
        "rows": [asdict(row) for row in kept],
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    text = (
        f"Predicted {date} by `python -m tests.benchmarks.generations`, target {target}, ops run eagerly. Memory is "
        "what the device must have: weights on it, activations, workspaces, what the allocator loses, the process; "
        "unmodified: all weights on it and every graph as it is, each value dropped at its last use (Table 1's "
        "pipelines keep more, and NVML counts what the allocator caches).\n\n"
    )
    path.with_suffix(".md").write_text(text + markdown(kept), encoding="utf-8")


def _written(path: Path) -> list[Row]:
    if not path.exists():
        return []
    return [_row(fields) for fields in json.loads(path.read_text(encoding="utf-8"))["rows"]]


def _row(fields: dict[str, object]) -> Row:
    plans = [Planned(**plan) for plan in fields.pop("plans")]  # type: ignore[attr-defined]
    least = fields.pop("smallest_plan")
    return Row(**fields, plans=plans, smallest_plan=Planned(**least) if least else None)  # type: ignore[arg-type]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 0 where every bar is met, else 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=[case.pipeline for case in CASES])
    parser.add_argument("--target", default="a100")
    parser.add_argument("--no-smallest", action="store_true", help="the stated budgets alone")
    parser.add_argument("--no-write", action="store_true", help="print the tables and write nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    for case in CASES:
        if options.only and case.pipeline not in options.only:
            continue
        print(f"{case.pipeline} ...", file=sys.stderr, flush=True)
        rows.append(measure(case, options.target, smallest=not options.no_smallest))
        if not options.no_write:
            write(rows[-1:], options.target, options.out)
    print(markdown(rows))
    barred = {case.pipeline for case in CASES if case.barred}
    held = all(row.plans and row.plans[0].ratio <= LATENCY for row in rows if row.pipeline in barred)
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
