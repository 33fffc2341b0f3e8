"""Arguments and options that several commands share, declared once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class CostModelName(StrEnum):
    """The cost models, by name."""

    analytic = "analytic"
    measured = "measured"


Source = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A network's name, a .onnx file, or a folder that vgcomp wrote."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A network's setting, or the size of a dynamic ONNX dimension."),
]
Target = Annotated[str, typer.Option("--target", metavar="NAME|FILE.toml", help="The device; see `vgcomp targets`.")]
Memory = Annotated[
    str | None,
    typer.Option("--mem", metavar="SIZE", help="Budget of weights and activations: 6GB, 512MiB. None: the front."),
]
Passes = Annotated[
    str | None,
    typer.Option("--passes", metavar="SPEC", help="The pipeline, as name{option=value},name; see `vgcomp passes`."),
]
CostModel = Annotated[
    CostModelName, typer.Option("--cost-model", help="measured: from the target's table; see `vgcomp profile`.")
]
Seed = Annotated[int, typer.Option("--seed", help="Of random inputs and weights.")]
Reports = Annotated[
    list[Path] | None,
    typer.Option("--report", metavar="FILE", help="Write a report: FILE.json, .html, .md or .svg. May be repeated."),
]

DEFAULT_TARGET = "a100"
