"""Latencies of whole pipelines on an A100: fitted, one network left out, held out."""

from __future__ import annotations

from collections.abc import Iterator

from vgcomp.cost_models.analytic import AnalyticModel
from vgcomp.simulate import simulate
from vgcomp.targets import Target, load_target
from vgcomp.validate.fit import fit, with_efficiency
from vgcomp.validate.pipelines import RUNS, Run
from vgcomp.validate.row import Context, Role, Row

TARGET = "a100"


def latency_rows(context: Context) -> Iterator[Row]:
    """The six originals of Streamlined's Table 1, twice (fitted, and with their network left out), and CogVideoX."""
    if not context.wants(TARGET):
        return
    target = load_target(TARGET)
    for i, run in enumerate(RUNS):
        context.progress(f"{run.name}", i / len(RUNS))
        yield _row(run, target, "calibrated" if run.fitted else "held-out")
    yield from left_out_rows(context, target)


def left_out_rows(context: Context, target: Target) -> Iterator[Row]:
    """Each fitted run, predicted with constants fitted to the other networks' runs."""
    fitted = [run for run in RUNS if run.fitted]
    for family in dict.fromkeys(run.family for run in fitted):
        context.progress(f"fitting without {family}", 0.9)
        constants = fit([run for run in fitted if run.family != family], target)
        device = with_efficiency(target, constants)
        yield from (_row(run, device, "leave-one-out") for run in fitted if run.family == family)


def run_seconds(run: Run, target: Target) -> float:
    """Simulated seconds of all stages, one after the other."""
    model = AnalyticModel(target)
    return sum(
        stage.times * simulate(stage.program(), target, model, mode=stage.mode).latency_s for stage in run.stages
    )


def _row(run: Run, target: Target, role: Role) -> Row:
    return Row(
        name=run.name,
        target=TARGET,
        quantity="latency_s",
        figure=run.seconds,
        predicted=run_seconds(run, target),
        source=run.source,
        role=role,
    )
