"""Step rehash on the two trained networks: quality, FLOPs and time of each way to choose the full steps.

    python -m tests.benchmarks.quality.rehash -o tests/benchmarks/results/2026-11-21-rehash

Writes FILE.json, FILE.md and FILE.html (a plot). Schedules are calibrated on some seeds and judged on others. Clips are
compared with those of the full schedule, as pixels. Times are processor seconds of one thread, which other work on the
machine does not stretch; predictions are of the cost models for ``cpu-1``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from tests.benchmarks.quality.report import write_reports
from vgcomp.backends.torch_module import TorchModule
from vgcomp.cost_models import named_model
from vgcomp.models import build
from vgcomp.passes.rehash_steps import LEAST_PSNR
from vgcomp.program import Program
from vgcomp.quality.latent import decode
from vgcomp.quality.metrics import RandomFeatures, flicker, frechet, psnr, ssim
from vgcomp.quality.shapes import make_clips
from vgcomp.rehash.calibrate import Calibration, calibrate
from vgcomp.rehash.choose import SCHEDULES, Choice, best
from vgcomp.rehash.jobs import denoising_of, seeded_job
from vgcomp.rehash.options import Option, finalists, options, seconds
from vgcomp.rehash.runner import Denoising, Job, Steps, run_schedule
from vgcomp.rehash.sampler import FlowEuler
from vgcomp.rehash.schedule import Schedule, text
from vgcomp.step_cuts.reach import read_inputs
from vgcomp.targets import load_target

STEPS = 25
FULL, OTHERS = (13, 8), (5, 10, 16, 19)
#: Seeds of calibration and of evaluation: never the same.
CALIBRATED, JUDGED = 0, 1000
TARGET = load_target("cpu-1")


@dataclass(frozen=True)
class Row:
    """One schedule on one cut, means over the clips judged. Seconds are of all steps of a clip, one thread."""

    network: str
    cut: str
    rule: str
    asked: int
    full: int
    schedule: str
    fewer_flops: float
    cache_bytes: int
    predicted_psnr: float
    psnr: float
    worst_psnr: float
    ssim: float
    flicker: float
    predicted_s: float
    analytic_s: float
    measured_s: float
    #: None for fewer clips than it takes.
    frechet: float | None
    clips: int
    reads: str


@dataclass(frozen=True)
class Judge:
    """The clips of the full schedule, and what they took."""

    program: Program
    denoising: Denoising
    jobs: list[Job]
    clips: list[Tensor]
    seconds: float


def judge_of(program: Program, denoising: Denoising, count: int) -> Judge:
    """Makes the clips that others are compared with."""
    module, jobs = TorchModule(program), [seeded_job(program, denoising, JUDGED + i) for i in range(count)]
    steps = Steps(module, module, program.input_names)
    made = [timed_clip(steps, (True,) * STEPS, denoising, job) for job in jobs]
    return Judge(program, denoising, jobs, [clip for clip, _ in made], statistics.median(took for _, took in made))


def timed_clip(steps: Steps, schedule: Schedule, denoising: Denoising, job: Job) -> tuple[Tensor, float]:
    """A clip's pixels, and the processor seconds of its steps."""
    begin = time.thread_time()
    latent = run_schedule(steps, schedule, denoising, job).latent
    return decode(latent), time.thread_time() - begin


def judged(judge: Judge, option: Option, found: Calibration, rule: str, full: int, count: int) -> Row:
    """One schedule's row."""
    schedule = SCHEDULES[rule](found, full)
    steps = Steps(TorchModule(option.full), TorchModule(option.reuse), judge.program.input_names)
    made = [timed_clip(steps, schedule, judge.denoising, job) for job in judge.jobs[:count]]
    clips, wanted = [clip for clip, _ in made], judge.clips[:count]
    ratios = [psnr(a, b) for a, b in zip(clips, wanted, strict=True)]
    measured, analytic = (
        Choice(option, schedule, 0.0, seconds(option, TARGET, named_model(name, TARGET)))
        for name in ("measured", "analytic")
    )
    return Row(
        network=judge.program.name,
        cut=str(option.candidate.cut),
        rule=rule,
        asked=full,
        full=sum(schedule),
        schedule=text(schedule),
        fewer_flops=measured.flops_ratio,
        cache_bytes=option.candidate.nbytes,
        predicted_psnr=found.psnr(schedule),
        psnr=statistics.mean(ratios),
        worst_psnr=min(ratios),
        ssim=statistics.mean(ssim(a, b) for a, b in zip(clips, wanted, strict=True)),
        flicker=statistics.mean(map(flicker, clips)),
        predicted_s=measured.latency_s,
        analytic_s=analytic.latency_s,
        measured_s=statistics.median(took for _, took in made),
        frechet=distance(clips) if count > FEATURES else None,
        clips=count,
        reads=", ".join(sorted(read_inputs(option.reuse) & {"sample", "timestep"})),
    )


