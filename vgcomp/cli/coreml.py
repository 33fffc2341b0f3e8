"""``vgcomp optimize --emit coreml``: parts for Apple's Neural Engine, and what each will need."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vgcomp.cli.console import say, table

if TYPE_CHECKING:
    from rich.table import Table

    from vgcomp.backends.coreml.artifact import Manifest
    from vgcomp.backends.coreml.predict import PartPrediction
    from vgcomp.cli.emit import Reported
    from vgcomp.cost_models.base import CostModel
    from vgcomp.optimize import OptimizeResult
    from vgcomp.program import Program
    from vgcomp.targets import Target

#: Before the device's own figures are taken: it has neither loops nor, but for a few scalars, fp32.
PREPARATION = "unroll-loops,{fold}half-precision"
#: The pipeline, in order.
PIPELINE = (
    "canonicalize",
    "legalize-coreml",  # before slicing and parts, which look at the ops that will run
    "canonicalize",  # legal forms leave views of views
    "schedule",
    "slice-and-unroll",  # where no parts fit without
    "partition{weight-bits=%d}",  # last: nothing may move across its cuts
)


@dataclass(frozen=True)
class Order:
    """What was asked for."""

    model: str
    settings: Sequence[str]
    target: Target
    costs: CostModel
    memory: str | None
    passes: str | None
    weights: str
    timesteps: str | None
    out: Path | None
    check: bool
    seed: int
    reports: Sequence[Path]


def optimize_coreml(order: Order, tell: Callable[[str, float], None]) -> None:
    """The command, once its options are known. ``order.out``: None where nothing is to be written."""
    from vgcomp.backends.coreml.compress import form_of
    from vgcomp.backends.coreml.require import require_coreml
    from vgcomp.errors import UsageError
    from vgcomp.report import write_report

    begin = time.perf_counter()
    form = form_of(order.weights)
    if order.target.kind != "ane":
        raise UsageError(f"--emit coreml is for Apple's Neural Engine, not for {order.target.name}: --target a18")
    if order.out is not None:
        require_coreml()
    original, result = _optimized(order, form.bits, tell)
    parts = _predicted(result.program, order, form.bits)
    done = _with_parts(result, parts, begin)
    manifest = None
    if order.out is not None:
        tell(f"writing {order.out}", 1.0)
        done, manifest = _write(done, original, order, order.out)
    for path in order.reports:
        write_report(done, path)
    _print(done, order, parts, manifest)


def _optimized(order: Order, bits: int, tell: Callable[[str, float], None]) -> tuple[Program, OptimizeResult]:
    """The network as it came, and optimized for the device."""
    from vgcomp.backends.tvm.artifact import require_weights
    from vgcomp.cli.emit import refuse_own_weights
    from vgcomp.cli.source import load_source
    from vgcomp.optimize import optimize
    from vgcomp.passes.base import PassContext
    from vgcomp.passes.pipeline import run_pipeline

    tell(f"reading {order.model}", 0.0)
    original = load_source(order.model, order.settings)
    if order.out is not None:
        refuse_own_weights(original, order.out)
        require_weights(original)
    fold = f"fold-timestep{{timesteps={'+'.join(order.timesteps.split(','))}}}," if order.timesteps else ""
    prepared = run_pipeline(original, PREPARATION.format(fold=fold), PassContext(order.target, order.costs)).program
    result = optimize(
        prepared,
        target=order.target,
        memory=order.memory,
        passes=order.passes if order.passes is not None else ",".join(PIPELINE) % bits,
        # An artifact is held to the original itself.
        check=order.check and order.out is None,
        seed=order.seed,
        progress=tell,
        cost_model=order.costs,
    )
    return original, result


def _predicted(program: Program, order: Order, bits: int) -> list[PartPrediction]:
    from vgcomp.backends.coreml.predict import predict_parts

    return predict_parts(program, order.target, order.costs, bits)


def _with_parts(result: OptimizeResult, parts: Sequence[PartPrediction], begin: float) -> Reported:
    """The result with the latency of its parts, one dispatched after the other."""
    from vgcomp.cli.emit import with_report

    latency = sum(part.latency_s for part in parts)
    after = result.report.after.model_copy(update={"latency_s": latency})
    return with_report(result, after=after, seconds=time.perf_counter() - begin)


def _write(done: Reported, original: Program, order: Order, out: Path) -> tuple[Reported, Manifest]:
    """Fills the folder ``out``: ``optimized.coreml/`` and two reports, together or not at all."""
    from vgcomp.backends.coreml.artifact import Job, write_artifact
    from vgcomp.backends.coreml.check import check_artifact
    from vgcomp.backends.coreml.compress import form_of
    from vgcomp.cli.emit import with_report
    from vgcomp.files import staged_directory
    from vgcomp.report import write_report

    form = form_of(order.weights)
    job = Job(done.program, order.target, order.costs, form, done.report.budget_bytes)
    with staged_directory(out) as staged:
        folder = staged / "optimized.coreml"
        manifest = write_artifact(job, folder)
        if order.check:
            checked = check_artifact(original, done.program, folder, bounded=form.bits == 16, seed=order.seed)
            done = with_report(done, check=checked)
        names = ("optimized.coreml", "report.html", "report.json")
        done = with_report(done, artifacts=tuple(str(out / name) for name in names))
        for name in names[1:]:
            write_report(done, staged / name)
    return done, manifest


def _print(done: Reported, order: Order, parts: Sequence[PartPrediction], manifest: Manifest | None) -> None:
    from vgcomp.cli import tables
    from vgcomp.report import summary
    from vgcomp.units import format_seconds

    report = done.report
    say(tables.heading(report), tables.before_after(report), _parts(parts, manifest), *_totals(parts, order, manifest))
    say(tables.passes_line(report), summary.check_text(report))
    if report.check.status == "passed" and order.weights != "fp16":
        say("Compressed weights are other weights: that difference was held to no bound")
    written = [*report.artifacts, *map(str, order.reports)]
    say(f"Wrote {', '.join(written)}" if written else "Dry run: nothing was written")
    say(f"Took {format_seconds(report.seconds)}")


def _parts(parts: Sequence[PartPrediction], manifest: Manifest | None) -> Table:
    """A line a part: what is loaded (as written, where it was), its peak and its time."""
    from vgcomp.units import format_bytes, format_seconds

    made = table(">Part", ">Ops", ">Load", ">Activations", ">Peak", ">Latency", ">Takes", ">Gives", title="Parts")
    for k, part in enumerate(parts):
        load = part.load_bytes if manifest is None else manifest.parts[k].load_bytes
        sizes = (load, part.activation_bytes, load + part.activation_bytes)
        ends = (str(len(part.program.inputs)), str(len(part.program.outputs)))
        row = [str(k + 1), str(part.program.n_nodes), *map(format_bytes, sizes), format_seconds(part.latency_s), *ends]
        made.add_row(*row)
    return made


def _totals(parts: Sequence[PartPrediction], order: Order, manifest: Manifest | None) -> list[str]:
    from vgcomp.backends.coreml.predict import peak_bytes, resident_bytes
    from vgcomp.units import format_bytes, format_seconds

    peak, resident = peak_bytes(parts), resident_bytes(parts)
    load = sum(part.load_bytes for part in parts)
    if manifest is not None:
        peak, resident = manifest.predicted.peak_bytes, manifest.predicted.resident_bytes
        load = sum(part.load_bytes for part in manifest.parts)
    seconds = format_seconds(sum(part.latency_s for part in parts))
    lines = [
        f"Predicted peak {format_bytes(peak)} with one part loaded at a time, {format_bytes(resident)} with all; "
        f"{seconds}; weights {order.weights}, {format_bytes(load)}"
    ]
    ops: dict[str, int] = {}
    for part in parts:
        for name, count in part.cpu_ops.items():
            ops[name] = ops.get(name, 0) + count
    text = ", ".join(f"{name} ×{count}" for name, count in sorted(ops.items()))
    return [*lines, f"On the CPU: {text}" if text else "On the CPU: nothing"]
