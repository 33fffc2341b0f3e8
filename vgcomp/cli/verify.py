"""``vgcomp verify A B``: do two programs compute the same?"""

from __future__ import annotations

from typing import Annotated

import typer

from vgcomp.cli import options
from vgcomp.cli.console import progress, say
from vgcomp.errors import CheckFailed, Unavailable
from vgcomp.result import Equivalence


def verify(
    a: Annotated[str, typer.Argument(metavar="A", help="The reference: a name, a .onnx file or a saved folder.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What is compared with it.")],
    settings: options.Set = None,
    exact: Annotated[bool, typer.Option("--exact", help="Ask for the same bits.")] = False,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", min=0, help="Largest difference over A's largest value; default by dtype."),
    ] = None,
    seed: options.Seed = 0,
) -> None:
    """Run two programs on the same random inputs and compare what they put out; exit code 3 if they differ.

    --set applies to both, except to a saved folder, whose shapes are fixed.
    """
    from vgcomp.check import check
    from vgcomp.cli.source import is_saved, load_source

    chosen = settings or []
    with progress() as tell:
        tell(f"reading {a}", 0.0)
        first = load_source(a, [] if is_saved(a) else chosen)
        tell(f"reading {b}", 0.3)
        second = load_source(b, [] if is_saved(b) else chosen)
        tell("running both", 0.6)
        equivalence: Equivalence = "exact" if exact else "reassociated"
        found = check(
            first, second, seed=seed, equivalence=equivalence, tolerance=tolerance, memory_limit=_free_bytes()
        )
    if found.status == "failed":
        raise CheckFailed(f"{a} and {b} differ: {found.reason}")
    if found.status == "skipped":
        raise Unavailable(f"{a} and {b} were not compared: {found.reason}")
    say(
        f"{a} and {b} agree, {found.reason}: "
        f"largest difference {found.max_abs_error:.3g}, {found.max_rel_error:.3g} of the largest value"
    )


def _free_bytes() -> int:
    """Memory that a run may take here without pushing the machine into swap."""
    import psutil

    return int(psutil.virtual_memory().available * 0.9)
