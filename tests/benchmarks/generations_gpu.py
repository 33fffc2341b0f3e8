"""Whole generations on a real GPU, beside their plans: every stage in its turn, within the budget or not at all.

    python -m tests.benchmarks.generations_gpu                       # writes results/DATE-generations-TARGET.json, .md
    python -m tests.benchmarks.generations_gpu --only svd --rounds 3

A pipeline is planned as `vgcomp optimize PIPELINE --mem SIZE` does and run in a process of its own, with random weights
in pinned memory: weights that are kept are copied first, then stage after stage loads its own, runs with what the
pipeline holds beside it, and drops them. PyTorch may take no more than the budget leaves beside the context, so that a
plan that needs more fails. Measured are what tensors and the allocator take at their peak, seconds of a run by CUDA
events, and the rate of copies.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.generations import CASES, RESULTS
from tests.benchmarks.gpu_validate import example, process_bytes, random_weights, target_here, versions
from vgcomp.backends.torch_runtime import compile_graph
from vgcomp.errors import UsageError
from vgcomp.generation.joint import generate_plan, stages_of
from vgcomp.generation.report import GenerationReport, StageReport
from vgcomp.generation.streaming import Streamed
from vgcomp.models.pipelines import PIPELINES
from vgcomp.program import Program
from vgcomp.targets import Target, load_target
from vgcomp.units import GIB, parse_bytes

#: Seconds that one generation may take, building its weights included.
LIMIT_S = 3600


def run_folder(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Runs the saved plan on the current CUDA device; a record a stage."""
    report = GenerationReport.from_json((folder / "report.json").read_text(encoding="utf-8"))
    held = json.loads((folder / "held.json").read_text(encoding="utf-8"))
    programs = {stage.name: Program.load(folder / stage.name.replace(" ", "-")) for stage in report.stages}
    host = {name: _pinned(random_weights(program, torch.device("cpu"))) for name, program in programs.items()}
    _limit(report)
    device = torch.device("cuda")
    kept = {s.name: _copied(host[s.name], device) for s in report.stages if s.weights == "kept"}
    found = []
    for stage in report.stages:
        beside = [torch.empty(size, dtype=torch.uint8, device=device) for size in held[stage.name]]
        found.append(_run_stage(stage, programs[stage.name], host[stage.name], kept.get(stage.name), rounds))
        del beside
    return found


def _limit(report: GenerationReport) -> None:
    """No more than the budget leaves beside what the process itself takes, as the plan has it."""
    context = report.stages[0].after.parts["context"]
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (report.budget_bytes - context) / total))


def _run_stage(
    stage: StageReport, program: Program, host: Mapping[str, Tensor], kept: Mapping[str, Tensor] | None, rounds: int
) -> dict[str, Any]:
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    weights: Mapping[str, Tensor] = kept or {}
    if stage.weights == "loaded":
        weights = _copied(host, device)
    elif stage.weights == "streamed":
        weights = Streamed(host, device)
    torch.cuda.synchronize()
    copy_s = time.perf_counter() - begin
    code, inputs = compile_graph(program.graph), example(program, device)
    with torch.inference_mode():
        seconds = [_timed(code, inputs, weights) for _ in range(min(stage.runs, rounds) + 1)]
    parts = stage.after.parts
    return {
        "stage": stage.name,
        "weights": stage.weights,
        "copy_s": copy_s if stage.weights == "loaded" else 0.0,
        "predicted_copy_s": stage.copy_s if stage.weights == "loaded" else 0.0,
        "latency_s": statistics.median(seconds[1:]),
        "predicted_latency_s": stage.after.latency_s,
        "allocated_bytes": torch.cuda.max_memory_allocated(),
        # What tensors take: the allocator's gaps, the context and what comes after the run are not in it.
        "predicted_allocated_bytes": sum(
            parts.get(name, 0) for name in ("weights", "activations", "workspaces", "other weights", "held")
        ),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
        "used_bytes": process_bytes(),
        "predicted_bytes": stage.after.peak_bytes,
    }


