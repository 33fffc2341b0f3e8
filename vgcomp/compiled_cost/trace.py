"""A program as a search needs it: ops with their times, buffers with their lives, weights; no graph.

``latency_s`` says what :func:`vgcomp.simulate.simulate` says, ``arena_bytes`` what ``device_memory`` says of a planned
arena, ``live_bytes`` what it says of a CPU.

Times are positions in the calls' order. Devices that plan memory ahead or count what is live are meant: a caching
allocator replays the calls in full and has no use for pieces.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import fx

from vgcomp import ir
from vgcomp.arena import ArenaBuffer, plan_arena
from vgcomp.cost_models.base import OpWork
from vgcomp.cost_models.neural_engine import fallback_s, placed_seconds, refuses
from vgcomp.errors import InternalError
from vgcomp.loops import alias_base
from vgcomp.memory import Buffer, analyse
from vgcomp.parts import constants
from vgcomp.program import Program
from vgcomp.simulate import Setup, node_work

#: Seconds of one op on the device and on the processor beside it.
Seconds = tuple[float, float]
#: The last use of what the caller gets.
END = 1 << 40


@dataclass(frozen=True, slots=True)
class Call:
    """One call. ``seconds``: of its op. ``scores``: bytes of an attention's scores, which only a runtime without fused
    attention holds. ``extra``: bytes live while it runs that are no buffer's."""

    node: fx.Node
    seconds: tuple[Seconds, ...]
    flops: float
    scores: int
    extra: int


@dataclass(frozen=True, slots=True)
class Storage:
    """``size`` bytes from call ``first`` through call ``last``; END: to the end."""

    size: int
    first: int
    last: int
    nodes: tuple[fx.Node, ...]


@dataclass(frozen=True)
class Trace:
    """``calls`` in order; ``storages`` of values, inputs left out; bytes of inputs and of weights by name."""

    calls: tuple[Call, ...]
    storages: tuple[Storage, ...]
    inputs: dict[str, int]
    weights: dict[str, int]


def trace_of(program: Program, setup: Setup) -> Trace:
    """The trace of a program without loops. Raises InternalError for one with."""
    liveness = analyse(program.graph, workspace=setup.workspace)
    nodes = list(program.graph.nodes)
    calls = _calls(program.graph, setup)
    position = {node: i for i, node in enumerate(calls)}
    at = dict(zip(nodes, liveness.at, strict=True))
    storages = tuple(_storages(liveness.buffers, nodes, position))
    inputs = {node.name: ir.nbytes(ir.val(node)) for node in program.inputs}
    live = live_bytes([(s.size, s.first, s.last) for s in storages], len(calls), sum(inputs.values()))
    return Trace(
        calls=tuple(_call(node, at[node] - live[i], setup) for i, node in enumerate(calls)),
        storages=storages,
        inputs=inputs,
        weights={name: weight.nbytes for name, weight in program.weights.items()},
    )


def live_bytes(storages: Iterable[tuple[int, int, int]], n: int, always: int) -> list[int]:
    """Bytes of storages (size, first, last) alive at each of ``n`` calls, on top of ``always``."""
    change = [0] * (n + 1)
    for size, first, last in storages:
        change[first] += size
        change[min(last, n - 1) + 1] -= size
    return list(accumulate(change[:-1], initial=always))[1:]


def latency_s(seconds: Sequence[Seconds], setup: Setup, weights: int) -> float:
    """Seconds of these ops in a row with ``weights`` weights, as :func:`vgcomp.simulate.simulate` counts them."""
    startup = setup.overhead.run_s + setup.overhead.weight_s * weights
    if setup.target.fallback is None:
        return startup + sum(device for device, _ in seconds)
    _, placed = placed_seconds(seconds, setup.target.fallback)
    return startup + sum(placed)


def arena_bytes(storages: Sequence[tuple[int, int, int]], inputs: Iterable[int], n: int) -> int:
    """The arena of these storages (size, first, last) over ``n`` calls, inputs alive throughout."""
    buffers = [ArenaBuffer(f"input_{i}", size, 0, n + 2) for i, size in enumerate(inputs)]
    buffers += [
        ArenaBuffer(f"buffer_{i}", size, first + 1, min(last, n) + 2)
        for i, (size, first, last) in enumerate(storages)
        if size
    ]
    return plan_arena(buffers).size


def _calls(graph: fx.Graph, setup: Setup) -> list[fx.Node]:
    """The calls in order, without views of weights: they hold nothing, stand anywhere, and whoever merges equal ones
    leaves them to the first reader alone. Those that cost time stay."""
    fixed = constants(graph)
    calls = [node for node in graph.nodes if node.op == "call_function"]
    return [node for node in calls if not (node in fixed and alias_base(node) is not None and _is_free(node, setup))]


def _is_free(node: fx.Node, setup: Setup) -> bool:
    return not any(device_s or beside_s for device_s, beside_s in _call(node, 0, setup).seconds)


def _storages(buffers: Iterable[Buffer], nodes: Sequence[fx.Node], position: dict[fx.Node, int]) -> Iterable[Storage]:
    for buffer in buffers:
        if buffer.kind in ("input", "weight") or not buffer.size:
            continue
        first, ends = nodes[buffer.first], position.get(nodes[buffer.last], END)
        yield Storage(buffer.size, position[first], END if buffer.kind == "output" else ends, tuple(buffer.nodes))


def _call(node: fx.Node, extra: int, setup: Setup) -> Call:
    if ir.is_loop(node):
        raise InternalError(f"{node.name} is a loop: sliced programs are simulated whole")
    work = node_work(node)
    if work is None:
        return Call(node, (), 0.0, 0, extra)
    cost = setup.cost_model.op_seconds(work, setup.target)
    device_s = cost.seconds if cost.device_s is None else cost.device_s
    scores = _scores_bytes(node) if node.target is ir.aten.scaled_dot_product_attention.default else 0
    return Call(node, (_seconds(work, device_s, setup),), work.flops, scores, extra)


def _scores_bytes(node: fx.Node) -> int:
    """Bytes of an attention's scores, were they held whole: queries times keys."""
    query, key = (ir.val(x) for x in node.all_input_nodes[:2])
    return int(query[..., 0].numel() * key.shape[-2] * query.element_size())


def _seconds(work: OpWork, device_s: float, setup: Setup) -> Seconds:
    fallback = setup.target.fallback
    if fallback is None:
        return device_s, 0.0
    return math.inf if refuses(work, setup.target) else device_s, fallback_s(work, fallback)
