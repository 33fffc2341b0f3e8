"""Predictions beside a real GPU: the zoo at several sizes, unmodified and sliced, timed and weighed.

    python -m tests.benchmarks.gpu_validate                     # all of it; writes results/DATE-gpu-TARGET.json
    python -m tests.benchmarks.gpu_validate --only svd-vae-decoder --rounds 3
    vgcomp validate --measured tests/benchmarks/results/DATE-gpu-TARGET.json

Each program runs in a process of its own, with random weights in fp16: latency by CUDA events (the median of several
runs, after a warm-up), tensors by ``max_memory_allocated``, the allocator's hold by ``max_memory_reserved``, what the
process takes of the device by NVML. Predictions are those of the analytic cost model, made before anything ran.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vgcomp import ir
from vgcomp.backends.torch_module import TorchModule
from vgcomp.cost_models import AnalyticModel
from vgcomp.device_memory import device_memory, fixed_bytes
from vgcomp.errors import Infeasible, UsageError
from vgcomp.models import build
from vgcomp.optimize import optimize
from vgcomp.program import Program
from vgcomp.simulate import simulate
from vgcomp.targets import Target, load_target, target_names
from vgcomp.validate.gpu import SCHEMA, Case, Figures, Record

RESULTS = Path(__file__).parent / "results"
SIZE = {"height": 576, "width": 1024}
Sizes = dict[str, int]
CASES: tuple[tuple[str, Sizes], ...] = (
    ("svd-vae-decoder", {"frames": 2, "height": 320, "width": 512}),
    ("svd-vae-decoder", {"frames": 8, **SIZE}),
    ("svd-vae-decoder", {"frames": 14, **SIZE}),
    ("svd-unet", {"frames": 14, "height": 320, "width": 512}),
    ("svd-unet", {"frames": 14, **SIZE}),
    ("svd-unet", {"frames": 25, **SIZE}),
    ("animatediff-unet", {"frames": 16, "height": 512, "width": 512}),
    ("sd-vae-decoder", {"frames": 16, **SIZE}),
    ("wan-1.3b", {}),
    ("cogvideox-2b", {}),
    ("ltx-video", {}),
    ("wan-vae-decoder", {}),
    ("cogvideox-vae-decoder", {"frames": 17}),
    ("ltx-vae-decoder", {}),
)
#: Budget of the sliced form, as a share of what the program needs beside weights and context.
SHARE = 0.5
WARM_UP, ROUNDS = 3, 10
#: Seconds that one program may take, planning included.
LIMIT_S = 900


def title(name: str, sizes: Sizes) -> str:
    return ", ".join([name, *(f"{key} {value}" for key, value in sizes.items())])


def target_here() -> Target:
    """The target whose name is in the device's. Raises UsageError where there is no such device."""
    if not torch.cuda.is_available():
        raise UsageError("no CUDA device here; this benchmark needs one")
    device = "".join(torch.cuda.get_device_name().lower().split())
    for name in sorted(target_names(), key=len, reverse=True):
        if load_target(name).kind == "cuda" and name in device:
            return load_target(name)
    raise UsageError(f"no target for {torch.cuda.get_device_name()}: write one and name it with --target FILE.toml")


def forms(name: str, sizes: Sizes, target: Target) -> Iterator[tuple[str, Program]]:
    """The network as it is, and sliced to ``SHARE`` of its activations, workspaces and fragments where that goes."""
    program = build(name, **sizes)
    plain = optimize(program, target=target, passes=["canonicalize", "schedule", "assign-buffers"]).program
    yield "unmodified", plain
    fixed = program.weight_bytes() + fixed_bytes(target)
    budget = fixed + int(SHARE * (device_memory(plain, target).total_bytes - fixed))
    try:
        yield "sliced", optimize(program, target=target, memory=budget).program
    except Infeasible as error:
        print(f"  sliced: {error}", file=sys.stderr)


def predicted(program: Program, target: Target) -> Figures:
    needs = device_memory(program, target)
    return Figures(
        latency_s=simulate(program, target, AnalyticModel(target)).latency_s,
        allocated_bytes=needs.weights + needs.activations + needs.workspaces,
        reserved_bytes=needs.reserved_bytes - needs.context,
        used_bytes=needs.reserved_bytes,
    )


def random_weights(program: Program, device: torch.device) -> Mapping[str, Tensor]:
    """Constants as they are; weights of the right shapes, small enough that nothing overflows."""
    generator = torch.Generator(device=device).manual_seed(0)
    found = {}
    for name, weight in program.weights.items():
        if weight.present:
            found[name] = weight.load().to(device)
        elif weight.dtype.is_floating_point:
            values = torch.randn(weight.shape, generator=generator, device=device, dtype=torch.float32)
            found[name] = (values * 0.02).to(weight.dtype)
        else:
            found[name] = torch.zeros(weight.shape, dtype=weight.dtype, device=device)
    return found


