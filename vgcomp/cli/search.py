"""``vgcomp search``: candidates of a space, their quality against what their compiled programs cost."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vgcomp.cli import options
from vgcomp.cli.console import err, progress, say, table

if TYPE_CHECKING:
    from rich.table import Table

    from vgcomp.search.engines.a1 import Step
    from vgcomp.search.order import Order
    from vgcomp.search.problem import Evaluation
    from vgcomp.search.result import Outcome


class EngineName(StrEnum):
    """The engines, by name."""

    surrogate = "surrogate"
    a1 = "a1"
    nsga2 = "nsga2"
    unsga3 = "unsga3"
    random = "random"


_Space = Annotated[str, typer.Argument(metavar="SPACE", help="A search space's name, or a JSON file of one.")]
_Latency = Annotated[float | None, typer.Option("--latency", metavar="SECONDS", help="Limit of one run.")]
_Quality = Annotated[
    str | None,
    typer.Option("--quality", metavar="WHAT", help="package.module:function, FILE.json(l) or loss:CHECKPOINT."),
]
_Cost = Annotated[
    str, typer.Option("--cost", metavar="WHAT", help="compiled, package.module:function or FILE.json(l).")
]
_Engine = Annotated[EngineName, typer.Option("--engine", help="The strategy.")]
_Evaluations = Annotated[int, typer.Option("--evaluations", min=1, help="Candidates to evaluate, in all.")]
_Objectives = Annotated[str, typer.Option("--objectives", metavar="NAMES", help="What the front weighs.")]
_Jobs = Annotated[int | None, typer.Option("--jobs", min=1, help="Workers; default: one a core.")]
_EvaluationLimit = Annotated[
    float | None, typer.Option("--evaluation-limit", metavar="SECONDS", min=0.01, help="Of one evaluation.")
]
_Ray = Annotated[
    str | None, typer.Option("--ray", metavar="ADDRESS", help="Workers on a Ray cluster: its address, auto or local.")
]
_RayGpus = Annotated[float, typer.Option("--ray-gpus", min=0.0, help="GPUs of each worker on Ray.")]
_Journal = Annotated[Path | None, typer.Option("--journal", metavar="FILE", help="Keeps each evaluation as it ends.")]
_Resume = Annotated[bool, typer.Option("--resume", help="Go on with the journal.")]
_Report = Annotated[
    list[Path] | None, typer.Option("--report", metavar="FILE", help="FILE.json or FILE.html. May be repeated.")
]
_Keep = Annotated[int, typer.Option("--keep", min=1, help="Candidates of the front that -o saves as programs.")]

#: Rows of the front and of a trace that are printed; the reports have all.
_ROWS = 16


def search(
    space: _Space,
    target: options.Target = options.DEFAULT_TARGET,
    mem: options.Memory = None,
    latency: _Latency = None,
    quality: _Quality = None,
    cost: _Cost = "compiled",
    engine: _Engine = EngineName.surrogate,
    evaluations: _Evaluations = 200,
    objectives: _Objectives = "quality,latency,memory",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the strategy.")] = 0,
    jobs: _Jobs = None,
    evaluation_limit: _EvaluationLimit = None,
    ray: _Ray = None,
    ray_gpus: _RayGpus = 0.0,
    journal: _Journal = None,
    resume: _Resume = False,
    report: _Report = None,
    out: options.Out = None,
    keep: _Keep = 3,
) -> None:
    """Search a space for the candidates of the best quality at the least compiled cost on a device."""
    from vgcomp.files import check_directory_destination
    from vgcomp.search.order import Order
    from vgcomp.search.store import check_report_path

    reports = [check_report_path(path) for path in report or []]
    if out is not None:
        check_directory_destination(out.absolute())
    order = Order(
        space=space,
        quality=quality,
        target=target,
        memory=mem,
        latency_s=latency,
        cost=cost,
        engine=engine.value,
        evaluations=evaluations,
        objectives=tuple(name.strip() for name in objectives.split(",")),
        seed=seed,
        jobs=jobs,
        evaluation_limit=evaluation_limit,
        ray=ray,
        ray_gpus=ray_gpus,
        journal=journal,
        resume=resume,
    )
    outcome = _run(order)
    outcome_written(outcome, reports, out, keep)


def _run(order: Order) -> Outcome:
    from vgcomp.search.order import search as run

    try:
        with progress() as tell:
            return run(
                order,
                lambda known: tell(f"{len(known)} of {order.evaluations} candidates", len(known) / order.evaluations),
            )
    except KeyboardInterrupt:
        if order.journal is not None:
            err().print(f"{order.journal} has what was evaluated: the same command with --resume goes on", style="dim")
        raise


def outcome_written(outcome: Outcome, reports: Sequence[Path], out: Path | None, keep: int) -> None:
    """Prints and writes a search's result. Raises VgcompError where there is no candidate within the limits."""
    from vgcomp.search.store import save_front, write_report
    from vgcomp.units import format_seconds

    for path in reports:
        write_report(outcome, path)
    found = outcome.found
    if outcome.eliminated:
        say(f"Coarse search: {len(outcome.eliminated)} layers miss a limit alone: {', '.join(outcome.eliminated)}")
    if outcome.trace:
        say("Algorithm A1, from its first start", _trace([step for step in outcome.trace if not step.descent]))
    outcome.hold()
    failed = sum(bool(e.failed) for e in found.evaluations)
    say(
        f"{outcome.problem.space.name} on {outcome.target}: {len(found.front)} of {len(found.evaluations)} candidates "
        f"evaluated are the front{f', {failed} failed' if failed else ''}",
        _front(found.front[:_ROWS]),
    )
    if len(found.front) > _ROWS:
        say(f"{len(found.front) - _ROWS} further points are in the reports (--report FILE.json or FILE.html)")
    say(f"Hypervolume: {outcome.volume():.6g} {outcome.figures()['hypervolume_unit']}")
    written = [str(path) for path in reports]
    if out is not None:
        written += [str(path) for path in save_front(outcome, outcome.kept(keep), out)]
    say(f"Wrote {', '.join(written)}" if written else "Nothing was written: -o DIR saves the best as programs")
    say(f"Took {format_seconds(found.seconds)}")


