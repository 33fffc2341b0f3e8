"""What a candidate costs, and whoever can say so: the protocol between searches and costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vgcomp.space import Candidate


@dataclass(frozen=True)
class Cost:
    """Figures of one run of a candidate's compiled program on a target under a budget.

    Where no program fits the budget (``feasible`` is False), those of the program through all passes but slicing.
    """

    #: Simulated seconds.
    latency_s: float
    #: Bytes that the device must have, all of it, as :func:`vgcomp.device_memory.device_memory` counts.
    peak_bytes: int
    weight_bytes: int
    #: Floating-point operations of one run of the network as it was built, without what slices repeat.
    flops: float
    #: A program within the budget was found; always True without a budget.
    feasible: bool
    #: The same figures of the network as it was built, no pass run.
    uncompiled_latency_s: float
    uncompiled_peak_bytes: int


class Costs(Protocol):
    """Costs of candidates on one target under one budget."""

    def cost(self, candidate: Candidate) -> Cost:
        """What a candidate costs. Raises UsageError for one that is not of the space."""
        ...
