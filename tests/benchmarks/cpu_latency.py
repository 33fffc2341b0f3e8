"""Latency on this CPU, predicted from ops that were profiled on other networks, against what was measured.

    python -m tests.benchmarks.cpu_latency profile     # ops of some networks into the table of the target cpu
    python -m tests.benchmarks.cpu_latency measure     # other networks, whole: predicted and timed

Nothing is fitted to the timing of a whole network. ``measure`` runs every network as it is and sliced to a budget, in
turns, and ten plans of one network from the fastest to the smallest, and writes a dated result.

A processor's speed drifts with its clock and its neighbours, by more than what is to be judged here. So ``measure``
also times ops of the table anew, those of some profiled networks, before and after: predictions are scaled by how much
longer these take now. None of them is an op of a network that is predicted, unless it was profiled with another.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vgcomp import ir
from vgcomp.backends.torch_module import TorchModule
from vgcomp.cost_models import AnalyticModel
from vgcomp.cost_models.measured import MeasuredModel
from vgcomp.errors import Infeasible
from vgcomp.models import build
from vgcomp.optimize import DEFAULT_PIPELINE
from vgcomp.passes.base import PassContext, no_progress
from vgcomp.passes.pipeline import run_pipeline
from vgcomp.passes.registry import build_pipeline
from vgcomp.profiling.calls import calls_of
from vgcomp.profiling.runner import TorchRunner, clock_ns, keep_memory, use_threads
from vgcomp.program import Program
from vgcomp.simulate import simulate
from vgcomp.targets import Target, load_target
from vgcomp.validate import cpu

RESULTS = Path(__file__).parent / "results"
#: What `vgcomp validate` shows.
RECORDED = Path(cpu.PATH)
Sizes = dict[str, int]

#: Whose ops are profiled, as they are and sliced.
PROFILED: tuple[tuple[str, Sizes], ...] = (
    ("sd-vae-decoder-small", {}),
    ("sd-vae-decoder-small", {"height": 96, "width": 96}),
    ("animatediff-unet-small", {}),
    ("animatediff-unet-small", {"frames": 6, "height": 64, "width": 128}),
    ("wan-1.3b-small", {}),
    ("wan-1.3b-small", {"frames": 17, "height": 128, "width": 160}),
    ("wan-1.3b-small", {"frames": 21, "height": 256, "width": 256}),
    ("ltx-vae-decoder-small", {}),
    ("ltx-vae-decoder-small", {"frames": 25, "height": 128, "width": 128}),
    ("t5-xxl-encoder-small", {}),
    ("wan-vae-decoder-small", {"frames": 5, "height": 48, "width": 64}),
    ("svd-vae-encoder-small", {}),
    ("wan-vae-decoder-small", {"frames": 9, "height": 80, "width": 80}),
    ("ltx-vae-decoder-small", {"frames": 17, "height": 64, "width": 96}),
    ("sd-vae-decoder-small", {"frames": 2, "height": 128, "width": 64}),
    ("cogvideox-vae-decoder-small", {"frames": 5, "height": 48, "width": 64}),
    ("cogvideox-vae-decoder-small", {"frames": 9, "height": 80, "width": 80}),
    ("cogvideox-vae-decoder-small", {"frames": 13, "height": 96, "width": 64}),
    ("svd-vae-decoder-small", {"frames": 3, "height": 48, "width": 64}),
    ("svd-vae-decoder-small", {"frames": 6, "height": 80, "width": 80}),
    ("cogvideox-2b-small", {}),
    ("cogvideox-2b-small", {"frames": 9, "height": 192, "width": 192}),
    ("ltx-video-small", {}),
    ("ltx-video-small", {"frames": 17, "height": 256, "width": 256}),
    ("ltx-vae-decoder-small", {"frames": 9, "height": 64, "width": 192}),
    ("wan-vae-decoder-small", {"frames": 13, "height": 48, "width": 96}),
)

#: Predicted and then timed: at sizes that were not profiled, some (svd-unet, snapgen-v, clip) at none.
HELD_OUT: tuple[tuple[str, Sizes], ...] = (
    ("svd-unet-small", {}),
    ("svd-vae-decoder-small", {}),
    ("cogvideox-vae-decoder-small", {}),
    ("cogvideox-2b-small", {"frames": 17, "height": 128, "width": 192}),
    ("ltx-video-small", {"frames": 33, "height": 256, "width": 384}),
    ("snapgen-v-small", {}),
    ("snapgen-v-small", {"frames": 4, "height": 128, "width": 128}),
    ("clip-vit-h-vision-small", {}),
    ("wan-vae-decoder-small", {}),
    ("sd-vae-decoder-small", {"frames": 3, "height": 80, "width": 112}),
    ("animatediff-unet-small", {"frames": 5, "height": 128, "width": 128}),
    ("wan-1.3b-small", {"frames": 13, "height": 192, "width": 192}),
    ("ltx-vae-decoder-small", {"frames": 9, "height": 96, "width": 160}),
)
#: Of the unmodified network's peak of activations.
BUDGET = 0.6
#: The network whose plans are ranked.
RANKED = ("svd-vae-decoder-small", {})
PLANS = 10
#: Whose ops are timed anew.
RETIMED = PROFILED[0:1] + PROFILED[2:3] + PROFILED[4:5] + PROFILED[8:9]
RETIMED_REPEATS = 10
#: Turns; in each, a network runs until it is warm and then for so many seconds, at least so often.
ROUNDS, WARM_S, RUN_S, RUNS = 8, 0.05, 0.12, 3


@dataclass
class Case:
    """One program, predicted and timed; seconds. ``predicted`` has the drift in it, ``as_profiled`` has not."""

    name: str
    form: str
    measured: float
    spread: float
    predicted: float
    as_profiled: float
    analytic: float
    #: Share of the prediction by where it comes from.
    sources: dict[str, float]

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1.0


def title(name: str, sizes: Sizes) -> str:
    """``svd-unet-small, frames 4``."""
    return ", ".join([name, *(f"{key} {value}" for key, value in sizes.items())])


def sliced(program: Program, target: Target, share: float) -> Program | None:
    """The program within ``share`` of its peak of activations; None where nothing fits."""
    model = AnalyticModel(target)
    peak = simulate(program, target, model).peak_activation_bytes
    context = PassContext(target, model, program.weight_bytes() + int(share * peak), no_progress)
    try:
        return run_pipeline(program, build_pipeline(DEFAULT_PIPELINE), context).program
    except Infeasible:
        return None


def programs(target: Target) -> Iterator[tuple[str, str, Program]]:
    for name, sizes in HELD_OUT:
        program = build(name, **sizes)
        yield title(name, sizes), "unmodified", program
        smaller = sliced(program, target, BUDGET)
        if smaller is not None:
            yield title(name, sizes), "sliced", smaller


def plans(target: Target) -> list[Program]:
    """Plans of one network at budgets from what it takes unmodified downwards, each once, evenly over the range."""
    program, model = build(RANKED[0], **RANKED[1]), AnalyticModel(target)
    found = {0: program}
    for percent in range(95, 25, -3):
        smaller = sliced(program, target, percent / 100)
        if smaller is not None:
            found.setdefault(simulate(smaller, target, model).peak_activation_bytes, smaller)
    every, last = list(found.values()), len(found) - 1
    return [every[i] for i in sorted({round(k * last / (PLANS - 1)) for k in range(PLANS)})]


def example(program: Program) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    values = (ir.val(node) for node in program.inputs)
    return tuple(
        torch.randn(tuple(x.shape), generator=generator).to(x.dtype)
        if x.is_floating_point()
        else torch.randint(0, 8, tuple(x.shape), generator=generator).to(x.dtype)
        for x in values
    )


def timed(cases: Sequence[Program], threads: int, rounds: int) -> list[tuple[float, float]]:
    """(median seconds, half the distance between the quartiles) of each, run in turns."""
    keep_memory()
    clock = clock_ns(threads)
    modules = [TorchModule(program) for program in cases]
    inputs = [example(program) for program in cases]
    times: list[list[float]] = [[] for _ in cases]
    with use_threads(threads), torch.inference_mode():
        gc.collect()
        gc.disable()
        for _ in range(rounds):
            for module, given, found in zip(modules, inputs, times, strict=True):
                run_for(module, given, clock, WARM_S, 1)
                found += run_for(module, given, clock, RUN_S, RUNS)
        gc.enable()
    quartiles = [statistics.quantiles(found, n=4) for found in times]
    return [(q[1], (q[2] - q[0]) / 2) for q in quartiles]


def run_for(
    module: TorchModule, given: tuple[Tensor, ...], clock: Callable[[], int], seconds: float, least: int
) -> list[float]:
    """Seconds of each run."""
    found: list[float] = []
    while len(found) < least or sum(found) < seconds:
        begin = clock()
        module(*given)
        found.append((clock() - begin) * 1e-9)
    return found


def retimed(target: Target, model: MeasuredModel) -> float:
    """How much longer the table's ops take now than they did: the ratio of the sums over some networks' ops."""
    runner = TorchRunner(model.table.metadata.threads)
    now = before = 0.0
    for name, sizes in RETIMED:
        calls = [call for call in calls_of([build(name, **sizes)], target) if call in model.table.rows]
        for call, timing in zip(calls, runner.time(calls, RETIMED_REPEATS), strict=True):
            now, before = now + timing.seconds, before + model.table.rows[call].seconds
    return now / before


def compare(named: Sequence[tuple[str, str, Program]], target: Target, rounds: int) -> tuple[list[Case], float]:
    """The cases, and the drift by which their predictions are scaled."""
    measured_model, analytic = MeasuredModel(target), AnalyticModel(target)
    cases = []
    first = retimed(target, measured_model)
    seconds = timed([program for _, _, program in named], measured_model.table.metadata.threads, rounds)
    drift = (first + retimed(target, measured_model)) / 2
    for (name, form, program), (median, spread) in zip(named, seconds, strict=True):
        timeline = simulate(program, target, measured_model)
        shares = {kind: s / timeline.latency_s for kind, s in sorted(timeline.sources.items())}
        plain = simulate(program, target, analytic).latency_s
        predicted = drift * timeline.latency_s
        cases.append(Case(name, form, median, spread, predicted, timeline.latency_s, plain, shares))
    return cases, drift


def tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b."""
    from scipy.stats import kendalltau

    return float(kendalltau(a, b).statistic)