def _front(front: Sequence[Evaluation]) -> Table:
    from rich.text import Text

    from vgcomp.search.result import options_text
    from vgcomp.units import format_bytes, format_seconds

    made = table(">Quality", ">Latency", ">Memory needed", "Options")
    for e in front:
        if e.cost is not None:
            figures = (f"{e.quality:.5g}", format_seconds(e.cost.latency_s), format_bytes(e.cost.peak_bytes))
            made.add_row(*figures, Text(options_text(e)))
    return made


def _trace(steps: Sequence[Step]) -> Table:
    """In the paper's terms: which limit is missed, the action executed, and what it was chosen by."""
    from rich.text import Text

    from vgcomp.units import format_bytes, format_seconds

    made = table("Condition", "Action", ">ΔQ", ">ΔLatency", ">ΔQ/ΔLatency", ">ΔMemory", ">ΔQ/ΔMemory", ">T", ">M")
    for step in steps:
        if step.after.cost is None:
            continue
        made.add_row(
            step.condition,
            Text(step.action),  # its brackets are no markup
            f"{step.quality:+.4g}",
            f"{1e3 * step.latency_s:+.4g} ms",
            "-" if step.per_second is None else f"{step.per_second:.4g} /s",
            f"{step.memory_bytes / 2**20:+.4g} MiB",
            "-" if step.per_byte is None else f"{step.per_byte * 2**30:.4g} /GiB",
            format_seconds(step.after.cost.latency_s),
            format_bytes(step.after.cost.peak_bytes),
        )
    return made
