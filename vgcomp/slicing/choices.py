"""What a plan is: regions in order, each with its way of slicing."""

from __future__ import annotations

from dataclasses import dataclass

from vgcomp.ir import Axis


@dataclass(frozen=True)
class Choice:
    """An edge taken: ops ``[first, end)`` in ``n_slices`` slices of ``axis``."""

    edge: int
    first: int
    end: int
    axis: Axis
    n_slices: int
    carry: bool
    peak: int
    seconds: float
    #: The result is laid over a smaller operand, slices last first.
    grow: bool = False
    #: Bytes reserved in a live buffer for a later result to grow into; part of ``peak``.
    extra: int = 0
    #: (buffer by id, bytes): a result allocated larger than itself.
    reserve: tuple[int, int] | None = None


@dataclass(frozen=True)
class Plan:
    """Disjoint regions in order; everything else runs as it is. Predictions, not measurements."""

    choices: tuple[Choice, ...]
    peak: int
    seconds: float