def run_profile(target: str, networks: Sequence[tuple[str, Sizes]]) -> None:
    from vgcomp.cli.main import main

    budgets = ["--mem", "60%", "--mem", "30%"]
    for name, sizes in networks:
        settings = [part for key, value in sizes.items() for part in ("--set", f"{key}={value}")]
        print(title(name, sizes), flush=True)
        assert main(["profile", name, *settings, "--target", target, *budgets]) == 0


def run_measure(target: Target, rounds: int) -> dict[str, Any]:
    before = os.getloadavg()
    cases, drift = compare(list(programs(target)), target, rounds)
    ranked, ranked_drift = compare(
        [(title(*RANKED), f"plan {i}", program) for i, program in enumerate(plans(target))], target, rounds
    )
    measured = [case.measured for case in ranked]
    return {
        "date": datetime.date.today().isoformat(),
        "table": MeasuredModel(target).table.metadata.model_dump(by_alias=True),
        "load_before": before,
        "load_after": os.getloadavg(),
        "drift": drift,
        "drift_of_plans": ranked_drift,
        "cases": [asdict(case) for case in cases],
        "plans": [asdict(case) for case in ranked],
        "tau": tau([case.predicted for case in ranked], measured),
        "tau_analytic": tau([case.analytic for case in ranked], measured),
    }


