"""Static arenas: an offset for every buffer of a graph, for targets that plan memory ahead (phones, TVM).

    plan = plan_arena(arena_buffers(program.graph))
    plan.size, plan.load           # what one block of memory has to have; the most that is live, which none goes below

The packing is omnimalloc's: its portfolio of greedy orders, and, where that misses the load and the caller asks for
it, simulated annealing from a few seeds. Neither looks at the clock: the same buffers always get the same plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from vgcomp import ir
from vgcomp.memory import Workspace, analyse, loop_bytes

#: Offsets are multiples of this.
ALIGNMENT = 64
#: Steps of one annealing, fewer where there are many buffers: a step packs them all.
ANNEALING_STEPS, ANNEALED_BUFFERS = 3000, 2_000_000


@dataclass(frozen=True, slots=True)
class ArenaBuffer:
    """``size`` bytes from time ``start`` up to, and without, ``end``."""

    name: str
    size: int
    start: int
    end: int


@dataclass(frozen=True)
class ArenaPlan:
    """``offsets``: by buffer, in their order. ``size``: of the arena. ``load``: the most bytes live at one time."""

    offsets: tuple[int, ...]
    size: int
    load: int


def arena_buffers(graph: fx.Graph, *, workspace: Workspace = "none") -> list[ArenaBuffer]:
    """Inputs, outputs and temporaries of a graph over its nodes' indices; what a loop holds inside is one buffer."""
    liveness = analyse(graph, workspace=workspace)
    buffers = [
        ArenaBuffer(buffer.nodes[0].name if buffer.nodes else f"buffer_{i}", buffer.size, buffer.first, buffer.last + 1)
        for i, buffer in enumerate(liveness.buffers)
        if buffer.size
    ]
    for i, node in enumerate(graph.nodes):
        inside = loop_bytes(node, workspace=workspace) if ir.is_loop(node) else 0
        if inside:
            buffers.append(ArenaBuffer(f"{node.name}.inside", inside, i, i + 1))
    return buffers


def load_bound(buffers: Sequence[ArenaBuffer], alignment: int = ALIGNMENT) -> int:
    """The most bytes live at one time, sizes aligned: no arena is smaller."""
    changes: dict[int, int] = {}
    for buffer in buffers:
        size = _aligned(buffer.size, alignment)
        changes[buffer.start] = changes.get(buffer.start, 0) + size
        changes[buffer.end] = changes.get(buffer.end, 0) - size
    live = most = 0
    for time in sorted(changes):
        live += changes[time]
        most = max(most, live)
    return most


def plan_arena(buffers: Sequence[ArenaBuffer], *, alignment: int = ALIGNMENT, seeds: int = 0) -> ArenaPlan:
    """Offsets so that no two buffers that live at one time overlap.

    ``seeds``: of annealing, each tried where the plans before it are above the load.
    """
    load = load_bound(buffers, alignment)
    if not buffers:
        return ArenaPlan((), 0, 0)
    from omnimalloc.allocators import OmniAllocator, SimulatedAnnealingAllocator

    best = _packed(buffers, alignment, OmniAllocator())
    steps = min(ANNEALING_STEPS, ANNEALED_BUFFERS // len(buffers))
    for seed in range(seeds):
        if best.size == load:
            break
        annealing = SimulatedAnnealingAllocator(seed=seed, max_iterations=steps, timeout=None)
        best = min(best, _packed(buffers, alignment, annealing), key=lambda plan: plan.size)
    return best


def _packed(buffers: Sequence[ArenaBuffer], alignment: int, packer: Any) -> ArenaPlan:
    import omnimalloc

    wanted = tuple(
        omnimalloc.Allocation(id=i, size=_aligned(buffer.size, alignment), start=buffer.start, end=buffer.end)
        for i, buffer in enumerate(buffers)
    )
    placed = {allocation.id: allocation for allocation in omnimalloc.allocate(wanted, packer, validate=True)}
    offsets = tuple(int(placed[i].offset or 0) for i in range(len(buffers)))
    size = max(offset + _aligned(buffer.size, alignment) for offset, buffer in zip(offsets, buffers, strict=True))
    return ArenaPlan(offsets, size, load_bound(buffers, alignment))


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
