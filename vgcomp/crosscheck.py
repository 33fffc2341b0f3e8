"""Checks an optimized program against the unmodified one, at full shape or at the largest that this machine holds.

A full-size network seldom fits the machine that compiles it. A zoo network is then built again at reduced
settings, in fp32, and put through the same passes at the same fraction of its own peak; what was compared is said
in ``CheckReport.shape``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

from vgcomp.check import CheckResult, check
from vgcomp.errors import CheckFailed, UsageError
from vgcomp.memory import peak_activation_bytes
from vgcomp.models import MODELS, build
from vgcomp.program import Program
from vgcomp.result import CheckReport, Equivalence
from vgcomp.simulate import operation_flops

#: Arithmetic that a check may take: a minute or two on two cores.
MOST_FLOPS = 2.0e12
#: Share of the machine's free memory that a check may take.
MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class Checked:
    """What a check needs: both programs, and how to repeat the optimization on another size of the network.

    ``prepare``: what was done to the network to make the reference of it.
    """

    reference: Program
    candidate: Program
    equivalence: Equivalence
    #: (another size of the same network, activation budget) -> that program, optimized alike.
    repeat: Callable[[Program, int], Program]
    prepare: Callable[[Program], Program] = lambda network: network


def crosscheck(what: Checked, *, seed: int = 0) -> CheckReport:
    """The comparison as the report has it. Raises CheckFailed where the outputs differ by more than allowed."""
    limit = int(psutil.virtual_memory().available * MEMORY_SHARE)
    if _bytes(what.reference) <= limit and operation_flops(what.reference) <= MOST_FLOPS:
        return _judged(check(what.reference, what.candidate, seed=seed, memory_limit=limit), "full", what)
    reduced = next((p for p in map(what.prepare, _reductions(what.reference)) if _small_enough(p, limit)), None)
    if reduced is None:
        return CheckReport(status="skipped", shape="too large for this machine, and its shapes cannot be reduced")
    share = peak_activation_bytes(what.candidate) / peak_activation_bytes(what.reference)
    budget = max(int(share * peak_activation_bytes(reduced)), 1)
    candidate = what.repeat(reduced, budget)
    found = check(reduced, candidate, seed=seed, memory_limit=limit)
    names = ("frames", "height", "width", "batch", "dtype")
    shape = ", ".join(f"{name}={value}" for name, value in reduced.source.fields if name in names)
    return _judged(found, f"reduced to {shape}", what)


def _judged(found: CheckResult, shape: str, what: Checked) -> CheckReport:
    if found.status == "failed":
        raise CheckFailed(f"{what.reference.name} at {shape}: {found.reason}; nothing was written")
    return CheckReport(status=found.status, max_abs_error=found.max_abs_error, shape=shape)


def _bytes(program: Program) -> int:
    return program.weight_bytes() + 2 * peak_activation_bytes(program)


def _small_enough(program: Program, limit: int) -> bool:
    return _bytes(program) <= limit and operation_flops(program) <= MOST_FLOPS


def _reductions(program: Program) -> Iterator[Program]:
    """Smaller and smaller builds of a zoo network: sides first, then frames."""
    if program.source.kind != "zoo" or program.source.name not in MODELS:
        return
    network = MODELS[program.source.name]
    given = dict(program.source.fields)
    frames, height, width = (int(given[name]) for name in ("frames", "height", "width"))
    for _ in range(10):
        if max(height, width) > 4 * network.multiple:
            height, width = _halved(height, network.multiple), _halved(width, network.multiple)
        else:
            frames = max(1, (frames // 2 - 1) // network.frame_step * network.frame_step + 1)
        sizes = {"frames": frames, "height": height, "width": width}
        try:
            yield build(program.source.name, **{**given, **sizes, "dtype": "fp32"})
        except UsageError:
            return


def _halved(side: int, multiple: int) -> int:
    return max(2 * multiple, side // 2 // multiple * multiple)
