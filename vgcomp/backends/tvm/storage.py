"""Storages, the values in them, and the instructions that a graph becomes: what ``plan`` makes and ``lower`` reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from vgcomp import ir
from vgcomp.arena import ArenaBuffer, plan_arena
from vgcomp.backends.tvm.layout import Move, View

#: "param": an input or a weight, which is the caller's.
Kind = Literal["param", "arena"]


@dataclass(eq=False, slots=True)
class Buffer:
    """A storage of ``size`` bytes, in use from time ``first`` to ``last`` of its plan (two a node)."""

    size: int
    first: int
    last: int
    kind: Kind = "arena"
    name: str = ""
    #: Place in the arena, once it is known.
    offset: int = -1


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor: a view of a storage."""

    buffer: Buffer
    view: View
    dtype: torch.dtype

    def seen_as(self, view: View) -> Value:
        """The same storage through another view."""
        return Value(self.buffer, view, self.dtype)


@dataclass(frozen=True, slots=True)
class Run:
    """One kernel: an op of the dialect whose tensor arguments are Values, and where its result goes."""

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Value


@dataclass(frozen=True, slots=True)
class Enter:
    """One step of a loop: the body's function with the positions of its slices."""

    body: GraphPlan
    scalars: tuple[tuple[str, int], ...]


@dataclass(eq=False)
class Region:
    """What a loop holds besides its results: a buffer of the graph around it, and what lies in there."""

    buffer: Buffer
    #: The loop's own storages, one after the other from the region's start.
    own: list[Buffer] = field(default_factory=list)
    #: The bodies' plans, all of which start after those.
    bodies: list[GraphPlan] = field(default_factory=list)


@dataclass(eq=False)
class GraphPlan:
    """A graph as instructions over storages; ``size``: bytes of arena that it takes, loops inside it included."""

    name: str
    instructions: list[Run | Enter] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    size: int = 0
    _local: dict[Buffer, int] = field(default_factory=dict)

    def pack(self, *, seeds: int = 0) -> None:
        """Gives every buffer its place in this plan's share of the arena."""
        placed = [buffer for buffer in self.buffers if buffer.kind == "arena" and buffer.size]
        wanted = [ArenaBuffer(b.name or f"b{i}", b.size, b.first, b.last + 1) for i, b in enumerate(placed)]
        plan = plan_arena(wanted, seeds=seeds)
        self.size = plan.size
        self._local = dict(zip(placed, plan.offsets, strict=True))

    def place(self, base: int) -> None:
        """Turns places in shares into places in the arena, from the outside in."""
        for buffer in self.buffers:
            buffer.offset = base + self._local.get(buffer, 0)
        for region in self.regions:
            start = region.buffer.offset
            for buffer in region.own:
                buffer.offset = start
                start += aligned(buffer.size)
            for body in region.bodies:
                body.place(start)


def aligned(size: int) -> int:
    """Rounded up to what vector loads want."""
    return -(-size // 64) * 64


def parts(view: View, axis: ir.Axis, length: int, scalar: str, most: int) -> View:
    """``length`` elements of an inner factor of a dimension, that dimension split into its three factors."""
    stride = view.strides[axis.dim]
    shape, strides = list(view.shape), list(view.strides)
    shape[axis.dim : axis.dim + 1] = [axis.outer, length, axis.inner]
    strides[axis.dim : axis.dim + 1] = [axis.extent * axis.inner * stride, axis.inner * stride, stride]
    moves = view.moves if most == 0 else (*view.moves, Move(scalar, axis.inner * stride, most))
    return View(tuple(shape), tuple(strides), view.offset, moves)
