"""Times the schedules that :mod:`tests.benchmarks.quality.rehash` found: seconds of all steps of a clip, one thread.

    python -m tests.benchmarks.quality.timing FILE.json

adds ``measured_s`` to the file: the median of some runs, all schedules in turn, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.quality.rehash import SHIFT, STEPS
from vgcomp.backends.torch_module import TorchModule
from vgcomp.models import build
from vgcomp.program import Program
from vgcomp.rehash.jobs import denoising_of, seeded_job
from vgcomp.rehash.runner import Denoising, Job, Steps, run_schedule
from vgcomp.rehash.sampler import FlowEuler
from vgcomp.rehash.schedule import Schedule
from vgcomp.step_cuts.cut import Cut
from vgcomp.step_cuts.emit import full_program, reuse_program
from vgcomp.step_cuts.halves import guided_halves


def steps_of(program: Program, cut: Cut) -> Steps:
    """The cut's programs: of the network as it came, or with its guided batch taken apart, as the names are."""
    named = {node.name for node in program.graph.nodes}
    wanted = {name for kept in cut.kept for name in (kept.node, kept.base) if name is not None}
    halves = None if wanted <= named else guided_halves(program)
    form = program if halves is None else halves[0]
    return Steps(TorchModule(full_program(form, cut)), TorchModule(reuse_program(form, cut)), program.input_names)


def clip_seconds(steps: Steps, schedule: Schedule, denoising: Denoising, job: Job) -> float:
    """Of one clip's steps."""
    begin = time.perf_counter()
    run_schedule(steps, schedule, denoising, job)
    return time.perf_counter() - begin


def measure(name: str, rows: list[dict[str, Any]], runs: int) -> float:
    """Adds ``measured_s`` to the rows of a network; that of its full schedule is what it returns."""
    program = build(name)
    denoising = denoising_of(program, FlowEuler(STEPS, SHIFT, "clean"), "sample", "timestep")
    job, module = seeded_job(program, denoising, 0), TorchModule(program)
    made = {cut: steps_of(program, Cut.parse(tuple(cut.split("+")))) for cut in {row["cut"] for row in rows}}
    work = [(Steps(module, module, program.input_names), (True,) * STEPS)]
    work += [(made[row["cut"]], tuple(letter == "F" for letter in row["schedule"])) for row in rows]
    took = [[clip_seconds(steps, schedule, denoising, job) for steps, schedule in work] for _ in range(runs)]
    full, *others = (statistics.median(values) for values in zip(*took, strict=True))
    for row, seconds in zip(rows, others, strict=True):
        row["measured_s"] = seconds
    return full


def main() -> None:
    """Measures every network of the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    raw = json.loads(given.file.read_text(encoding="utf-8"))
    for name, about in raw["about"].items():
        about["full_s"] = measure(name, [row for row in raw["rows"] if row["network"] == name], given.runs)
    given.file.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
