"""A budget held by an artifact: what its own memory plan takes, not what the torch runtime would.

A compiled artifact has one arena, planned ahead by its backend. Packing may waste some of it, so that a program whose
live bytes just fit can have an arena that does not. Then the program is planned again, for as much less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vgcomp.device_memory import fixed_bytes
from vgcomp.errors import Infeasible
from vgcomp.optimize import OptimizeResult, optimize
from vgcomp.program import Program
from vgcomp.targets import Target, load_target
from vgcomp.units import format_bytes, parse_bytes

#: Bytes of a program's inputs, outputs and temporaries in an artifact.
PlannedBytes = Callable[[Program], int]

#: Plans made before a budget is given up; the second nearly always holds.
TRIES = 4


def optimize_within(
    program: Program, *, target: str | Target, memory: str | int, planned: PlannedBytes, **options: Any
) -> OptimizeResult:
    """``optimize`` (its other arguments are ``options``), until weights and planned bytes are within ``memory`` bytes.

    Raises what ``optimize`` raises: Infeasible has the bytes that the artifact of the smallest plan needs.
    """
    device = load_target(target)
    budget = asked = parse_bytes(memory)

    def needed(result: OptimizeResult) -> int:
        return fixed_bytes(device) + result.program.weight_bytes() + planned(result.program)

    for _ in range(TRIES):
        culprit = "the packing of its arena"
        try:
            result = optimize(program, target=device, memory=asked, **options)
        except Infeasible as error:
            # The artifact of the smallest plan may need less than the torch runtime does: ops have no insides in it.
            culprit, asked = error.culprit, 0
            result = optimize(program, target=device, memory=error.smallest_bytes, **options)
        size = needed(result)
        if size <= budget:
            return replace(result, report=result.report.model_copy(update={"budget_bytes": budget}))
        asked -= size - budget
        if asked <= 0:
            break
    raise _infeasible(program, budget, size, culprit)


def _infeasible(program: Program, budget: int, smallest: int, culprit: str) -> Infeasible:
    return Infeasible(
        f"no artifact of {program.name} fits {format_bytes(budget)}: the smallest takes {format_bytes(smallest)}, "
        f"with {culprit} at the peak",
        smallest_bytes=smallest,
        culprit=culprit,
    )
