"""``vgcomp rehash``: a denoiser's steps as full and reuse programs, and when each runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vgcomp.cli import options
from vgcomp.cli.console import progress, say, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table
    from torch import Tensor

    from vgcomp.program import Program
    from vgcomp.rehash.choose import Choice, Rehash


class When(StrEnum):
    """Ways to decide which steps are full."""

    least_error = "least-error"
    algorithm_1 = "algorithm-1"
    algorithm_1_effect = "algorithm-1-effect"
    uniform = "uniform"


#: Seeds of the clips that --check makes are this far from those that were calibrated on.
_OTHER_SEEDS = 1000


_Latency = Annotated[
    float | None,
    typer.Option("--latency", min=0.0, metavar="SECONDS", help="Of all steps, simulated: the best PSNR within."),
]
_Sampler = Annotated[
    str | None, typer.Option("--sampler", help="flow-euler, flow-euler-clean or ddim; default: the network's own.")
]
_Shift = Annotated[float, typer.Option("--shift", min=0.01, help="Of flow-euler: above 1, more steps near noise.")]
_Inputs = Annotated[
    Path | None, typer.Option("--inputs", metavar="FILE.safetensors", help="Values of other inputs, by name.")
]


def rehash(
    model: options.Source,
    settings: options.Set = None,
    steps: Annotated[int, typer.Option("--steps", help="Of the sampler.")] = 25,
    full: Annotated[int | None, typer.Option("--full", help="How many steps are full; default: tried.")] = None,
    latency: _Latency = None,
    least_psnr: Annotated[float, typer.Option("--psnr", help="Least PSNR of clips to the full schedule's, dB.")] = 30.0,
    mem: options.Memory = None,
    target: options.Target = "cpu",
    sampler: _Sampler = None,
    shift: _Shift = 1.0,
    when: Annotated[When, typer.Option("--when", help="How the full steps are chosen.")] = When.least_error,
    clips: Annotated[int, typer.Option("--clips", min=1, help="Clips to calibrate on.")] = 4,
    inputs: _Inputs = None,
    latent: Annotated[str, typer.Option("--latent", help="Name of the input that is denoised.")] = "sample",
    timestep: Annotated[str, typer.Option("--timestep", help="Name of the input that says when.")] = "timestep",
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="DIR", help="Where the results go.")] = None,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Make clips of other seeds both ways.")] = False,
    seed: options.Seed = 0,
    cost_model: options.CostModel = options.CostModelName.analytic,
) -> None:
    """Reuse a denoiser's values across steps: choose which and when, and write a full and a reuse program."""
    from vgcomp.cli.source import load_source
    from vgcomp.cost_models import named_model
    from vgcomp.files import check_directory_destination
    from vgcomp.rehash.choose import rehash as run
    from vgcomp.rehash.jobs import denoising_of, read_given, sampler_name, seeded_job
    from vgcomp.rehash.sampler import make_sampler
    from vgcomp.targets import load_target
    from vgcomp.units import parse_bytes

    device, budget = load_target(target), None if mem is None else parse_bytes(mem)
    if out is not None:
        check_directory_destination(out.absolute())
    with progress() as tell:
        program = load_source(model, settings or [])
        chosen = make_sampler(sampler or sampler_name(program), steps, shift)
        denoising = denoising_of(program, chosen, latent, timestep)
        given = read_given(inputs, program) if inputs is not None else {}
        found = run(
            program,
            denoising,
            [seeded_job(program, denoising, i, given) for i in range(seed, seed + clips)],
            target=device,
            cost_model=named_model(cost_model.value, device),
            full=full,
            latency=latency,
            memory=budget,
            least_psnr=least_psnr,
            rule=when.value,
            progress=tell,
        )
        measured = _checked(found, program, range(seed, seed + clips), given) if check else None
        written = _saved(found, out)
    _print(found, device.name, measured, written)
    _hold(found, measured)


def _saved(found: Rehash, out: Path | None) -> list[Path]:
    from vgcomp.rehash.store import save

    return save(found, out) if out is not None else []


def _checked(found: Rehash, program: Program, seeds: Sequence[int], given: Mapping[str, Tensor]) -> float:
    """Mean PSNR of clips of other seeds than those calibrated on, which are given."""
    from vgcomp.rehash.evaluate import mean_psnr
    from vgcomp.rehash.jobs import seeded_job

    return mean_psnr(
        found, program, [seeded_job(program, found.denoising, seed + _OTHER_SEEDS, given) for seed in seeds]
    )


def _print(found: Rehash, target: str, measured: float | None, written: Sequence[Path]) -> None:
    from vgcomp.passes.rehash_steps import what_is_read
    from vgcomp.rehash.schedule import text
    from vgcomp.step_cuts.reach import read_inputs
    from vgcomp.units import format_bytes, format_seconds

    chosen, denoising = found.chosen, found.denoising
    say(f"{found.full.name} on {target}: {len(chosen.schedule)} steps", _choices(found))
    say(f"Kept: {chosen.option.candidate.cut}, {format_bytes(chosen.option.candidate.nbytes)}")
    say(f"Steps: {text(chosen.schedule)}  (F full, . reuse)")
    say(what_is_read(read_inputs(found.reuse), denoising.latent, denoising.timestep).capitalize())
    whole = len(chosen.schedule) * chosen.step_seconds.full
    say(f"Latency of all steps, simulated: {format_seconds(chosen.latency_s)}, all full {format_seconds(whole)}")
    if measured is not None:
        say(f"PSNR on clips not calibrated on: {measured:.1f} dB")
    say(f"Wrote {', '.join(map(str, written))}" if written else "Nothing was written: -o DIR takes the result")


def _choices(found: Rehash) -> Table:
    """The cuts with the best schedule of each, the chosen one marked."""
    from vgcomp.units import format_bytes, format_seconds

    made = table("", "Cut", ">FLOPs saved", ">Kept", ">Similarity", ">Full steps", ">PSNR", ">Fewer FLOPs", ">Latency")
    for choice in _best_of_each(found):
        candidate = choice.option.candidate
        made.add_row(
            "→" if choice is found.chosen else "",
            str(candidate.cut),
            f"{100 * candidate.saved:.0f} %",
            format_bytes(candidate.nbytes),
            f"{choice.option.similarity:.4f}",
            str(choice.full_steps),
            f"{choice.psnr:.1f}",
            f"{choice.flops_ratio:.2f}×",
            format_seconds(choice.latency_s),
        )
    return made


def _best_of_each(found: Rehash) -> list[Choice]:
    from vgcomp.rehash.choose import best

    cuts = dict.fromkeys(choice.option.candidate.cut for choice in found.choices)
    return [best([c for c in found.choices if c.option.candidate.cut == cut], found.least_psnr) for cut in cuts]


def _hold(found: Rehash, measured: float | None) -> None:
    """A bound that is missed is no success, whatever was written."""
    from vgcomp.errors import CheckFailed

    if not found.holds:
        raise CheckFailed(
            f"{found.chosen.psnr:.1f} dB are predicted at the best, fewer than the {found.least_psnr:g} asked for: "
            "raise --full, or lower --psnr"
        )
    if measured is not None and measured < found.least_psnr:
        raise CheckFailed(
            f"clips keep {measured:.1f} dB, fewer than the {found.least_psnr:g} asked for: "
            "raise --full, or calibrate on more --clips"
        )
