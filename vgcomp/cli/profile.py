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
        typer.Option("--mem", metavar="SIZE", help="Ops of the network sliced to this budget too; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE.csv", help="The table; default: the target's own.")
    ] = None,
    take: Annotated[
        Path | None, typer.Option("--import", metavar="FILE.csv", help="Merge a table that was measured elsewhere.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Default: the target's units.")] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timings of each op; the median counts.")] = 15,
    slices: Annotated[
        bool, typer.Option("--slices", help="Ops of plans from the fastest to the smallest too, instead of --mem.")
    ] = False,
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

    if take is not None:
        keep(_imported(take, device))
        return
    with progress() as tell:
        programs = _programs(models or [], settings or [], mem or [], slices, device, tell)
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
    slices: bool,
    device: Target,
    tell: Callable[[str, float], None],
) -> list[Program]:
    """The networks as they are and sliced."""
    from vgcomp.cli.source import load_source
    from vgcomp.cost_models import AnalyticModel
    from vgcomp.optimize import optimize
    from vgcomp.units import parse_bytes

    sizes = [parse_bytes(budget) for budget in budgets]
    found: list[Program] = []
    for model in models:
        tell(f"reading {model}", 0.0)
        program = load_source(model, settings)
        found.append(program)
        wanted = [None, *sizes] if slices else sizes
        for size in wanted:
            result = optimize(program, target=device, memory=size, cost_model=AnalyticModel(device), progress=tell)
            found += [result.program, *result.front]
    return found


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
