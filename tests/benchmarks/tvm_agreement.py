"""Small networks as TVM artifacts for this CPU, unmodified and sliced, fp32 and fp16: agreement with PyTorch, memory.

    python -m tests.benchmarks.tvm_agreement                 # writes results/; some minutes
    python -m tests.benchmarks.tvm_agreement --only wan-1.3b-small --no-write

Each artifact is loaded and run by a new process, which knows nothing but the folder and the inputs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from tests.plans import slicer_of
from vgcomp import check, ir
from vgcomp.backends.torch_module import TorchModule
from vgcomp.backends.tvm.artifact import Predicted, write_artifact
from vgcomp.memory import peak_activation_bytes
from vgcomp.models import build
from vgcomp.program import Program

RESULTS = Path(__file__).parent / "results"
NETWORKS = (
    "svd-unet-small", "svd-vae-decoder-small", "animatediff-unet-small", "wan-1.3b-small", "cogvideox-2b-small"
)  # fmt: skip
#: Largest difference over the largest value of an output.
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}
#: Storage beside what was predicted for the sliced programs.
NEAR = 0.10


@dataclass(frozen=True)
class Row:
    """One artifact. Bytes of inputs, outputs and temporaries; ``budget_bytes`` is what the slicer was given."""

    network: str
    dtype: str
    sliced: bool
    loops: int
    error: float
    budget_bytes: int | None
    predicted_bytes: int
    planned_bytes: int

    @property
    def agrees(self) -> bool:
        """True where the artifact computes what PyTorch does."""
        return self.error <= TOLERANCE[self.dtype]

    @property
    def holds(self) -> bool:
        """True where a sliced program's storage is as predicted, and under its budget."""
        if self.budget_bytes is None:
            return True
        return self.planned_bytes <= min(self.budget_bytes, self.predicted_bytes * (1 + NEAR))


def rows_of(network: str) -> Iterator[Row]:
    """The network's four artifacts, one after the other."""
    for dtype in TOLERANCE:
        program = build(network, dtype=dtype, weights="random")
        inputs = check.random_inputs(program)
        with torch.no_grad():
            wanted = TorchModule(program)(*inputs)
        for budget, chosen in ((None, program), _sliced(program)):
            error, planned = _run(chosen, inputs, wanted)
            loops = sum(ir.is_loop(node) for node in chosen.graph.nodes)
            predicted = peak_activation_bytes(chosen)
            yield Row(network, dtype, budget is not None, loops, error, budget, predicted, planned)


def _sliced(program: Program) -> tuple[int, Program]:
    """(budget, program) in half of its memory, or as near to that as can be had."""
    slicer = slicer_of(program)
    budget = slicer.unsliced // 2
    solution = slicer.solve(budget)
    if solution is not None:
        return budget, solution.program
    smallest = slicer.smallest().program
    # What alignment costs beside a prediction of exact bytes is no slack of the plan.
    return int(peak_activation_bytes(smallest) * 1.05), smallest


def _run(program: Program, inputs: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> tuple[float, int]:
    """(relative error, planned bytes) of the program's artifact, run by a new process."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, given, found = (Path(temporary) / name for name in ("artifact", "in.npz", "out.npz"))
        manifest = write_artifact(
            program, folder, predicted=Predicted(peak_activation_bytes=peak_activation_bytes(program))
        )
        np.savez(given, **{name: value.numpy() for name, value in zip(program.input_names, inputs, strict=True)})
        command = (sys.executable, "-m", "vgcomp", "run", folder, "--input", given, "--output", found)
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
        with np.load(found) as outputs:
            pairs = [(outputs[name], value) for name, value in zip(program.output_names, wanted, strict=True)]
    error = max(_error(torch.from_numpy(got), value) for got, value in pairs)
    return error, manifest.planned.total_bytes


def _error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got.double() - wanted.double()).abs().max() / wanted.double().abs().max())


def markdown(rows: Sequence[Row]) -> str:
    """The table: KiB."""
    lines = [
        "| network | dtype | loops | error | predicted, KiB | planned, KiB | budget, KiB |",
        "|---|---|" + "---:|" * 5,
    ]
    for row in rows:
        budget = "–" if row.budget_bytes is None else f"{row.budget_bytes / 1024:.0f}"
        form = f"{row.loops}" if row.sliced else "unmodified"
        lines.append(
            f"| {row.network} | {row.dtype} | {form} | {row.error:.1e} | {row.predicted_bytes / 1024:.0f} "
            f"| {row.planned_bytes / 1024:.0f} | {budget} |"
        )
    return "\n".join(lines) + "\n"


def write(rows: Sequence[Row], folder: Path) -> None:
    """``<date>-tvm-agreement.json`` and ``.md``."""
    date = datetime.date.today().isoformat()
    versions = {name: metadata.version(name) for name in ("torch", "apache-tvm", "diffusers")}
    record = {
        "schema": "vgcomp.tvm-agreement/1", "date": date, "machine": platform.machine(), "versions": versions,
        "rows": [asdict(row) for row in rows],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{date}-tvm-agreement.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    text = f"Measured {date} by `python -m tests.benchmarks.tvm_agreement`: {listed}.\n\n"
    (folder / f"{date}-tvm-agreement.md").write_text(text + markdown(rows), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 0 where all artifacts agree and the sliced ones hold their budgets, else 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=NETWORKS, action="append")
    parser.add_argument("--no-write", action="store_true", help="print the table and write nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    for network in options.only or NETWORKS:
        for row in rows_of(network):
            rows.append(row)
            print(markdown([row]).splitlines()[-1], file=sys.stderr, flush=True)
    print(markdown(rows))
    if not options.no_write:
        write(rows, options.out)
    return int(not all(row.agrees and row.holds for row in rows))


if __name__ == "__main__":
    sys.exit(main())
