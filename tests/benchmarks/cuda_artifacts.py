"""Compiled artifacts on a real GPU: checked against PyTorch, and timed beside it.

    python -m tests.benchmarks.cuda_artifacts build FOLDER --arch all     # needs nvcc and no GPU
    python -m tests.benchmarks.cuda_artifacts run FOLDER                  # needs a GPU; writes results/DATE-cuda-*

``build`` writes, for each network in fp16 with random weights, as it is and sliced to a share of its activations, the
artifact and the program. ``run`` takes them in turn: the artifact's outputs on seeded random inputs beside those of
the program run by PyTorch on the same device, the medians of both, and the memory that was planned. A GPU's clock is
left as it is. Nothing is timed where outputs disagree.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from tests.benchmarks.gpu_validate import example
from vgcomp.backends.tvm.artifact import Predicted, write_artifact
from vgcomp.backends.tvm.build import check_target
from vgcomp.backends.tvm.runtime import Artifact
from vgcomp.errors import Infeasible, VgcompError
from vgcomp.memory import peak_activation_bytes
from vgcomp.models import build
from vgcomp.optimize import optimize
from vgcomp.program import Program
from vgcomp.targets import load_target

RESULTS = Path(__file__).parent / "results"
NETWORKS = ("svd-vae-decoder-small", "wan-1.3b-small", "ltx-video-small", "svd-unet-small")
#: Of the activations, for the sliced form; runs before those that are timed, and those.
SHARE, WARM_UP, ROUNDS = 0.6, 3, 20
#: Largest difference over the largest value, in fp16.
TOLERANCE = 2e-2


@dataclass(frozen=True)
class Row:
    """One artifact. Medians in seconds; ``error``: largest difference over the largest value; bytes as planned."""

    name: str
    error: float
    artifact_s: float | None
    eager_s: float | None
    planned_bytes: int
    kernels: int


def build_all(folder: Path, names: Sequence[str], target: str, arch: str | None) -> None:
    """Artifacts and programs of all networks."""
    compiled_for = check_target(load_target(target), arch)
    for name in names:
        program = build(name, dtype="fp16", weights="random")
        for form, share in (("plain", None), ("sliced", SHARE)):
            found = program if share is None else _sliced(program, share)
            if found is None:
                print(f"{name}: nothing fits {share} of its activations", file=sys.stderr)
                continue
            to = folder / f"{name}-{form}"
            predicted = Predicted(peak_activation_bytes=peak_activation_bytes(found))
            write_artifact(found, to / "artifact", predicted=predicted, platform=compiled_for)
            found.save(to / "program")
            print(f"{to}", file=sys.stderr)


def _sliced(program: Program, share: float) -> Program | None:
    """Slices are those for a CPU, whose budget has no fixed part that hides a small network."""
    budget = program.weight_bytes() + int(share * peak_activation_bytes(program))
    try:
        return optimize(program, target="cpu", memory=budget).program
    except Infeasible:
        return None


def run_all(folder: Path, rounds: int) -> list[Row]:
    """A row for each artifact in the folder."""
    return [_row(path.parent, rounds) for path in sorted(folder.glob("*/artifact"))]


def _row(folder: Path, rounds: int) -> Row:
    from vgcomp.backends.torch_module import TorchModule

    program = Program.load(folder / "program")
    artifact = Artifact(folder / "artifact")
    device = torch.device("cuda")
    module, inputs = TorchModule(program).to(device), example(program, device)
    given = dict(zip(program.input_names, inputs, strict=True))
    with torch.inference_mode():
        wanted = module(*inputs)
        error = _error([artifact.run(given)[name] for name in program.output_names], wanted)
        agree = error < TOLERANCE
        artifact_s = _median(lambda: artifact.call(given), rounds) if agree else None
        eager_s = _median(lambda: module(*inputs), rounds) if agree else None
    planned = artifact.manifest.planned.total_bytes
    return Row(folder.name, error, artifact_s, eager_s, planned, artifact.manifest.kernels)


def _error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    pairs = zip(found, (value.cpu() for value in wanted), strict=True)
    return max(float((a.double() - b.double()).abs().max() / b.double().abs().max()) for a, b in pairs)


def _median(call: Callable[[], object], rounds: int) -> float:
    """Of whole runs, issue included, each waited for."""
    import tvm

    def timed() -> float:
        begin = time.perf_counter()
        call()
        tvm.cuda().sync()
        torch.cuda.synchronize()
        return time.perf_counter() - begin

    for _ in range(WARM_UP):
        timed()
    return statistics.median(timed() for _ in range(rounds))


def table(rows: Sequence[Row]) -> str:
    """A line an artifact."""
    lines = [
        "| artifact | difference | compiled, ms | PyTorch eager, ms | activations planned, MiB | kernels |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        times = ["disagrees" if s is None else f"{1e3 * s:.2f}" for s in (row.artifact_s, row.eager_s)]
        figures = f"{row.planned_bytes / 2**20:.2f} | {row.kernels}"
        lines.append(f"| {row.name} | {row.error:.1e} | {times[0]} | {times[1]} | {figures} |")
    return "\n".join(lines)


def write(rows: Sequence[Row], folder: Path) -> Path:
    """The dated record: hardware, versions, rows."""
    device = torch.cuda.get_device_name()
    date = datetime.date.today().isoformat()
    versions = {name: metadata.version(name) for name in ("torch", "apache-tvm", "apache-tvm-ffi")}
    versions |= {"python": platform.python_version(), "cuda": str(torch.version.cuda)}
    stem = folder / f"{date}-cuda-artifacts-{'-'.join(device.lower().split())}"
    record = {"date": date, "device": device, "versions": versions, "rows": [asdict(row) for row in rows]}
    folder.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    text = f"# Compiled artifacts beside PyTorch, {date}\n\n{device}; {said}; fp16, medians.\n\n{table(rows)}\n"
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    return stem.with_suffix(".md")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 3 where an artifact's outputs are not PyTorch's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=["build", "run"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", action="append", help="a network; may be given more than once")
    parser.add_argument("--target", default="a100")
    parser.add_argument("--arch", help="as of vgcomp optimize")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    try:
        if options.action == "build":
            build_all(options.folder, options.only or NETWORKS, options.target, options.arch)
            return 0
        if not torch.cuda.is_available():
            print("cuda_artifacts: PyTorch sees no CUDA device here; run needs one", file=sys.stderr)
            return 5
        rows = run_all(options.folder, options.rounds)
    except VgcompError as error:
        print(f"cuda_artifacts: {error}", file=sys.stderr)
        return error.exit_code
    print(table(rows), f"Wrote {write(rows, options.out)}", sep="\n\n")
    return 3 if any(row.artifact_s is None for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
