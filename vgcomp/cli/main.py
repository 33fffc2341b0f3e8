"""The command line: ``vgcomp COMMAND ...``.

Commands live in modules of their own and import what they need when they run, so that
``vgcomp --help`` does not wait for torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from vgcomp import __version__
from vgcomp.cli.artifact import bench, run_artifact
from vgcomp.cli.costs import costs
from vgcomp.cli.explain import explain
from vgcomp.cli.guard import guarded
from vgcomp.cli.inspect import inspect
from vgcomp.cli.lists import models, passes, targets
from vgcomp.cli.optimize import optimize
from vgcomp.cli.plan import plan
from vgcomp.cli.profile import profile
from vgcomp.cli.rehash import rehash
from vgcomp.cli.search import search
from vgcomp.cli.validate import validate
from vgcomp.cli.verify import verify

app = typer.Typer(
    name="vgcomp",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Rewrites a video-diffusion network so that it fits a memory budget, exactly, at the least latency.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vgcomp {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    pass


for command in (optimize, rehash, search, inspect, plan, explain, verify, validate, profile, passes, targets, models):
    app.command()(command)
app.command("run")(run_artifact)
app.command()(bench)
app.command()(costs)


def run(argv: Sequence[str] | None = None) -> None:
    """The program ``vgcomp``: runs a command and leaves with its exit code (see :mod:`vgcomp.cli.guard`)."""
    sys.exit(main(sys.argv[1:] if argv is None else argv))


def main(argv: Sequence[str]) -> int:
    """Runs a command and gives its exit code."""
    return guarded(lambda: app(args=list(argv), prog_name="vgcomp", standalone_mode=False), argv)
