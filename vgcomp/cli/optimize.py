"""``vgcomp optimize``: a budget in, a smaller program out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from vgcomp.cli import options
from vgcomp.cli.console import progress, say
from vgcomp.cli.generation import is_pipeline, optimize_pipeline, refuse_options
from vgcomp.errors import UsageError

if TYPE_CHECKING:
    from vgcomp.backends.tvm.platform import Platform
    from vgcomp.cli.emit import Form, Reported
    from vgcomp.cost_models.base import CostModel
    from vgcomp.optimize import OptimizeResult, Progress
    from vgcomp.program import Program
    from vgcomp.targets import Target


class Emit(StrEnum):
    """Forms that a result is written in."""

    onnx = "onnx"
    torch = "torch"
    tvm = "tvm"
    coreml = "coreml"


#: What is written for them; Core ML has a way of its own.
_FORMS: dict[Emit | None, Form] = {Emit.onnx: "onnx", Emit.torch: "torch", Emit.tvm: "tvm"}


def optimize(
    model: options.Source,
    settings: options.Set = None,
    target: options.Target = options.DEFAULT_TARGET,
    mem: options.Memory = None,
    passes: options.Passes = None,
    out: options.Out = None,
    form: Annotated[Emit | None, typer.Option("--emit", help="Form of the result; default: what came in.")] = None,
    arch: options.Arch = None,
    tune: options.Tune = None,
    tune_on: options.TuneOn = None,
    check: options.Check = False,
    weights: options.Weights = "fp16",
    timesteps: options.Timesteps = None,
    report: options.Reports = None,
    dry_run: options.DryRun = False,
    seed: options.Seed = 0,
    cost_model: options.CostModel = options.CostModelName.analytic,
    pipeline: options.Pipeline = False,
) -> None:
    """Rewrite a network so that it fits a memory budget at the least latency; without one, list what is possible."""
    reports, folder = report or [], None if dry_run else out
    target_spec = checked_options(target, mem, passes, reports, folder)
    if pipeline or is_pipeline(model):
        refuse_options(model, passes, form, arch, tune, tune_on, check, timesteps, weights != "fp16")
        optimize_pipeline(model, settings or [], target_spec, mem, cost_model.value, folder, reports)
        return
    platform = _platform(form, target_spec, arch)
    _check_tune(tune, tune_on, platform)
    if form is Emit.coreml:
        _coreml(model, settings, target, mem, passes, folder, check, reports, weights, timesteps, seed, cost_model)
        return
    _refuse_coreml_options(weights, timesteps)
    begin = time.perf_counter()
    from vgcomp.cli.emit import emit, form_of, with_report
    from vgcomp.cli.source import load_source
    from vgcomp.report import write_report
    from vgcomp.targets import load_target

    device = load_target(target_spec)
    costs = _cost_model(cost_model, device, platform)
    with progress() as tell:
        tell(f"reading {model}", 0.0)
        program = load_source(model, settings or [])
        if folder is not None:
            _check_weights(program, folder, platform)
        wanted = Given(target=device, passes=passes, check=check, seed=seed, progress=tell, cost_model=costs)
        result = _optimized(program, mem, platform, wanted)
        done = with_report(result, seconds=time.perf_counter() - begin)
        if tune is not None:
            from vgcomp.backends.tvm.build import tune as tune_kernels

            tune_kernels(done.program, device, 60 * tune, rpc=tune_on, progress=tell)
        if folder is not None:
            tell(f"writing {folder}", 1.0)
            done = emit(done, _FORMS.get(form) or form_of(program), folder, platform)
    for path in reports:
        write_report(done, path)
    _print(done, reports, out, dry_run)


class Given(TypedDict):
    """What ``optimize`` is given besides the program and the budget."""

    target: Target
    passes: str | None
    check: bool
    seed: int
    progress: Progress
    cost_model: CostModel


def _optimized(program: Program, mem: str | None, platform: Platform | None, given: Given) -> OptimizeResult:
    """Within the budget as PyTorch would run it, or, for a compiled result, as its own plan of memory has it."""
    from vgcomp.optimize import optimize as run_optimizer

    if mem is None or platform is None:
        return run_optimizer(program, memory=mem, **given)
    from vgcomp.artifact_budget import optimize_within
    from vgcomp.backends.tvm.plan import ProgramPlan

    return optimize_within(program, memory=mem, planned=lambda made: ProgramPlan(made).planned_bytes, **given)


def _cost_model(name: options.CostModelName, device: Target, platform: Platform | None) -> CostModel:
    """The model of that name; for an artifact that runs here, with what its tuned kernels were measured to take."""
    from vgcomp.backends.tvm.platform import HERE
    from vgcomp.cost_models import named_model

    if name is not options.CostModelName.measured or platform != HERE:
        return named_model(name.value, device)
    from vgcomp.backends.tvm.compile import host_target
    from vgcomp.backends.tvm.tuned_times import tuned_model

    return tuned_model(device, host_target()[1]["mcpu"])


def _check_tune(tune: float | None, tune_on: str | None, platform: Platform | None) -> None:
    """Raises UsageError where there is nothing to tune."""
    if tune is None and tune_on is None:
        return
    if tune is None:
        raise UsageError("--tune-on says where to tune: add --tune MINUTES")
    if platform is None or platform.kind != "cpu" or platform.triple is not None:
        raise UsageError("--tune measures kernels for this machine's kind of CPU: add --target cpu --emit tvm")


def _coreml(
    model: str,
    settings: list[str] | None,
    target: str,
    mem: str | None,
    passes: str | None,
    out: Path | None,
    check: bool,
    reports: Sequence[Path],
    weights: str,
    timesteps: str | None,
    seed: int,
    cost_model: options.CostModelName,
) -> None:
    """Parts for the Neural Engine: another pipeline, and figures a part."""
    from vgcomp.cli.coreml import Order, optimize_coreml
    from vgcomp.cost_models import named_model
    from vgcomp.targets import load_target

    device = load_target(target)
    costs = named_model(cost_model.value, device)
    order = Order(
        model=model,
        settings=settings or (),
        target=device,
        costs=costs,
        memory=mem,
        passes=passes,
        weights=weights,
        timesteps=timesteps,
        out=out,
        check=check,
        seed=seed,
        reports=reports,
    )
    with progress() as tell:
        optimize_coreml(order, tell)


def checked_options(target: str, mem: str | None, passes: str | None, reports: Sequence[Path], out: Path | None) -> str:
    """Refuses now what would otherwise fail after minutes of work."""
    from vgcomp.files import check_directory_destination
    from vgcomp.report import check_report_path
    from vgcomp.units import parse_bytes

    if mem is not None:
        parse_bytes(mem)
    for path in reports:
        check_report_path(path)
    if out is not None:
        check_directory_destination(out.absolute())
    from vgcomp.passes.registry import parse_spec
    from vgcomp.targets import load_target

    load_target(target)
    if passes is not None:
        parse_spec(passes)
    return target


def _check_weights(program: Program, folder: Path, platform: Platform | None) -> None:
    """Refuses weights that writing would destroy, or that a compiled result would lack."""
    from vgcomp.backends.tvm.artifact import require_weights
    from vgcomp.cli.emit import refuse_own_weights

    refuse_own_weights(program, folder)
    if platform is not None:
        require_weights(program)


def _refuse_coreml_options(weights: str, timesteps: str | None) -> None:
    """Options that other forms have no use for."""
    if weights != "fp16" or timesteps:
        raise UsageError("--weights and --timesteps are for --emit coreml")


def _platform(form: Emit | None, target: str, arch: str | None) -> Platform | None:
    """What a compiled result is for, known to be possible here; None for other results."""
    if form is not Emit.tvm:
        if arch is not None:
            raise UsageError("--arch is for compiled results: add --emit tvm")
        return None
    from vgcomp.backends.tvm.build import check_target
    from vgcomp.targets import load_target

    return check_target(load_target(target), arch)


def _say_absent(done: Reported) -> None:
    """One line where weights of what was written were not found: which file the result will read them from."""
    from vgcomp.weights import FileData

    if not done.report.artifacts:
        return
    paths = {weight.data.path for weight in done.program.weights.values() if isinstance(weight.data, FileData)}
    missing = sorted(path.name for path in paths if not path.exists())
    if missing:
        say(f"Weights that are not there are referenced: put {', '.join(missing)} beside the result to run it")


def _print(done: Reported, reports: Sequence[Path], out: Path | None, dry_run: bool) -> None:
    from vgcomp.cli import tables
    from vgcomp.report import summary
    from vgcomp.units import format_seconds

    report = done.report
    say(tables.heading(report), tables.before_after(report))
    if report.front:
        say(tables.front(report), *filter(None, (summary.left_out_text(report), tables.other_point(report))))
    say(tables.passes_line(report), summary.check_text(report), *filter(None, [summary.sources_text(report)]))
    written = [*report.artifacts, *map(str, reports)]
    if written:
        say(f"Wrote {', '.join(written)}")
    elif dry_run:
        say("Dry run: nothing was written")
    elif out is None:
        say("Nothing was written: -o DIR takes the result")
    say(f"Took {format_seconds(report.seconds)}")
    _say_absent(done)
