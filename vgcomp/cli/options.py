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
Out = Annotated[Path | None, typer.Option("-o", "--out", metavar="DIR", help="Where the results go.")]
Tune = Annotated[
    float | None,
    typer.Option(
        "--tune", metavar="MINUTES", min=0.0, help="Of --emit tvm: measure kernels first; what was found is kept."
    ),
]
TuneOn = Annotated[
    str | None,
    typer.Option("--tune-on", metavar="HOST:PORT/KEY", help="Of --tune: devices behind TVM's RPC tracker."),
]
Arch = Annotated[
    str | None,
    typer.Option("--arch", metavar="NAMES", help="Code of --emit tvm: sm_80,sm_90 or all; aarch64 on a CPU."),
]
Check = Annotated[bool, typer.Option("--check/--no-check", help="Compare outputs with the unmodified network's.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Plan, and write nothing but the --report.")]
Weights = Annotated[
    str, typer.Option("--weights", help="Of --emit coreml: fp16, palettize-4, palettize-6 or linear-8.")
]
Timesteps = Annotated[
    str | None, typer.Option("--timesteps", metavar="T,T,...", help="Of --emit coreml: the schedule, to fold.")
]
Pipeline = Annotated[
    bool, typer.Option("--pipeline", help="The whole pipeline of that name, not the network it shares it with.")
]

DEFAULT_TARGET = "a100"
