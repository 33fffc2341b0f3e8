"""``vgcomp optimize`` of a whole pipeline: one plan for all its stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vgcomp.cli.console import progress, say, table
from vgcomp.errors import UsageError

if TYPE_CHECKING:
    from vgcomp.generation.joint import GenerationResult
    from vgcomp.generation.report import GenerationReport

#: Options of ``vgcomp optimize`` for single networks.
_SINGLE = ("--passes", "--emit", "--arch", "--tune", "--tune-on", "--check", "--timesteps", "--weights")
#: Forms of a pipeline's report.
_SUFFIXES = (".json", ".md")


def is_pipeline(model: str) -> bool:
    """True for a name that only a pipeline has: networks and files come first."""
    from vgcomp.models import MODELS
    from vgcomp.models.pipelines import PIPELINES

    return model in PIPELINES and model not in MODELS and not Path(model).exists()


def optimize_pipeline(
    name: str,
    settings: Sequence[str],
    target: str,
    mem: str | None,
    costs: str,
    out: Path | None,
    reports: Sequence[Path],
) -> None:
    """Plans a pipeline of the zoo, writes what was asked for and prints the plan."""
    for path in reports:
        if path.suffix.lower() not in _SUFFIXES:
            raise UsageError(f"{path}: the report of a pipeline is one of {', '.join(_SUFFIXES)}")
    from vgcomp.cli.source import parse_settings
    from vgcomp.cost_models import named_model
    from vgcomp.generation.joint import generate_plan
    from vgcomp.targets import load_target

    device = load_target(target)
    with progress() as tell:
        result = generate_plan(
            name,
            target=device,
            memory=mem,
            settings=parse_settings(settings),
            cost_model=named_model(costs, device),
            progress=tell,
        )
    written = _written(result, out, reports)
    _print(result.report, written)


def refuse_options(name: str, *given: object) -> None:
    """Raises UsageError for an option that is for single networks. ``given``: values, in the order of ``_SINGLE``."""
    for option, value in zip(_SINGLE, given, strict=True):
        if value:
            raise UsageError(f"{option} is for a single network, and {name} is a pipeline of several")


def _written(result: GenerationResult, out: Path | None, reports: Sequence[Path]) -> list[Path]:
    written = list(reports)
    for path in reports:
        is_json = path.suffix.lower() == ".json"
        path.write_text(result.report.to_json() if is_json else result.report.to_markdown(), encoding="utf-8")
    if out is not None:
        result.save(out)
        (out / "report.md").write_text(result.report.to_markdown(), encoding="utf-8")
        written.append(out)
    return written


def _print(report: GenerationReport, written: Sequence[Path]) -> None:
    from vgcomp.generation.report import PART_HEAD, STAGE_HEAD
    from vgcomp.units import format_bytes, format_seconds

    stages = table(*_numbers(STAGE_HEAD, 3))
    for row in report.stage_rows():
        stages.add_row(*row)
    parts = table(*_numbers(PART_HEAD, 1))
    for row in report.part_rows():
        parts.add_row(*row)
    sizes = ", ".join(f"{name} {value}" for name, value in report.settings.items())
    say(f"{report.pipeline} on {report.target}, budget {format_bytes(report.budget_bytes, binary=False)}: {sizes}")
    say(stages, parts, report.summary(), report.footnote())
    say(f"Wrote {', '.join(map(str, written))}" if written else "Nothing was written: -o DIR takes the programs")
    say(f"Took {format_seconds(report.seconds)}")


def _numbers(head: Sequence[str], first: int) -> list[str]:
    """Headings, those from ``first`` on of columns of numbers."""
    return [title if i < first else f">{title}" for i, title in enumerate(head)]