def markdown(result: dict[str, Any]) -> str:
    lines = [
        f"# Latency on {result['table']['device']}, {result['table']['threads']} threads, {result['date']}",
        "",
        "Ops profiled on other networks; nothing fitted to a whole network. Load average before and after: "
        f"{result['load_before'][0]:.2f}, {result['load_after'][0]:.2f}. ± is half the distance between the quartiles. "
        f"Ops of the table timed anew took {result['drift']:.3f} times as long as when profiled, those of the plans "
        f"{result['drift_of_plans']:.3f} times: predictions are scaled by that.",
        "",
        "| network | form | measured, ms | predicted, ms | error | analytic alone | looked up | interpolated |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(case) for case in (*result["cases"], *result["plans"])]
    for key, label in (
        ("predicted", "measured model"),
        ("as_profiled", "measured model, not scaled"),
        ("analytic", "analytic alone"),
    ):
        errors = [abs(case[key] / case["measured"] - 1.0) for case in result["cases"]]
        lines.append(
            f"\nMean error of the {label}: {100 * statistics.mean(errors):.1f} %, worst {100 * max(errors):.1f} %, "
            f"{len(errors)} cases."
        )
    lines += [
        "",
        f"Kendall's τ over {len(result['plans'])} plans: {result['tau']:.2f}; {result['tau_analytic']:.2f} alone.",
    ]
    return "\n".join(lines) + "\n"


def _row(case: dict[str, Any]) -> str:
    shares = [f"{100 * case['sources'].get(kind, 0.0):.0f} %" for kind in ("measured", "interpolated")]
    errors = [f"{100 * (case[key] / case['measured'] - 1.0):+.1f} %" for key in ("predicted", "analytic")]
    figures = [f"{1e3 * case['measured']:.2f} ± {1e3 * case['spread']:.2f}", f"{1e3 * case['predicted']:.2f}"]
    return f"| {' | '.join([case['name'], case['form'], *figures, *errors, *shares])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("profile", "measure"))
    parser.add_argument("--target", default="cpu", help="cpu-1 is one thread, timed by its processor time")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of measuring")
    parser.add_argument("--only", type=int, help="profile the last so many networks")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    target = load_target(options.target)
    if options.step == "profile":
        run_profile(target.name, PROFILED[-(options.only or 0) :])
        return
    result = run_measure(target, options.rounds)
    stem = options.out / f"{result['date']}-{target.name}-latency"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    RECORDED.write_text(json.dumps({key: result[key] for key in ("date", "table", "drift", "cases")}, indent=1) + "\n")
    text = markdown(result)
    stem.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
