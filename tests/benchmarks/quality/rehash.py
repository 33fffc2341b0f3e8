"""Step rehash on the two trained networks: what each way to choose the full steps does to clips.

    python -m tests.benchmarks.quality.rehash quality-unet -o FILE.json
    python -m tests.benchmarks.quality.timing FILE.json      # then, on a machine that does nothing else
    python -m tests.benchmarks.quality.report FILE.json [MORE.json] -o tests/benchmarks/results/NAME

Schedules are calibrated on some seeds and judged on others. Clips are compared with those of the full schedule, as
pixels. Predicted times are of the cost models for ``cpu-1``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

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
from vgcomp.rehash.schedule import text
from vgcomp.simulate import simulate
from vgcomp.step_cuts.reach import read_inputs
from vgcomp.targets import load_target

STEPS = 25
#: Of the noise levels: more of the steps near noise.
SHIFT = 3.0
FULL, OTHERS = (13, 8), (5, 10, 18)
#: Ways that cuts which are not chosen are judged by.
TRIED = ("least-error", "uniform")
#: Seeds of calibration and of evaluation: never the same.
CALIBRATED, JUDGED = 0, 1000
TARGET = load_target("cpu-1")
#: Of the random network that the Fréchet distance is taken on: means and deviations of 4 channels.
FEATURES = 8


@dataclass(frozen=True)
class Row:
    """One schedule on one cut. ``psnrs``: of each clip judged, dB; SSIM and flicker are their means.

    Seconds are predicted, of all steps of a clip.
    """

    network: str
    cut: str
    rule: str
    asked: int
    full: int
    schedule: str
    fewer_flops: float
    cache_bytes: int
    predicted_psnr: float
    psnrs: list[float]
    ssim: float
    flicker: float
    predicted_s: float
    analytic_s: float
    #: None for fewer clips than it takes.
    frechet: float | None
    reads: str


@dataclass(frozen=True)
class Judge:
    """The clips of the full schedule."""

    program: Program
    denoising: Denoising
    jobs: list[Job]
    clips: list[Tensor]


def judge_of(program: Program, denoising: Denoising, count: int) -> Judge:
    """Makes the clips that others are compared with."""
    module, jobs = TorchModule(program), [seeded_job(program, denoising, JUDGED + i) for i in range(count)]
    steps = Steps(module, module, program.input_names)
    clips = [decode(run_schedule(steps, (True,) * STEPS, denoising, job).latent) for job in jobs]
    return Judge(program, denoising, jobs, clips)


class Entry:
    """A cut made ready: its programs as modules, and what the cost models predict of them."""

    def __init__(self, option: Option, program: Program) -> None:
        self.option = option
        self.steps = Steps(TorchModule(option.full), TorchModule(option.reuse), program.input_names)
        self.measured, self.analytic = (
            seconds(option, TARGET, named_model(name, TARGET)) for name in ("measured", "analytic")
        )


def judged(judge: Judge, entry: Entry, found: Calibration, rule: str, full: int, count: int) -> Row:
    """One schedule's row, on the first ``count`` clips."""
    schedule, option = SCHEDULES[rule](found, full), entry.option
    clips = [decode(run_schedule(entry.steps, schedule, judge.denoising, job).latent) for job in judge.jobs[:count]]
    wanted = judge.clips[:count]
    measured, analytic = (Choice(option, schedule, 0.0, took) for took in (entry.measured, entry.analytic))
    row = Row(
        network=judge.program.name,
        cut=str(option.candidate.cut),
        rule=rule,
        asked=full,
        full=sum(schedule),
        schedule=text(schedule),
        fewer_flops=measured.flops_ratio,
        cache_bytes=option.candidate.nbytes,
        predicted_psnr=found.psnr(schedule),
        psnrs=[psnr(a, b) for a, b in zip(clips, wanted, strict=True)],
        ssim=statistics.mean(ssim(a, b) for a, b in zip(clips, wanted, strict=True)),
        flicker=statistics.mean(map(flicker, clips)),
        predicted_s=measured.latency_s,
        analytic_s=analytic.latency_s,
        frechet=distance(clips) if count > FEATURES else None,
        reads=", ".join(sorted(read_inputs(option.reuse) & {"sample", "timestep"})),
    )
    what = f"{row.network} {row.cut} {rule} {row.full} full: x{row.fewer_flops:.2f}"
    print(f"{what}, {row.predicted_psnr:.1f} dB predicted, {statistics.mean(row.psnrs):.2f} dB", flush=True)
    return row


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


def run(name: str, sizes: Sizes) -> tuple[list[Row], dict[str, object]]:
    """All rows of one network: the cuts at two numbers of full steps, and the chosen one at many."""
    program = build(name)
    denoising = denoising_of(program, FlowEuler(STEPS, SHIFT, "clean"), "sample", "timestep")
    judge = judge_of(program, denoising, sizes.many)
    jobs = [seeded_job(program, denoising, CALIBRATED + i) for i in range(max(sizes.tried, sizes.chosen_on))]
    tried: list[Row] = []
    entries: list[Entry] = []
    choices: list[Choice] = []
    for option in finalists(options(program, denoising, jobs[:1]), TARGET, None):
        entry = Entry(option, program)
        found = calibrate(option.program, option.candidate.cut, denoising, jobs[: sizes.tried])
        tried += [judged(judge, entry, found, rule, full, sizes.few) for full in FULL for rule in TRIED]
        schedule = SCHEDULES["least-error"](found, FULL[0])
        entries.append(entry)
        choices.append(Choice(option, schedule, found.psnr(schedule), entry.measured))
    chosen = best(choices, LEAST_PSNR).option
    entry = next(entry for entry in entries if entry.option is chosen)
    cut = entry.option.candidate.cut
    found = calibrate(entry.option.program, cut, denoising, jobs)
    counts = sorted({*FULL, *OTHERS})
    rows = [judged(judge, entry, found, rule, full, sizes.many) for full in counts for rule in SCHEDULES]
    about: dict[str, object] = {"chosen": str(cut), "shift": SHIFT, **asdict(sizes)}
    about |= {"full_flicker": flicker(torch.cat(judge.clips)), "full_frechet": distance(judge.clips)}
    about["full_predicted_s"] = STEPS * simulate(program, TARGET, named_model("measured", TARGET)).latency_s
    return [*rows, *(row for row in tried if row.cut != about["chosen"])], about


def main() -> None:
    """Runs one network and writes what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=["quality-unet", "quality-transformer"])
    parser.add_argument("--sizes", type=int, nargs=4, default=[3, 6, 24, 32], help="clips: see Sizes")
    parser.add_argument("-o", "--out", type=Path, required=True, help="a .json file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows, about = run(given.name, Sizes(*given.sizes))
    raw = {"about": {given.name: about}, "rows": [asdict(row) for row in rows]}
    given.out.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
