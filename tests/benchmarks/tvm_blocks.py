"""Blocks of the zoo on this CPU: PyTorch, ONNX Runtime, torch.compile and TVM, tuned and not, in one run.

    python -m tests.benchmarks.tvm_blocks                    # as many threads as cores; writes results/
    python -m tests.benchmarks.tvm_blocks --tune 5           # minutes of tuning for each block before

All take turns, a few runs each, with the same number of threads; figures are medians of turns, and outputs are
compared with PyTorch's. Blocks are cut from networks at the sizes named, with random weights, in fp32.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from vgcomp.backends.onnx_export import export_onnx
from vgcomp.backends.tvm.artifact import Predicted, write_artifact
from vgcomp.backends.tvm.build import tune
from vgcomp.backends.tvm.runtime import Artifact
from vgcomp.capture import capture
from vgcomp.memory import peak_activation_bytes
from vgcomp.program import Program
from vgcomp.targets import load_target

RESULTS = Path(__file__).parent / "results"
#: Largest difference over the largest value.
TOLERANCE = 1e-4
#: Blocks that should be as fast tuned as in PyTorch.
WANTED = 3
#: Each way has some turns in each round.
ROUNDS, TURNS, SETTLE = 3, 5, 3


@dataclass(frozen=True)
class Row:
    """One block. ``seconds``: median of a run by who ran it. ``error``: the largest of any, relative to PyTorch's."""

    block: str
    seconds: dict[str, float]
    error: float
    tuned_kernels: int
    kernels: int


def resnet() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """SVD's spatio-temporal residual block: 320 channels, 14 frames of 16x16."""
    from diffusers.models.resnet import SpatioTemporalResBlock

    block = SpatioTemporalResBlock(320, 320, 1280, eps=1e-5)
    return block, (torch.randn(14, 320, 16, 16), torch.randn(14, 1280), torch.zeros(1, 14))


def transformer() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """AnimateDiff's spatial transformer block: 640 channels, 8 frames of 16x16, 77 tokens of text."""
    from diffusers.models.attention import BasicTransformerBlock

    block = BasicTransformerBlock(640, 8, 80, cross_attention_dim=768)
    return _Text(block), (torch.randn(8, 256, 640), torch.randn(8, 77, 768))


def temporal() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """SVD's temporal transformer block: 320 channels, 14 frames of 16x16."""
    from diffusers.models.attention import TemporalBasicTransformerBlock

    block = TemporalBasicTransformerBlock(320, 320, 5, 64, cross_attention_dim=1024)
    return _Frames(block, 14), (torch.randn(14, 256, 320), torch.randn(256, 1, 1024))


def joint() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """CogVideoX-2B's transformer block, at full width: 226 tokens of text, 540 of video."""
    from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock

    block = CogVideoXBlock(1920, 30, 64, 512)
    return block, (torch.randn(1, 540, 1920), torch.randn(1, 226, 1920), torch.randn(1, 512))


BLOCKS: Mapping[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "svd-unet resnet block": resnet,
    "animatediff-unet transformer block": transformer,
    "svd-unet temporal transformer block": temporal,
    "cogvideox-2b transformer block": joint,
}


