"""What a candidate region is: its ops, where each carries the axis, and where its results lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import fx

from vgcomp.ir import Axis
from vgcomp.slicing.problem import Floats

#: Ways to slice: neighbouring slices repeat halos, keep line buffers, or the result grows over an operand.
RECOMPUTE, CARRY, GROW = 0, 1, 2


@dataclass(frozen=True)
class Into:
    """Result ``result`` takes the buffer of ``source`` (an op's or operand's value)."""

    result: fx.Node
    source: fx.Node


@dataclass(frozen=True)
class Grow:
    """The one result may be laid over a smaller, dying operand whose buffer was allocated large enough.

    Slices run last first: where both have the axis outermost, a slice of the result then covers only what
    has been read. ``source``: the operand; ``saved``: its bytes; ``extra``: what its buffer must have more.
    """

    result: fx.Node
    source: fx.Node
    saved: int
    extra: int


@dataclass(frozen=True)
class Placement:
    """Buffers (by ``id``) of a region's results: taken over from operands, and new."""

    taken: tuple[tuple[int, int], ...]
    fresh: tuple[int, ...]


@dataclass(frozen=True)
class Region:
    """Ops ``[first, end)`` run by slices of ``axis`` of the last one.

    ``axis_of``: the sliced ops and where each carries the axis. ``barriers``: statistics, last one first, with the
    axis of what they sum over. ``into[mode]``: results written over dying operands.
    """

    first: int
    end: int
    axis: Axis
    into: tuple[tuple[Into, ...], tuple[Into, ...]]
    axis_of: dict[fx.Node, Axis]
    barriers: tuple[tuple[fx.Node, Axis], ...]
    prologue: tuple[fx.Node, ...]
    foreign: tuple[fx.Node, ...]
    grow: Grow | None = None


@dataclass(frozen=True)
class Candidates:
    """Every region with one end and one axis, by where it starts.

    ``peak[s, mode, k]``: predicted bytes live while the region that starts at ``firsts[s]`` runs in
    ``options[k]`` slices, all else included; ``seconds`` alike.
    """

    end: int
    axis: Axis
    options: tuple[int, ...]
    firsts: tuple[int, ...]
    peak: Floats
    seconds: Floats
    #: By start and mode.
    placements: tuple[tuple[Placement, Placement], ...]
    #: By start.
    grows: tuple[Grow | None, ...]
    #: By start, for hopes (:mod:`vgcomp.slicing.nested`): bytes that slices would take, were they not sliced again.
    hopes: Floats | None = None


def joined(short: Candidates, long: Candidates) -> Candidates:
    """The candidates of one end and axis from two searches, those that start later first."""
    return Candidates(
        long.end, long.axis, long.options, short.firsts + long.firsts, np.concatenate((short.peak, long.peak)),
        np.concatenate((short.seconds, long.seconds)), short.placements + long.placements, short.grows + long.grows,
    )  # fmt: skip
