"""Clips to calibrate on: noise of a seed, and what else the network is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vgcomp import ir
from vgcomp.check import random_inputs
from vgcomp.errors import ModelError, UsageError
from vgcomp.models.network import Network
from vgcomp.program import Program
from vgcomp.rehash.runner import Denoising, Job
from vgcomp.rehash.sampler import Sampler


def denoising_of(program: Program, sampler: Sampler, latent: str, timestep: str) -> Denoising:
    """How the program stands in the sampler's loop. Raises UsageError where it has no such inputs."""
    inputs = {str(node.target): ir.val(node) for node in program.inputs}
    for name in (latent, timestep):
        if name not in inputs:
            raise UsageError(f"{program.name} has no input {name!r}; it has {', '.join(inputs)}")
    told = inputs[timestep]
    return Denoising(sampler, latent, timestep, tuple(told.shape), told.dtype)


def seeded_job(program: Program, denoising: Denoising, seed: int, given: Mapping[str, Tensor] | None = None) -> Job:
    """A job of a seed. ``given``: values of inputs by name; where missing, the zoo's own or seeded random numbers.

    Raises UsageError for a value of another shape than the input's.
    """
    noise = ir.val(program.inputs[program.input_names.index(denoising.latent)])
    rng = torch.Generator().manual_seed(seed)
    start = torch.randn(noise.shape, generator=rng).to(noise.dtype)
    drawn = dict(zip(program.input_names, random_inputs(program, seed=seed), strict=True))
    values = {**drawn, **_zoo_conditions(program, seed), **(given or {})}
    for node in program.inputs:
        name, wanted = str(node.target), ir.val(node)
        if values[name].shape != wanted.shape:
            raise UsageError(f"input {name!r} is {tuple(wanted.shape)}, not {tuple(values[name].shape)}")
        values[name] = values[name].to(wanted.dtype)
    rest = {name: value for name, value in values.items() if name not in (denoising.latent, denoising.timestep)}
    return Job(start, rest)


def read_given(path: Path, program: Program) -> dict[str, Tensor]:
    """Values of inputs from a safetensors file. Raises UsageError for a name that is no input, or ModelError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}") from error
    for name in found:
        if name not in program.input_names:
            raise UsageError(f"{path} has {name!r}, which is no input; there are {', '.join(program.input_names)}")
    return found


def sampler_name(program: Program) -> str:
    """The sampler that the program's network was trained for, where the zoo knows it."""
    entry = _entry(program)
    return "flow-euler" if entry is None else entry.sampler


def _zoo_conditions(program: Program, seed: int) -> dict[str, Tensor]:
    """What the zoo's entry of the program says for a seed."""
    entry = _entry(program)
    return {} if entry is None or entry.conditions is None else entry.conditions(seed)


def _entry(program: Program) -> Network | None:
    from vgcomp.models import MODELS

    return MODELS.get(program.source.name) if program.source.kind == "zoo" else None
