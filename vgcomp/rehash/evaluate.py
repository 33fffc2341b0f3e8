"""What a schedule does to clips that calibration has not seen."""

from __future__ import annotations

from collections.abc import Sequence

from vgcomp.backends.torch_module import TorchModule
from vgcomp.program import Program
from vgcomp.quality.metrics import psnr
from vgcomp.rehash.choose import Rehash
from vgcomp.rehash.runner import Job, run_schedule


def mean_psnr(found: Rehash, program: Program, jobs: Sequence[Job]) -> float:
    """Decibels of latents made by the chosen schedule to those of the unmodified program, averaged over jobs.

    Of the range that calibration saw, as the prediction is.
    """
    steps, n = found.modules(), found.denoising.sampler.steps
    whole = TorchModule(program)
    spread = found.calibrations[found.chosen.option.candidate.cut].spread
    values = []
    for job in jobs:
        found_clip = run_schedule(steps, found.chosen.schedule, found.denoising, job).latent
        unmodified = type(steps)(whole, whole, steps.inputs)
        wanted = run_schedule(unmodified, (True,) * n, found.denoising, job).latent
        values.append(psnr(found_clip, wanted, spread))
    return sum(values) / len(values)