def _timed(code: Any, inputs: Sequence[Tensor], weights: Mapping[str, Tensor]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    code.run(inputs, weights)
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) * 1e-3


def _pinned(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.pin_memory() for name, tensor in weights.items()}


def _copied(weights: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in weights.items()}


def measured_apart(pipeline: str, budget: str, target: Target, rounds: int) -> dict[str, Any]:
    """Plans a pipeline, and runs it in a process of its own."""
    result = generate_plan(pipeline, target=target, memory=parse_bytes(budget))
    held = {stage.name: stage.held for stage in stages_of(PIPELINES[pipeline], {})}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result.save(folder)
        (folder / "held.json").write_text(json.dumps(held), encoding="utf-8")
        command = [sys.executable, "-m", "tests.benchmarks.generations_gpu", "--run", str(folder)]
        told = subprocess.run(
            [*command, "--rounds", str(rounds)], capture_output=True, text=True, check=False, timeout=LIMIT_S
        )
    if told.returncode:
        raise RuntimeError(told.stderr.strip().splitlines()[-1] if told.stderr.strip() else "no word of why")
    stages = json.loads(told.stdout.strip().splitlines()[-1])
    return {"pipeline": pipeline, "budget": budget, "stages": stages}


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Errors of the predictions, a line a stage."""
    lines = [
        "| pipeline | stage | weights | a run, ms | error | tensors, GiB | error | reserved, GiB | plan needs, GiB |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for run in runs:
        for s in run["stages"]:
            slow = s["predicted_latency_s"] / s["latency_s"] - 1
            more = s["predicted_allocated_bytes"] / s["allocated_bytes"] - 1
            lines.append(
                f"| {run['pipeline']}, {run['budget']} | {s['stage']} | {s['weights']} | {1e3 * s['latency_s']:.1f} "
                f"| {100 * slow:+.1f} % | {s['allocated_bytes'] / GIB:.3f} | {100 * more:+.1f} % "
                f"| {s['reserved_bytes'] / GIB:.3f} | {s['predicted_bytes'] / GIB:.3f} |"
            )
    return "\n".join(lines) + "\n"


def write(runs: Sequence[Mapping[str, Any]], target: Target, folder: Path) -> None:
    """The dated record of all generations so far."""
    date = datetime.date.today().isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name()
    record = {"schema": "vgcomp.generations-gpu/1", "date": date, "target": target.name, "device": device}
    path = folder / f"{date}-generations-{target.name}.json"
    path.write_text(json.dumps({**record, "versions": versions(), "runs": list(runs)}, indent=1) + "\n", "utf-8")
    text = f"Measured {date} by `python -m tests.benchmarks.generations_gpu` on {device}.\n\n"
    path.with_suffix(".md").write_text(text + table(runs), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 0 where all generations ran within their budgets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=[case.pipeline for case in CASES])
    parser.add_argument("--target", help="default: the one whose name is in the device's")
    parser.add_argument("--rounds", type=int, default=5, help="runs of a stage at the most")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.run:
        print(json.dumps(run_folder(options.run, options.rounds)))
        return 0
    try:
        target = load_target(options.target) if options.target else target_here()
        if not torch.cuda.is_available():
            raise UsageError("no CUDA device here; this benchmark needs one")
    except UsageError as error:
        print(f"generations_gpu: {error}", file=sys.stderr)
        return 5
    return run_all(options.only, target, options.rounds, options.out)


def run_all(only: Sequence[str] | None, target: Target, rounds: int, out: Path) -> int:
    """All cases at their first budget, each written as soon as it is there."""
    runs: list[dict[str, Any]] = []
    failed = 0
    for case in CASES:
        if only and case.pipeline not in only:
            continue
        print(f"{case.pipeline}, {case.budgets[0]} ...", file=sys.stderr, flush=True)
        try:
            runs.append(measured_apart(case.pipeline, case.budgets[0], target, rounds))
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"  {error}", file=sys.stderr)
            failed += 1
            continue
        write(runs, target, out)
    print(table(runs))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
