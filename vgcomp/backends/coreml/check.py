"""Holds an artifact to the network that it was made of: the packages' own bytes, interpreted, beside PyTorch.

Both get the same random inputs, rounded to what the packages take. The largest difference over the largest value is at
most ``TOLERANCE`` with fp16 weights: fp16 has 11 bits, and a network some hundred ops in a row. Compressed weights are
other weights; how far they lead away is measured and told, and has no bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor

from vgcomp.backends.coreml.runtime import Interpreted
from vgcomp.backends.torch_module import TorchModule
from vgcomp.check import load_weights, random_inputs
from vgcomp.errors import CheckFailed
from vgcomp.memory import peak_activation_bytes
from vgcomp.program import Program
from vgcomp.result import CheckReport
from vgcomp.simulate import operation_flops

TOLERANCE = 2e-2

#: Arithmetic that a check may take on this machine, and the share of its free memory.
MOST_FLOPS, MEMORY_SHARE = 2.0e12, 0.5


@dataclass(frozen=True)
class Compared:
    """Largest difference of any output, alone and over that output's largest value."""

    max_abs_error: float
    max_rel_error: float


def check_artifact(original: Program, parted: Program, folder: Path, *, bounded: bool, seed: int = 0) -> CheckReport:
    """Compares an artifact with the unmodified network; ``parted``: the program that it was built from.

    Skipped where the network is too large to run here. Raises CheckFailed where ``bounded`` and they differ by more
    than ``TOLERANCE``.
    """
    needed = original.weight_bytes() + 2 * peak_activation_bytes(original, workspace="cpu")
    if needed > MEMORY_SHARE * psutil.virtual_memory().available or operation_flops(original) > MOST_FLOPS:
        return CheckReport(status="skipped", shape="too large to interpret on this machine")
    found = compare(original, parted, folder, seed)
    if bounded and not found.max_rel_error <= TOLERANCE:
        raise CheckFailed(
            f"the packages of {original.name} differ from it by {found.max_rel_error:.3g} of the largest value, over "
            f"{TOLERANCE:g}; nothing was written"
        )
    return CheckReport(status="passed", max_abs_error=found.max_abs_error, shape="full")


def compare(original: Program, parted: Program, folder: Path, seed: int = 0) -> Compared:
    """Runs both. Inputs come from ``parted``, which knows what a folded input may be."""
    inputs = dict(zip(parted.input_names, random_inputs(parted, seed=seed), strict=True))
    given = [inputs[name].to(value) for name, value in zip(original.input_names, _dtypes(original), strict=True)]
    wanted = TorchModule(original, weights=load_weights(original, seed=seed))(*given)
    found = Interpreted(folder).run(inputs)
    pairs = [(found[name], value) for name, value in zip(original.output_names, wanted, strict=True)]
    return Compared(
        max(_difference(a, b) for a, b in pairs),
        max(_difference(a, b) / max(float(b.double().abs().max()), 1e-30) for a, b in pairs),
    )


def _dtypes(program: Program) -> list[torch.dtype]:
    return [node.meta["val"].dtype for node in program.inputs]


def _difference(found: Tensor, wanted: Tensor) -> float:
    """The largest; not a number where one is not."""
    return float((found.double().reshape(wanted.shape) - wanted.double()).abs().max())