def example(program: Program, device: torch.device) -> tuple[Tensor, ...]:
    generator = torch.Generator(device=device).manual_seed(1)
    found = []
    for node in program.inputs:
        like = ir.val(node)
        shape = tuple(like.shape)
        values = torch.randn(shape, generator=generator, device=device)
        found.append(values.to(like.dtype) if like.is_floating_point() else values.abs().to(like.dtype))
    return tuple(found)


def measure(program: Program, rounds: int) -> Figures:
    """Runs a program on the current CUDA device."""
    device = torch.device("cuda")
    module = TorchModule(program, weights=random_weights(program, device)).to(device)
    given = example(program, device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        for _ in range(WARM_UP):
            module(*given)
        seconds = [_timed(module, given) for _ in range(rounds)]
    return Figures(
        latency_s=statistics.median(seconds),
        allocated_bytes=torch.cuda.max_memory_allocated(),
        reserved_bytes=torch.cuda.max_memory_reserved(),
        used_bytes=process_bytes(),
    )


def _timed(module: TorchModule, given: tuple[Tensor, ...]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    module(*given)
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) * 1e-3


def process_bytes() -> int:
    """What this process takes of the device, as its driver tells; 0 where it does not."""
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    lines = [line.split(",") for line in told.splitlines() if "," in line]
    mine = [int(used) for pid, used in lines if pid.strip() == str(os.getpid()) and used.strip().isdigit()]
    if not mine and len(lines) == 1 and lines[0][1].strip().isdigit():
        mine = [int(lines[0][1])]  # in a container the only process has another number outside
    return sum(mine) << 20


def run_case(program_folder: Path, rounds: int) -> None:
    """Entry of the process of one program: prints its figures as JSON."""
    print(measure(Program.load(program_folder), rounds).model_dump_json())


def measured_apart(program: Program, rounds: int) -> Figures:
    """``measure`` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program"
        program.save(path)
        command = [sys.executable, "-m", "tests.benchmarks.gpu_validate", "--run", str(path), "--rounds", str(rounds)]
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    if told.returncode:
        raise RuntimeError(told.stderr.strip().splitlines()[-1] if told.stderr.strip() else "no word of why")
    return Figures.model_validate_json(told.stdout.strip().splitlines()[-1])


def versions() -> dict[str, str]:
    cuda: Any = torch.version.cuda
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": str(cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "driver": _driver(),
    }


def _driver() -> str:
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def write(cases: Sequence[Case], target: Target, device: str, folder: Path) -> Path:
    """The dated record of all cases so far."""
    date = datetime.date.today().isoformat()
    record = Record(
        schema=SCHEMA, date=date, target=target.name, device=device, versions=versions(), cases=tuple(cases)
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{date}-gpu-{target.name}.json"
    path.write_text(json.dumps(record.model_dump(by_alias=True), indent=1) + "\n", encoding="utf-8")
    return path


def table(cases: Sequence[Case]) -> str:
    """Errors of latency, allocated and reserved memory, a line a program."""
    lines = [
        "| program | form | latency, ms | error | allocated, GiB | error | reserved, error |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for case in cases:
        true, guess = case.measured, case.predicted
        errors = [
            f"{100 * (getattr(guess, field) / getattr(true, field) - 1):+.1f} %"
            for field in ("latency_s", "allocated_bytes", "reserved_bytes")
        ]
        lines.append(
            f"| {case.name} | {case.form} | {1e3 * true.latency_s:.1f} | {errors[0]} "
            f"| {true.allocated_bytes / 2**30:.3f} | {errors[1]} | {errors[2]} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 0 where all programs ran."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", help="a network; may be given more than once")
    parser.add_argument("--target", help="default: the one whose name is in the device's")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.run:
        run_case(options.run, options.rounds)
        return 0
    try:
        target = load_target(options.target) if options.target else target_here()
    except UsageError as error:
        print(f"gpu_validate: {error}", file=sys.stderr)
        return 5
    return run_all(options.only, target, options.rounds, options.out)


def run_all(only: Sequence[str] | None, target: Target, rounds: int, out: Path) -> int:
    """All cases, each written as soon as it is there."""
    cases: list[Case] = []
    failed = 0
    for name, sizes in CASES:
        if only and name not in only:
            continue
        for form, program in forms(name, sizes, target):
            print(f"{title(name, sizes)}, {form} ...", file=sys.stderr, flush=True)
            guess = predicted(program, target)
            try:
                figures = measured_apart(program, rounds)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                print(f"  {error}", file=sys.stderr)
                failed += 1
                continue
            cases.append(Case(name=title(name, sizes), form=form, measured=figures, predicted=guess))
            write(cases, target, torch.cuda.get_device_name(), out)
    print(table(cases))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
