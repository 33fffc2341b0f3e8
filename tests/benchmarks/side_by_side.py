"""One table: the same networks unmodified, run eagerly, sliced by others, and compiled by vgcomp.

    python -m tests.benchmarks.side_by_side                   # minutes on a CPU; writes results/
    python -m tests.benchmarks.side_by_side --only svd-unet --frames 14 --no-write
    python -m tests.benchmarks.side_by_side --fronts tests/benchmarks/results/DATE-full-size.json

Peaks and latencies are of the full-size network on tensors without data: 576x1024, fp16, batch 2 for the UNets.

* ``unmodified``: plain liveness of the captured graph: every value freed after its last use;
* ``eager Python``: diffusers' modules as they are; the live storage of their tensors, callers' variables included;
* ``published slices``: see :mod:`vgcomp.published_slicing`;
* ``decode_chunk_size=1`` and ``use_slicing``: diffusers' own options;
* ``vgcomp``: the front's points of least memory within 3 % and 50 % of the latency, and of least memory at all.

A peak counts inputs, outputs and temporaries, not weights. Latency is relative to the unmodified graph, all
of it under the analytic cost model on one target. The error is measured: the reduced network with seeded
random weights, fp32, slices as wide as at full size (or half the width, if that is less), largest difference
from the eager output over the largest value of that.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.benchmarks.meter import Meter
from vgcomp.models import build, build_module, find
from vgcomp.published_slicing import TEMPORAL_PIECES, slice_as_published
from vgcomp.targets import Target, load_target

RESULTS = Path(__file__).parent / "results"
GIB = 2**30
#: (network, frames): batch 2 for UNets is the zoo's default.
CASES = (
    ("svd-unet", 14),
    ("svd-unet", 25),
    ("svd-vae-decoder", 14),
    ("svd-vae-decoder", 25),
    ("animatediff-unet", 16),
    ("sd-vae-decoder", 16),
)
SIZE = {"height": 576, "width": 1024}
#: Points of the front that are shown beside the last: the least memory within these factors of the latency.
LATENCIES = (1.03, 1.5)

Run = Callable[[nn.Module, Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Row:
    """One line of the table. ``latency_ratio``: to the unmodified graph; ``error``: None where nothing differs."""

    network: str
    frames: int
    method: str
    peak_activation_bytes: int
    latency_s: float
    latency_ratio: float
    error: float | None


# -- the methods that run eagerly ------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A way to run diffusers' module: how it is changed first (given the video's width), and how it is called."""

    name: str
    networks: tuple[str, ...]
    prepare: Callable[[nn.Module, int], nn.Module]
    run: Run


