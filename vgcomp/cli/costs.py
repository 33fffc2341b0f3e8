"""``vgcomp costs``: the look-up table of a search space on a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vgcomp.cli import options
from vgcomp.cli.console import progress, say, table

if TYPE_CHECKING:
    from vgcomp.compiled_cost.lookup import LookupTable

_Space = Annotated[str, typer.Argument(metavar="SPACE", help="A search space's name, or a JSON file of one.")]
_Files = Annotated[
    list[Path] | None, typer.Option("--report", metavar="FILE", help="FILE.json or FILE.md. May be repeated.")
]


def costs(
    space: _Space,
    target: options.Target = options.DEFAULT_TARGET,
    mem: options.Memory = None,
    cost_model: options.CostModel = options.CostModelName.analytic,
    report: _Files = None,
) -> None:
    """Show what every option of a space costs at its place, compiled, and which states are out of memory."""
    from vgcomp.compiled_cost.costs import CompiledCosts
    from vgcomp.compiled_cost.lookup import HEADINGS, look_up
    from vgcomp.cost_models import named_model
    from vgcomp.errors import UsageError
    from vgcomp.models.spaces import find_space
    from vgcomp.targets import load_target

    files = report or []
    wrong = next((path for path in files if path.suffix not in (".json", ".md")), None)
    if wrong is not None:
        raise UsageError(f"--report {wrong}: a look-up table is FILE.json or FILE.md")
    device = load_target(target)
    with progress() as tell:
        tell("compiling every option once", 0.0)
        found = look_up(CompiledCosts(find_space(space), device, mem, named_model(cost_model.value, device)), tell=tell)
    made = table(*HEADINGS)
    for row in found.cells():
        made.add_row(*row)
    say(made, found.summary())
    _write(found, files)


def _write(found: LookupTable, files: list[Path]) -> None:
    from vgcomp.files import atomic_write

    for path in files:
        atomic_write(path, found.to_json() + "\n" if path.suffix == ".json" else found.markdown())
    say(f"Wrote {', '.join(map(str, files))}" if files else "Nothing was written: --report FILE.json or FILE.md does")
