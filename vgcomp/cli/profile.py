"""``vgcomp profile``: times ops on this machine, for the measured cost model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vgcomp.cli import options
from vgcomp.cli.console import progress, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from vgcomp.cost_models.table import Table
    from vgcomp.program import Program
    from vgcomp.targets import Target

_THIS_MACHINE = "cpu"


def profile(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="Networks' names, .onnx files or saved folders.")
    ] = None,
    settings: options.Set = None,
    target: options.Target = _THIS_MACHINE,
    mem: Annotated[
        list[str] | None,
        typer.Option("--mem", metavar="SIZE|N%", help="Ops as sliced to this budget (or share) too; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE.csv", help="The table; default: the target's own.")
    ] = None,
    take: Annotated[
        Path | None, typer.Option("--import", metavar="FILE.csv", help="Merge a table that was measured elsewhere.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Default: the target's units.")] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timings of each op; the median counts.")] = 15,
) -> None:
    """Time every distinct op of networks on this machine and merge the timings into a table; newer ones win."""
    from vgcomp.cost_models.table import default_path, read_table
    from vgcomp.errors import UsageError
    from vgcomp.files import atomic_write, check_file_destination
    from vgcomp.targets import load_target

    device = load_target(target)
    path = out or default_path(device.name)
    check_file_destination(path)
    if bool(models) == (take is not None):
        raise UsageError("name networks to profile, or a table with --import FILE.csv, and not both")
    old = read_table(path) if path.exists() else None

    def keep(table: Table) -> None:
        merged = table if old is None else old.updated(table)
        atomic_write(path, merged.text())
        say(f"Wrote {path}: {len(table.rows)} ops measured, {len(merged.rows)} in all")

    for budget in mem or []:
        _budget(budget, 0, 0)
    if take is not None:
        keep(_imported(take, device))
        return
    with progress() as tell:
        programs = _programs(models or [], settings or [], mem or [], device, tell)
        table = _measured(programs, device, threads, repeats, tell, keep)
    keep(table)


def _imported(path: Path, device: Target) -> Table:
    from vgcomp.cost_models.measured import MeasuredModel
    from vgcomp.cost_models.table import load_table

    table = load_table(device.name, path)
    MeasuredModel(device, table).check()
    return table


def _programs(
    models: Sequence[str],
    settings: Sequence[str],
    budgets: Sequence[str],
    device: Target,
    tell: Callable[[str, float], None],
) -> list[Program]:
    """The networks as they are and sliced."""
    from vgcomp.cli.source import load_source

    found: list[Program] = []
    for model in models:
        tell(f"reading {model}", 0.0)
        program = load_source(model, settings)
        found += [program, *(_sliced(program, budget, device, tell) for budget in budgets)]
    return found


def _sliced(program: Program, budget: str, device: Target, tell: Callable[[str, float], None]) -> Program:
    """The program within the budget, or within the smallest that there is a plan for."""
    from vgcomp.cost_models import AnalyticModel
    from vgcomp.errors import Infeasible
    from vgcomp.optimize import optimize
    from vgcomp.simulate import simulate

    model = AnalyticModel(device)
    size = _budget(budget, program.weight_bytes(), simulate(program, device, model).peak_activation_bytes)
    try:
        return optimize(program, target=device, memory=size, cost_model=model, progress=tell).program
    except Infeasible as error:
        smallest = error.smallest_bytes
        return optimize(program, target=device, memory=smallest, cost_model=model, progress=tell).program


def _budget(text: str, weights: int, activations: int) -> int:
    """Bytes: a size, or the weights and a share of the activations."""
    from vgcomp.errors import UsageError
    from vgcomp.units import parse_bytes

    share = text.strip().removesuffix("%")
    if share == text.strip():
        return parse_bytes(text)
    if not share.isdecimal() or not 0 < int(share) <= 100:
        raise UsageError(f"--mem {text}: a share of the activations is 1% to 100%")
    return weights + activations * int(share) // 100


def _measured(
    programs: Sequence[Program],
    device: Target,
    threads: int | None,
    repeats: int,
    tell: Callable[[str, float], None],
    keep: Callable[[Table], None],
) -> Table:
    from vgcomp.errors import Unavailable
    from vgcomp.profiling import TorchRunner, profile
    from vgcomp.profiling.calls import calls_of
    from vgcomp.profiling.overhead import measure_overhead

    if device.kind != "cpu":
        raise Unavailable(
            f"this machine has no {device.name}: profile there, and bring the table with --import FILE.csv"
        )
    runner = TorchRunner(threads or device.units)
    calls = calls_of(programs, device)
    return profile(calls, runner, device, overhead=measure_overhead(runner), repeats=repeats, progress=tell, keep=keep)
