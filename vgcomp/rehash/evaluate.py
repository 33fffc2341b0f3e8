"""What a schedule does to clips that calibration has not seen."""

from __future__ import annotations

from collections.abc import Sequence

from vgcomp.backends.torch_module import TorchModule
from vgcomp.program import Program
from vgcomp.quality.metrics import psnr
from vgcomp.rehash.choose import Rehash
from vgcomp.rehash.runner import Job, Steps, run_schedule


def mean_psnr(found: Rehash, program: Program, jobs: Sequence[Job]) -> float:
    """Decibels of latents made by the chosen schedule to those of the unmodified program, averaged over jobs.

    Of the range that calibration saw, as the prediction is.
    """
    steps, whole = found.modules(), TorchModule(program)
    unmodified, always = Steps(whole, whole, steps.inputs), (True,) * found.denoising.sampler.steps
    spread = found.calibrations[found.chosen.option.candidate.cut].spread
    values = []
    for job in jobs:
        made = run_schedule(steps, found.chosen.schedule, found.denoising, job).latent
        wanted = run_schedule(unmodified, always, found.denoising, job).latent
        values.append(psnr(made, wanted, spread))
    return sum(values) / len(values)
