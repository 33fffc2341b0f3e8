"""``make demo``'s last lines: a small network, run unmodified and from the folder that ``vgcomp optimize -o`` wrote.

    python -m tests.benchmarks.measured_peak svd-vae-decoder-small out/demo/optimized

The peaks are counted from live tensor storages while both run on the CPU; no prediction goes in.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from vgcomp.backends.torch_module import TorchModule
from vgcomp.check import random_inputs
from vgcomp.load import load
from vgcomp.memory import peak_activation_bytes
from vgcomp.program import Program
from vgcomp.track import LiveTracker
from vgcomp.units import format_bytes


def run(program: Program) -> tuple[tuple[Tensor, ...], int]:
    """Outputs on seeded random inputs, and the peak of live bytes without weights."""
    module, inputs = TorchModule(program), random_inputs(program)
    with torch.no_grad(), LiveTracker(inputs) as tracker:
        outputs = module(*inputs)
    return outputs, tracker.peak


def main(network: str, folder: str) -> None:
    programs = {"unmodified": load(network), "optimized": load(folder)}
    outputs = {}
    for label, program in programs.items():
        outputs[label], peak = run(program)
        predicted = format_bytes(peak_activation_bytes(program, workspace="cpu"))
        print(f"{label:<12}measured {format_bytes(peak):>9}   predicted {predicted:>9}")
    pairs = list(zip(outputs["unmodified"], outputs["optimized"], strict=True))
    error = max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)
    print(f"{'difference':<12}{error:.1e} of the largest value")


if __name__ == "__main__":
    main(*sys.argv[1:])
