"""``vgcomp explain``: why a pass, or a region, did not apply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from vgcomp.cli import options
from vgcomp.cli.console import progress, say, table
from vgcomp.result import Explanation


def explain(
    model: options.Source,
    settings: options.Set = None,
    target: options.Target = options.DEFAULT_TARGET,
    mem: options.Memory = None,
    passes: options.Passes = None,
    node: Annotated[
        str | None, typer.Option("--node", metavar="TEXT", help="Only nodes or regions whose name contains this.")
    ] = None,
) -> None:
    """Say why rewrites did not apply, by node and pass."""
    from vgcomp.cli.optimize import checked_options
    from vgcomp.cli.source import load_source
    from vgcomp.optimize import optimize

    checked_options(target, mem, passes, (), None)
    with progress() as tell:
        tell(f"reading {model}", 0.0)
        program = load_source(model, settings or [])
        result = optimize(program, target=target, memory=mem, passes=passes, progress=tell)
    _print(result.explanations, node)


def _print(explanations: Sequence[Explanation], node: str | None) -> None:
    shown = [e for e in explanations if node is None or node in e.node]
    if not shown:
        say("Nothing to explain: every rewrite that was tried applied" if node is None else f"Nothing about {node!r}")
        return
    found = table("Node", "Pass", "Reason")
    for item in shown:
        found.add_row(item.node, item.pass_name, item.reason)
    say(found)
