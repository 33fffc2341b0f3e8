"""What a device must have to run a Program: weights, activations, workspaces, fragmentation, context.

    memory = device_memory(program, load_target("a100"))
    memory.total_bytes
    print(memory.text())

* **caching** (CUDA devices): PyTorch's caching allocator is replayed on the weights and on what the torch runtime
  allocates, in order (:mod:`vgcomp.program_trace`, :mod:`vgcomp.allocator`). Short of memory it gives its cached
  segments back and goes on, so the total is the context and the least memory with which it gets through. On a device
  that has more it keeps more: ``reserved_bytes``.
* **arena** (Neural Engines): memory is planned ahead, in one arena (:mod:`vgcomp.arena`); fragmentation is what the
  plan wastes. Of a program in parts (:mod:`vgcomp.parts`), which are loaded one after the other, the largest part's.
* **live** (CPUs): what is live, the CPU ops' inner temporaries included; pages go back to the system.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vgcomp.alloc_trace import Alloc, Event, Kind, Replay
from vgcomp.allocator import LARGE_SEGMENT, ROUND_LARGE, CachingAllocator, OutOfDeviceMemory
from vgcomp.arena import arena_buffers, plan_arena
from vgcomp.cuda_temporaries import node_cuda_temporaries
from vgcomp.errors import InternalError
from vgcomp.memory import peak_activation_bytes
from vgcomp.parts import n_parts, split
from vgcomp.program_trace import graph_trace
from vgcomp.simulate import workspace_of
from vgcomp.stages import n_engines
from vgcomp.targets import Target
from vgcomp.units import format_bytes

if TYPE_CHECKING:
    from vgcomp.program import Program

#: Kinds of storage that a run makes and a plan can shrink.
ACTIVATIONS: tuple[Kind, ...] = ("input", "output", "temporary", "carry", "accumulator")


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes at the peak, by part; they add up to the total.

    ``activations``: inputs, outputs, temporaries, carries and accumulators when most is asked for (``kinds`` has each).
    ``workspaces``: what ops hold inside themselves at that moment, and the matrix library's. ``fragmentation``: what
    the allocator or the arena holds beyond all that. ``context``: the process' share before the first tensor.
    """

    weights: int
    activations: int
    workspaces: int = 0
    fragmentation: int = 0
    context: int = 0
    #: Activations by kind.
    kinds: tuple[tuple[Kind, int], ...] = ()
    #: What the process takes of a device with memory to spare; on devices without a caching allocator, the total.
    reserved_bytes: int = 0

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by name, the largest usual ones first."""
        return {
            "weights": self.weights,
            "activations": self.activations,
            "workspaces": self.workspaces,
            "fragmentation": self.fragmentation,
            "context": self.context,
        }

    @property
    def total_bytes(self) -> int:
        """What the device must have."""
        return sum(self.parts.values())

    def text(self) -> str:
        """A line for each part that is not empty, and the total."""
        lines = [f"{name:14} {format_bytes(size)}" for name, size in self.parts.items() if size]
        return "\n".join([*lines, f"{'total':14} {format_bytes(self.total_bytes)}"])


def device_memory(program: Program, target: Target, *, streamed: bool = False) -> DeviceMemory:
    """What ``target`` must have for one run of ``program``.

    ``streamed``: each weight is on the device only while the op or loop that uses it runs; CUDA devices only.
    """
    if streamed and target.hands_out != "caching":
        raise InternalError(f"weights are streamed to CUDA devices, not to {target.name}")
    if target.hands_out == "caching":
        return _cached(program, target, streamed)
    if target.hands_out == "arena":
        return _planned(program, target)
    activations = peak_activation_bytes(program, workspace=workspace_of(target))
    total = program.weight_bytes() + activations + target.context_bytes
    return DeviceMemory(program.weight_bytes(), activations, context=target.context_bytes, reserved_bytes=total)


def fixed_bytes(target: Target) -> int:
    """What the device must have whatever the program: the context, and with PyTorch the matrix library's workspace."""
    return target.context_bytes + (target.blas_workspace_bytes if target.hands_out == "caching" else 0)


def loaded_bytes(program: Program, target: Target) -> int:
    """What the device must have before the first activation, of which large activations can use nothing.

    Weights and ``fixed_bytes``; with a caching allocator also the gaps between weights.
    """
    if target.hands_out != "caching":
        return program.weight_bytes() + fixed_bytes(target)
    allocator = Replay().run(_loading(program, target)).allocator
    return target.context_bytes + allocator.reserved_bytes - allocator.free_bytes(LARGE_SEGMENT)


def _cached(program: Program, target: Target, streamed: bool) -> DeviceMemory:
    """PyTorch on a CUDA device."""
    loaded = blas_workspaces(target, n_engines(program.graph), -1) if streamed else _loading(program, target)
    events = [*loaded, *graph_trace(program.graph, node_cuda_temporaries, streamed=streamed)]
    replay = Replay().run(events)
    asked = sum(replay.at_peak.values())
    least = least_limit(events, asked, replay.allocator.reserved_peak)
    kinds = tuple((kind, replay.at_peak[kind]) for kind in ACTIVATIONS if replay.at_peak.get(kind))
    return DeviceMemory(
        weights=replay.at_peak.get("weight", 0),
        activations=sum(size for _, size in kinds),
        workspaces=replay.at_peak.get("workspace", 0),
        fragmentation=least - asked,
        context=target.context_bytes,
        kinds=kinds,
        reserved_bytes=replay.allocator.reserved_peak + target.context_bytes,
    )


def _loading(program: Program, target: Target) -> list[Event]:
    """The weights one by one, and the matrix library's workspace. Slots below 0: a trace counts its own from 0."""
    sizes = [weight.nbytes for weight in program.weights.values()]
    weights: list[Event] = [Alloc(-1 - i, size, "weight") for i, size in enumerate(sizes)]
    return [*weights, *blas_workspaces(target, n_engines(program.graph), -1 - len(sizes))]


def blas_workspaces(target: Target, n_streams: int, slot: int) -> list[Event]:
    """What PyTorch keeps for the matrix library: a workspace a stream; slots from ``slot`` downwards."""
    return [Alloc(slot - e, target.blas_workspace_bytes, "workspace", e) for e in range(n_streams)]


def least_limit(events: Sequence[Event], asked: int, reserved: int) -> int:
    """The least limit, to within a segment of 2 MiB, under which the allocator gets through the events.

    Less than ``asked``, the most bytes asked for at once, never is; ``reserved``, the peak without a limit, always is.
    """
    low, high = asked, reserved
    while high - low > ROUND_LARGE:
        middle = (low + high) // 2
        if _gets_through(events, middle):
            high = middle
        else:
            low = middle
    return high


def _gets_through(events: Sequence[Event], limit: int) -> bool:
    try:
        Replay(CachingAllocator(limit=limit)).run(events)
    except OutOfDeviceMemory:
        return False
    return True


def _planned(program: Program, target: Target) -> DeviceMemory:
    """One arena for the activations; of parts, the one that takes most."""
    if n_parts(program) > 1:
        return max((_planned(part, target) for part in split(program)), key=lambda memory: memory.total_bytes)
    plan = plan_arena(arena_buffers(program.graph))
    total = program.weight_bytes() + plan.size + target.context_bytes
    return DeviceMemory(
        weights=program.weight_bytes(),
        activations=plan.load,
        fragmentation=plan.size - plan.load,
        context=target.context_bytes,
        reserved_bytes=total,
    )