#: Of the random network that the Fréchet distance is taken on: means and deviations of 4 channels.
FEATURES = 8


def distance(clips: list[Tensor]) -> float:
    """Fréchet distance to generated clips of moving shapes, on random features."""
    return frechet(torch.cat(clips), make_clips(256, 7).pixels, RandomFeatures(width=FEATURES // 2))


@dataclass(frozen=True)
class Sizes:
    """Clips: to calibrate each cut on and to judge it on; to calibrate the chosen cut on and to judge it on."""

    tried: int
    few: int
    chosen_on: int
    many: int


def run(name: str, sizes: Sizes, shift: float) -> tuple[list[Row], dict[str, object]]:
    """All rows of one network: the cuts at two numbers of full steps, and the chosen one at many."""
    program = build(name)
    denoising = denoising_of(program, FlowEuler(STEPS, shift, "clean"), "sample", "timestep")
    judge = judge_of(program, denoising, sizes.many)
    jobs = [seeded_job(program, denoising, CALIBRATED + i) for i in range(max(sizes.tried, sizes.chosen_on))]
    rows, choices = [], []
    for option in finalists(options(program, denoising, jobs[:1]), TARGET, None):
        found = calibrate(option.program, option.candidate.cut, denoising, jobs[: sizes.tried])
        rows += [judged(judge, option, found, rule, full, sizes.few) for full in FULL for rule in SCHEDULES]
        for row in rows[-len(FULL) * len(SCHEDULES) :]:
            _say(row)
        took, schedule = (
            seconds(option, TARGET, named_model("measured", TARGET)),
            SCHEDULES["least-error"](found, FULL[0]),
        )
        choices.append(Choice(option, schedule, found.psnr(schedule), took))
    chosen = best(choices, LEAST_PSNR).option
    found = calibrate(chosen.program, chosen.candidate.cut, denoising, jobs)
    ours = []
    for full in sorted({*FULL, *OTHERS}):
        ours += [judged(judge, chosen, found, rule, full, sizes.many) for rule in SCHEDULES]
        for row in ours[-len(SCHEDULES) :]:
            _say(row)
    about: dict[str, object] = {"chosen": str(chosen.candidate.cut), "full_s": judge.seconds, "shift": shift}
    about |= {"full_flicker": flicker(torch.cat(judge.clips)), "full_frechet": distance(judge.clips), **asdict(sizes)}
    return [*ours, *(row for row in rows if row.cut != about["chosen"])], about


def _say(row: Row) -> None:
    what = f"{row.network} {row.cut} {row.rule} {row.full} full: x{row.fewer_flops:.2f}"
    print(f"{what}, {row.predicted_psnr:.1f} dB predicted, {row.psnr:.2f} dB", flush=True)


def main() -> None:
    """Runs the networks named, or both, and writes the reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["quality-unet", "quality-transformer"])
    parser.add_argument("--sizes", type=int, nargs=4, default=[2, 4, 6, 9], help="clips: see Sizes")
    parser.add_argument("--shift", type=float, default=3.0, help="of the noise levels")
    parser.add_argument("-o", "--out", type=Path, required=True, help="files without their ending")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    about: dict[str, dict[str, object]] = {}
    for name in given.names:
        found, about[name] = run(name, Sizes(*given.sizes), given.shift)
        rows += found
        raw = {"about": about, "rows": [asdict(row) for row in rows]}
        given.out.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    write_reports(raw, given.out)


if __name__ == "__main__":
    main()