class _Text(nn.Module):
    """Attends to text."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        found: Tensor = self.block(x, encoder_hidden_states=text)
        return found


class _Frames(nn.Module):
    """Attends to frames."""

    def __init__(self, block: nn.Module, frames: int) -> None:
        super().__init__()
        self.block, self.frames = block, frames

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        found: Tensor = self.block(x, self.frames, encoder_hidden_states=context)
        return found


def measure(name: str, threads: int, minutes: float, folder: Path) -> Row:
    """Runs one block in every way, turn by turn."""
    torch.manual_seed(0)
    block, inputs = BLOCKS[name]()
    block.eval().requires_grad_(False)
    program = capture(block, inputs, name="block")
    ways: dict[str, Callable[[], Sequence[Tensor]]] = {"PyTorch": lambda: _listed(block(*inputs))}
    compiled = torch.compile(block)
    ways["torch.compile"] = lambda: _listed(compiled(*inputs))
    ways["ONNX Runtime"] = _onnx(program, inputs, threads, folder)
    ways["TVM, not tuned"], _ = _tvm(program, inputs, folder / "plain", tuned=False)
    if minutes:
        tune(program, load_target("cpu"), 60 * minutes)
    ways["TVM, tuned"], manifest = _tvm(program, inputs, folder / "tuned", tuned=True)
    with torch.inference_mode():
        wanted = [value.clone() for value in ways["PyTorch"]()]
        error = max(_error(run(), wanted) for run in ways.values())
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, run in ways.items():
                times[way] += timed(run)
    seconds = {way: statistics.median(found) for way, found in times.items()}
    return Row(name, seconds, error, *manifest)


def timed(run: Callable[[], object]) -> list[float]:
    """Seconds of some runs, after some that are not counted: the threads of whoever ran before spin for a while."""
    found: list[float] = []
    for turn in range(SETTLE + TURNS):
        begin = time.perf_counter()
        run()
        if turn >= SETTLE:
            found.append(time.perf_counter() - begin)
    return found


def _onnx(program: Program, inputs: Sequence[Tensor], threads: int, folder: Path) -> Callable[[], Sequence[Tensor]]:
    path = folder / "block.onnx"
    export_onnx(program, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = {spec.name: value.numpy() for spec, value in zip(session.get_inputs(), inputs, strict=True)}
    return lambda: [torch.from_numpy(found) for found in session.run(None, given)]


def _tvm(
    program: Program, inputs: Sequence[Tensor], folder: Path, *, tuned: bool
) -> tuple[Callable[[], Sequence[Tensor]], tuple[int, int]]:
    """An artifact's run, and how many of its kernels are tuned."""
    predicted = Predicted(peak_activation_bytes=peak_activation_bytes(program))
    manifest = write_artifact(program, folder, predicted=predicted, tuned=tuned)
    artifact = Artifact(folder)
    given = dict(zip(program.input_names, inputs, strict=True))
    return lambda: list(artifact.run(given).values()), (manifest.tuned_kernels, manifest.kernels)


def _listed(found: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [found] if isinstance(found, Tensor) else found


def _error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True))


def markdown(rows: Sequence[Row]) -> str:
    """The table: milliseconds."""
    ways = list(rows[0].seconds)
    lines = [
        f"| block | {' | '.join(f'{way}, ms' for way in ways)} | kernels tuned | error |",
        "|---|" + "---:|" * (len(ways) + 2),
    ]
    for row in rows:
        times = " | ".join(f"{1000 * row.seconds[way]:.2f}" for way in ways)
        lines.append(f"| {row.block} | {times} | {row.tuned_kernels} of {row.kernels} | {row.error:.1e} |")
    return "\n".join(lines) + "\n"


def write(rows: Sequence[Row], threads: int, folder: Path) -> None:
    """``<date>-tvm-blocks.json`` and ``.md``."""
    import tvm

    date = datetime.date.today().isoformat()
    processor = str(tvm.target.codegen.llvm_get_system_cpu())
    versions = {name: metadata.version(name) for name in ("torch", "onnxruntime", "apache-tvm", "diffusers")}
    record = {
        "schema": "vgcomp.tvm-blocks/1", "date": date, "threads": threads, "cores": os.cpu_count(),
        "processor": processor, "machine": platform.machine(), "versions": versions,
        "rows": [asdict(row) for row in rows],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{date}-tvm-blocks.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    text = (
        f"Measured {date} by `python -m tests.benchmarks.tvm_blocks`: {threads} threads of {processor}, {listed}.\n\n"
    )
    (folder / f"{date}-tvm-blocks.md").write_text(text + markdown(rows), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 0 where the tuned artifacts of three blocks are as fast as PyTorch and all agree with it, else 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tune", type=float, default=0.0, metavar="MINUTES", help="of tuning for each block")
    parser.add_argument("--no-write", action="store_true", help="print the table and write nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    os.environ["TVM_NUM_THREADS"] = str(options.threads)
    rows = []
    for name in BLOCKS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(name, options.threads, options.tune, Path(folder)))
        print(markdown(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(markdown(rows))
    if not options.no_write:
        write(rows, options.threads, options.out)
    fast = sum(row.seconds["TVM, tuned"] <= row.seconds["PyTorch"] for row in rows)
    return int(fast < WANTED or any(row.error > TOLERANCE for row in rows))


if __name__ == "__main__":
    sys.exit(main())