def call(module: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    """All at once."""
    out: Tensor = module(*inputs)
    return out


def decode_by_frame(module: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    """The pipeline's ``decode_chunk_size=1``: frames decoded one at a time, then joined."""
    vae: Any = module.vae
    frames = [vae.decode(z, num_frames=1, return_dict=False)[0] for z in inputs[0].split(1)]
    return torch.cat(frames)


def as_it_is(module: nn.Module, width: int) -> nn.Module:
    """No change."""
    return module


def published(module: nn.Module, width: int) -> nn.Module:
    """Frame-wise and width-wise slices, as many (but two at least) as keep their width the same."""
    return slice_as_published(module, max(2, TEMPORAL_PIECES * width // SIZE["width"]))


def use_slicing(module: nn.Module, width: int) -> nn.Module:
    """The VAE's own ``enable_slicing``."""
    vae: Any = module.vae
    vae.enable_slicing()
    return module


UNETS = ("svd-unet", "animatediff-unet")
METHODS = (
    Method("eager Python", (*UNETS, "svd-vae-decoder", "sd-vae-decoder"), as_it_is, call),
    Method("published slices", (*UNETS, "svd-vae-decoder"), published, call),
    Method("diffusers decode_chunk_size=1", ("svd-vae-decoder",), as_it_is, decode_by_frame),
    Method("diffusers use_slicing", ("sd-vae-decoder",), use_slicing, call),
)


def measure(method: Method, network: str, frames: int, target: Target) -> tuple[int, float]:
    """(Peak bytes of live storage, predicted seconds) of the full-size network, on tensors without data."""
    entry = find(network)
    settings = entry.settings({"frames": frames, **SIZE})
    with _default_dtype(settings.dtype), FakeTensorMode(), torch.inference_mode():
        module = method.prepare(entry.make(settings).eval(), settings.width)
        inputs = entry.example_inputs(settings)
        with Meter(inputs, target) as meter:
            method.run(module, inputs)
    return meter.peak, meter.seconds


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@cache
def eager_error(method: Method, network: str) -> float:
    """How far the method's output is from the plain one's, on the reduced network."""
    width = find(f"{network}-small").settings({}).width
    module, inputs = build_module(f"{network}-small")
    with torch.inference_mode():
        wanted = module(*inputs)
        return relative_error(method.run(method.prepare(module, width), inputs), wanted)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((found - wanted).abs().max() / wanted.abs().max())


# -- vgcomp ---------------------------------------------------------------------------------------


#: A front as (activation bytes, latency relative to the unmodified graph).
Front = Sequence[tuple[int, float]]


def compiled_rows(network: str, frames: int, target: Target, front: Front | None) -> list[Row]:
    """The unmodified graph and points of the front; of the one given, if it is known already."""
    unmodified = unmodified_row(network, frames, target)
    base = unmodified.latency_s
    found = front if front is not None else computed_front(network, frames, target.name)
    points = {f"vgcomp, ≤ {most} × latency": [p for p in found if p[1] <= most] for most in LATENCIES}
    error = compiled_error(network, target.name)
    rows = [unmodified]
    for name, fitting in {**points, "vgcomp, least memory": list(found)}.items():
        if fitting:
            peak, ratio = min(fitting)
            rows.append(Row(network, frames, name, peak, ratio * base, ratio, error))
    return rows


def computed_front(network: str, frames: int, target: str) -> Front:
    """What ``vgcomp optimize`` reports of the full-size network."""
    from vgcomp.optimize import optimize

    report = optimize(build(network, frames=frames, **SIZE), target=target).report
    return [(point.peak_activation_bytes, point.latency_s / report.before.latency_s) for point in report.front]


def known_fronts(file: Path | None) -> dict[tuple[str, int], Front]:
    """The fronts in a file of :mod:`tests.benchmarks.full_size`, by network and frames."""
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file else []
    sized = [row for row in rows if "frames" in row["settings"]]
    return {(row["network"], row["settings"]["frames"]): [(p, r) for p, r in row["front"]] for row in sized}


#: Ratio within which the reduced network's least memory is looked for.
NEAR = 1.3


@cache
def compiled_error(network: str, target: str) -> float:
    """Of the reduced network sliced to its least activations, or nearly, against the eager module."""
    from vgcomp.backends.torch_module import TorchModule
    from vgcomp.cost_models import AnalyticModel
    from vgcomp.passes.base import PassContext
    from vgcomp.passes.pipeline import run_pipeline
    from vgcomp.slicing.engine import Slicer

    device = load_target(target)
    model = AnalyticModel(device)
    program = build(f"{network}-small", weights="random")
    ordered = run_pipeline(program, ["canonicalize", "schedule"], PassContext(device, model, None)).program
    smallest = Slicer(ordered, device, model).smallest(NEAR)
    assert smallest.plan.choices, f"{network}-small was not sliced"
    plain, inputs = build_module(f"{network}-small")
    with torch.inference_mode():
        return relative_error(TorchModule(smallest.program)(*inputs)[0], plain(*inputs))


def unmodified_row(network: str, frames: int, target: Target) -> Row:
    """The captured graph alone."""
    from vgcomp.cost_models import AnalyticModel
    from vgcomp.simulate import simulate

    timeline = simulate(build(network, frames=frames, **SIZE), target, AnalyticModel(target))
    return Row(network, frames, "unmodified", timeline.peak_activation_bytes, timeline.latency_s, 1.0, None)


# -- the table ------------------------------------------------------------------------------------


def rows_of(network: str, frames: int, target: Target, *, ours: bool, front: Front | None = None) -> list[Row]:
    """Every method's line for one network."""
    begin = time.perf_counter()
    compiled = compiled_rows(network, frames, target, front) if ours else [unmodified_row(network, frames, target)]
    _say(f"{network}, {frames} frames, {'vgcomp' if ours else 'unmodified'}: {time.perf_counter() - begin:.0f} s")
    unmodified, *points = compiled
    rows = [unmodified]
    for method in METHODS:
        if network not in method.networks:
            continue
        begin = time.perf_counter()
        peak, seconds = measure(method, network, frames, target)
        error = None if method.name == "eager Python" else eager_error(method, network)
        rows.append(Row(network, frames, method.name, peak, seconds, seconds / unmodified.latency_s, error))
        _say(f"{network}, {frames} frames, {method.name}: {time.perf_counter() - begin:.0f} s")
    return rows + points


def markdown(rows: Sequence[Row], target: str) -> str:
    """The table as in the README."""
    lines = [
        f"| network, 576×1024, fp16 | method | peak activations, GiB | latency ({target}, predicted) | error |",
        "|---|---|---:|---:|---:|",
    ]
    for row in rows:
        error = "–" if row.error is None else f"{row.error:.1e}" if row.error < 1e-3 else f"{row.error:.2f}"
        error = "0" if row.error == 0 else error
        lines.append(
            f"| {row.network}, {row.frames} frames | {row.method} | {row.peak_activation_bytes / GIB:.2f} "
            f"| {row.latency_ratio:.3f} | {error} |"
        )
    return "\n".join(lines) + "\n"


def write(rows: Sequence[Row], target: str, seconds: float, folder: Path) -> None:
    """``<date>-side-by-side.json`` and ``.md``."""
    date = datetime.date.today().isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "schema": "vgcomp.side-by-side/1",
        "date": date,
        "target": target,
        "temporal_pieces": TEMPORAL_PIECES,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "diffusers": _diffusers()},
        "seconds": round(seconds, 1),
        "rows": [asdict(row) for row in rows],
    }
    text = f"Measured {date} by `python -m tests.benchmarks.side_by_side` in {seconds / 60:.0f} minutes.\n\n"
    (folder / f"{date}-side-by-side.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (folder / f"{date}-side-by-side.md").write_text(text + markdown(rows, target), encoding="utf-8")


def _diffusers() -> str:
    import diffusers

    return str(diffusers.__version__)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", help="a network; may be given more than once")
    parser.add_argument("--frames", type=int, help="only the cases of that many frames")
    parser.add_argument("--target", default="a100")
    parser.add_argument("--without-vgcomp", action="store_true", help="leave out the compiled rows")
    parser.add_argument("--fronts", type=Path, help="take the fronts from this file, which full_size wrote")
    parser.add_argument("--no-write", action="store_true", help="print the table and write nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    target = load_target(options.target)
    fronts = known_fronts(options.fronts)
    begin = time.perf_counter()
    rows: list[Row] = []
    for network, frames in CASES:
        if (options.only and network not in options.only) or (options.frames and frames != options.frames):
            continue
        rows += rows_of(network, frames, target, ours=not options.without_vgcomp, front=fronts.get((network, frames)))
        if not options.no_write:  # after each network: a run that is stopped leaves what it has
            write(rows, target.name, time.perf_counter() - begin, options.out)
    print(markdown(rows, target.name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
