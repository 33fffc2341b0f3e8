"""``vgcomp run`` and ``vgcomp bench``: artifacts of ``vgcomp optimize --emit tvm``, and ``--emit coreml``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vgcomp.cli import options
from vgcomp.cli.console import say

if TYPE_CHECKING:
    from torch import Tensor

    from vgcomp.backends.tvm.artifact import Manifest

Folder = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="What `optimize --emit tvm` or `coreml` wrote.")]


def run_artifact(
    artifact: Folder,
    source: Annotated[Path, typer.Option("--input", metavar="FILE.npz", help="The inputs, by name.")],
    output: Annotated[Path, typer.Option("--output", metavar="FILE.npz", help="Where the outputs go, by name.")],
) -> None:
    """Run a compiled network on inputs from a file. bfloat16 tensors are float32 in the files."""
    from vgcomp.backends.coreml.artifact import is_artifact
    from vgcomp.backends.tvm.artifact import read_manifest
    from vgcomp.backends.tvm.npz import read_inputs, write_outputs
    from vgcomp.backends.tvm.runtime import Artifact
    from vgcomp.files import check_file_destination

    check_file_destination(output)
    if is_artifact(artifact):
        _interpret(artifact, source, output)
        return
    inputs = read_inputs(source, read_manifest(artifact))
    write_outputs(output, Artifact(artifact).run(inputs))
    say(f"Wrote {output}")


def _interpret(artifact: Path, source: Path, output: Path) -> None:
    """Core ML itself runs on Apple's devices only."""
    from vgcomp.backends.coreml.runtime import Interpreted
    from vgcomp.backends.tvm.npz import read_inputs, write_outputs

    loaded = Interpreted(artifact)
    manifest: Any = loaded.manifest
    write_outputs(output, loaded.run(read_inputs(source, manifest)))
    say("Core ML runs on Apple's devices: this was its reference, op by op, in software", f"Wrote {output}")


def bench(
    artifact: Folder,
    runs: Annotated[int, typer.Option("--runs", min=1, help="How often to run, after one run to warm up.")] = 10,
    seed: options.Seed = 0,
) -> None:
    """Time a compiled network on random inputs."""
    from vgcomp.backends.coreml.artifact import is_artifact
    from vgcomp.backends.tvm.runtime import Artifact
    from vgcomp.errors import Unavailable
    from vgcomp.units import format_bytes, format_seconds

    if is_artifact(artifact):
        raise Unavailable(f"{artifact} is for Core ML, which runs on Apple's devices: time it there")
    loaded = Artifact(artifact)
    inputs = _random(loaded.manifest, seed)
    loaded.run(inputs)
    seconds = []
    for _ in range(runs):
        begin = time.perf_counter()
        loaded.run(inputs)
        seconds.append(time.perf_counter() - begin)
    seconds.sort()
    manifest = loaded.manifest
    say(
        f"{manifest.model}: median {format_seconds(seconds[len(seconds) // 2])} of {runs} runs "
        f"({format_seconds(seconds[0])} to {format_seconds(seconds[-1])}), "
        f"activations {format_bytes(manifest.planned.total_bytes)}, "
        f"{manifest.tuned_kernels} of {manifest.kernels} kernels tuned"
    )


def _random(manifest: Manifest, seed: int) -> dict[str, Tensor]:
    """Normal numbers; integers are 0, which is an index of anything."""
    import torch

    from vgcomp.backends.tvm.artifact import dtype_of

    generator = torch.Generator().manual_seed(seed)
    found = {}
    for spec in manifest.inputs:
        dtype = dtype_of(spec)
        values = torch.randn(spec.shape, generator=generator) if dtype.is_floating_point else torch.zeros(spec.shape)
        found[spec.name] = values.to(dtype)
    return found
