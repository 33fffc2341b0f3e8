"""Slices that overlap: what `pipeline-slices` is predicted to gain at full size, and what it gains on a GPU.

    python -m tests.benchmarks.pipelined_slices                   # predictions; writes results/DATE-pipelined-slices.*
    python -m tests.benchmarks.pipelined_slices --measure         # on a CUDA device: the same programs, timed
    python -m tests.benchmarks.pipelined_slices --plans FOLDER    # programs saved in FOLDER/NETWORK, not sliced anew

Each network is sliced to its budget, then its loops are pipelined within the same budget, and within 2 % and a tenth
more. The budget of a saved program is what it needs.
``gain``: of the whole network's latency. ``ceiling``: the same if kernels that are bound by memory took no units from
others, which no GPU does with plain streams: what scheduling within units could add at the most.

With ``--measure`` both programs run with random weights in fp16: outputs are compared bit for bit, latency is the
median of CUDA events after a warm-up, eagerly and as one recorded CUDA graph, memory what the allocator reserves.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.gpu_validate import WARM_UP, _timed, example, random_weights, target_here, versions
from vgcomp.backends.torch_module import TorchModule
from vgcomp.cost_models import AnalyticModel
from vgcomp.cost_models.base import Cost, OpWork
from vgcomp.device_memory import device_memory
from vgcomp.execution import Mode
from vgcomp.models import build
from vgcomp.optimize import optimize
from vgcomp.passes.base import PassContext
from vgcomp.passes.pipeline import run_pass
from vgcomp.passes.pipeline_slices import PipelineSlices
from vgcomp.program import Program
from vgcomp.simulate import simulate
from vgcomp.targets import Target, load_target
from vgcomp.units import parse_bytes

RESULTS = Path(__file__).parent / "results"
SIZE = {"frames": 14, "height": 576, "width": 1024}
CASES = (("svd-vae-decoder", "5GB"), ("svd-unet", "4.5GB"))
MODES: tuple[Mode, ...] = ("eager", "graph", "compiled")
#: Budgets for the pass, relative to what the program was sliced to.
ROOMS = (1.0, 1.02, 1.1)


class Ceiling(AnalyticModel):
    """Kernels bound by memory take no units."""

    def op_seconds(self, work: OpWork, target: Target) -> Cost:
        cost = super().op_seconds(work, target)
        phases = (replace(p, units=0.0) if p.bandwidth > 0.99 else p for p in cost.phases)
        return replace(cost, phases=tuple(phases))


@dataclass
class Row:
    """One network under one budget. Seconds by mode, bytes; ``measured``: the same from a device."""

    network: str
    budget: int
    room: float
    loops: int
    pipelined: int
    over_budget: int
    before_bytes: int
    after_bytes: int
    before_s: dict[str, float]
    after_s: dict[str, float]
    ceiling: float
    measured: dict[str, Any] = field(default_factory=dict)

    def gain(self, mode: str) -> float:
        """The share of the latency that is saved."""
        return 1.0 - self.after_s[mode] / self.before_s[mode]


def planned(network: str, budget: int, target: Target, plans: Path | None) -> tuple[Program, int]:
    """The network sliced to its budget, and that; or as it was saved, and what that needs."""
    if plans is None:
        return optimize(build(network, **SIZE), target=target, memory=budget).program, budget
    saved = Program.load(plans / network)
    return saved, device_memory(saved, target).total_bytes


def rows(network: str, sliced: Program, budget: int, target: Target, rounds: int) -> Iterator[Row]:
    """The sliced network, pipelined in each room; measured where ``rounds`` is not 0."""
    for room in ROOMS:
        row, made = predicted(network, sliced, int(budget * room), room, target)
        if rounds:
            row.measured = measured(sliced, made, rounds)
        yield row


def predicted(network: str, sliced: Program, budget: int, room: float, target: Target) -> tuple[Row, Program]:
    """The row, and the pipelined program."""
    model = AnalyticModel(target)
    result, _ = run_pass(PipelineSlices(), sliced, PassContext(target, model, budget))
    ceiling = Ceiling(target)
    best, _ = run_pass(PipelineSlices(), sliced, PassContext(target, ceiling, budget))
    most = 1.0 - simulate(best.program, target, ceiling).latency_s / simulate(sliced, target, ceiling).latency_s
    needs = device_memory(result.program, target).total_bytes
    assert needs <= budget, "a budget holds"
    seconds = [
        {mode: simulate(p, target, model, mode=mode).latency_s for mode in MODES} for p in (sliced, result.program)
    ]
    loops = sum("sliced" in str(node.target) for node in sliced.graph.nodes)
    found = [int(result.stats.get(name, 0)) for name in ("pipelined", "over_budget")]
    before = device_memory(sliced, target).total_bytes
    return Row(network, budget, room, loops, *found, before, needs, *seconds, most), result.program


def measured(sliced: Program, made: Program, rounds: int) -> dict[str, Any]:
    """Seconds of both programs by mode, bytes reserved, and whether the outputs are the same."""
    device = torch.device("cuda")
    weights, given = random_weights(sliced, device), example(sliced, device)
    found: dict[str, Any] = {}
    outputs: list[tuple[Tensor, ...]] = []
    for name, program in (("sliced", sliced), ("pipelined", made)):
        module = TorchModule(program, weights=weights).to(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        with torch.inference_mode():
            for _ in range(WARM_UP):
                kept = module(*given)
            eager = statistics.median(_timed(module, given) for _ in range(rounds))
            found[name] = {"eager": eager, "reserved_bytes": torch.cuda.max_memory_reserved()}
            found[name]["graph"] = statistics.median(_timed(_recorded(module, given), ()) for _ in range(rounds))
        outputs.append(kept)
    found["same"] = all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
    return found


def _recorded(module: TorchModule, given: tuple[Tensor, ...]) -> Any:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        module(*given)
    replay: Callable[[], None] = graph.replay
    return replay


def table(found: Sequence[Row]) -> str:
    """A line a row; gains in percent of the whole network's latency."""
    lines = [
        "| network | budget, GB | pipelined | needs, GB | latency, ms | gain: eager | graph | compiled | ceiling |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found:
        gains = " | ".join(f"{row.gain(mode):.2%}" for mode in MODES)
        lines.append(
            f"| {row.network} | {row.budget / 1e9:.2f} | {row.pipelined} of {row.loops} "
            f"| {row.before_bytes / 1e9:.2f} → {row.after_bytes / 1e9:.2f} "
            f"| {row.before_s['eager'] * 1e3:.1f} → {row.after_s['eager'] * 1e3:.1f} | {gains} | {row.ceiling:.2%} |"
        )
    timed = [row for row in found if row.measured]
    lines += [f"\nMeasured, {row.network} at {row.budget / 1e9:.2f} GB: `{json.dumps(row.measured)}`" for row in timed]
    return "\n".join(lines) + "\n"


def write(found: Sequence[Row], target: Target, folder: Path) -> Path:
    """Dated json and md: figures, hardware, versions."""
    date = datetime.date.today().isoformat()
    timed = any(row.measured for row in found)
    device = torch.cuda.get_device_name() if timed else f"no GPU: predictions, made on {platform.machine()}"
    record = {"date": date, "target": target.name, "device": device, "versions": versions()}
    stem = folder / f"{date}-pipelined-slices{f'-{target.name}' if timed else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record | {"rows": [asdict(row) for row in found]}, indent=1) + "\n"
    stem.with_suffix(".json").write_text(text, encoding="utf-8")
    command = f"python -m tests.benchmarks.pipelined_slices{' --measure' if timed else ''}"
    head = (
        f"{date}, `{command}`: {SIZE['frames']} frames of "
        f"{SIZE['height']}×{SIZE['width']}, fp16, target {target.name}, {device}; torch {torch.__version__}, "
        f"Python {platform.python_version()}. Latencies are simulated (analytic cost model) unless called measured.\n\n"
    )
    stem.with_suffix(".md").write_text(head + table(found), encoding="utf-8")
    return stem.with_suffix(".md")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help="one network")
    parser.add_argument("--measure", action="store_true", help="time both programs on this machine's CUDA device")
    parser.add_argument("--plans", type=Path, help="folder of saved sliced programs, by network")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.measure and not torch.cuda.is_available():
        print("pipelined_slices: --measure needs a CUDA device", file=sys.stderr)
        return 5
    target = target_here() if options.measure else load_target("a100")
    found: list[Row] = []
    for network, budget in CASES:
        if options.only in (None, network):
            sliced, held = planned(network, parse_bytes(budget), target, options.plans)
            found += rows(network, sliced, held, target, options.rounds if options.measure else 0)
            print(table(found), flush=True)
            write(found, target, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
