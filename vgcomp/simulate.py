"""Runs a Program on paper: when each op starts, how long it takes, what bounds it, and what is live.

Ops run one after the other in the graph's order. A loop's steps that share a body take the same time, so
a loop becomes one entry for each op of each body, with the number of slices, in the order in which the
bodies first run: entries grow with the text of the program and not with its slices. What the runtime copies
besides (a slice that is no view, a result that its op cannot write in place, a carry, a merge) is timed too. In a
pipelined loop (:mod:`vgcomp.stages`) an op's duration is its share of what the rounds take (:mod:`vgcomp.overlap`).

On a GPU the host runs ahead of the device (:mod:`vgcomp.execution`); beside a Neural Engine the CPU takes what that
refuses (:mod:`vgcomp.cost_models.neural_engine`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from vgcomp import ir
from vgcomp.cost_models.base import Bound, CostModel, OpWork, Overhead, Phase, overhead_of
from vgcomp.cost_models.fusion import fuse
from vgcomp.cost_models.neural_engine import fallback_s, placed_seconds, refuses
from vgcomp.cost_models.work import work_of
from vgcomp.execution import Clock, Issue, Mode, issue
from vgcomp.loops import Put, copied_operands, plan_outputs
from vgcomp.memory import Liveness, Workspace, analyse, loop_bytes, loop_profile
from vgcomp.overlap import pipelined_s
from vgcomp.program import Program
from vgcomp.stages import BodyStages, loop_stages
from vgcomp.targets import Target

_CLONE = torch.ops.aten.clone.default


@dataclass(frozen=True, slots=True)
class Entry:
    """One op of the timeline, or one op of a loop's body for all the slices that run it. Seconds, bytes, FLOPs."""

    node: fx.Node
    name: str
    #: The overload's name, as ``aten.convolution.default``; ``copy`` for what only the loop's plan moves.
    op: str
    start_s: float
    #: Of all ``slices`` together.
    duration_s: float
    bound: Bound
    flops: float
    #: Activations alive while it runs (the most over the slices).
    live_bytes: int
    #: Name of the outermost loop node that it is in.
    in_loop: str | None = None
    slices: int = 1
    #: ``engine`` or ``cpu`` on a device with both.
    place: str = ""
    #: Which model said so: ``measured:cpu``.
    source: str = ""


@dataclass(frozen=True)
class Timeline:
    """A simulated run: seconds on one target under one cost model, bytes of its allocations, FLOPs.

    ``peak_activation_bytes``: inputs, outputs and temporaries alive at once, weights excluded.
    """

    entries: tuple[Entry, ...]
    peak_activation_bytes: int
    weight_bytes: int
    latency_s: float
    flops: float
    #: The top-level node at the peak.
    peak_node: fx.Node | None
    liveness: Liveness
    #: Seconds of looking up inputs and weights, before the first op.
    startup_s: float = 0.0

    @property
    def sources(self) -> dict[str, float]:
        """Seconds by where they come from: ``measured``, ``interpolated``, ``analytic``, ``overhead``."""
        found: dict[str, float] = {"overhead": self.startup_s} if self.startup_s else {}
        for entry in self.entries:
            kind = entry.source.partition(":")[0]
            found[kind] = found.get(kind, 0.0) + entry.duration_s
        return found

    @property
    def peak_bytes(self) -> int:
        """Peak of activations and all weights together, in bytes."""
        return self.peak_activation_bytes + self.weight_bytes

    @cached_property
    def peak_entry(self) -> Entry | None:
        """The entry with the most live bytes."""
        return max(self.entries, key=lambda entry: entry.live_bytes, default=None)


def workspace_of(target: Target) -> Workspace:
    """Which of the ops' inner temporaries count on a target: the CPU's, or those of PyTorch on CUDA devices."""
    if target.kind == "cpu":
        return "cpu"
    return "cuda" if target.hands_out == "caching" else "none"


def simulate(program: Program, target: Target, cost_model: CostModel, *, mode: Mode = "eager") -> Timeline:
    """The timeline of one run of the program on the target."""
    setup = Setup(target, cost_model, mode)
    liveness = analyse(program.graph, workspace=setup.workspace)
    nodes = list(program.graph.nodes)
    works = setup.works(program.graph)
    ops = [list(_ops(node, 1, setup, works)) for node in nodes]
    clock, flops = Clock(), 0.0
    startup_s = setup.overhead.run_s + setup.overhead.weight_s * sum(node.op == "get_attr" for node in nodes)
    clock.now = startup_s
    entries: list[Entry] = []
    if target.fallback is not None:
        ops = _placed(ops, target)
    for node, live, group in zip(nodes, liveness.at, ops, strict=True):
        if not group:
            continue
        start = clock.now
        seconds = clock.run([op.device_s for op in group], sum(op.host_s for op in group))
        for op, duration in zip(group, seconds, strict=True):
            entries.append(_entry(node, op, start, duration, live))
            start += duration
            flops += op.flops
    return Timeline(
        entries=tuple(entries),
        peak_activation_bytes=liveness.peak,
        weight_bytes=program.weight_bytes(),
        latency_s=clock.now,
        flops=flops,
        peak_node=liveness.peak_node,
        liveness=liveness,
        startup_s=startup_s,
    )


def node_seconds(node: fx.Node, target: Target, cost_model: CostModel, workspace: Workspace) -> float:
    """Seconds of one node by itself, a loop with all its steps; the host has no lead then."""
    assert workspace == workspace_of(target)
    setup = Setup(target, cost_model)
    return sum(op.alone_s for op in _ops(node, 1, setup, {}))


def op_works(program: Program) -> Iterator[OpWork]:
    """The work of each op of an eager run of a program without loops."""
    for node in program.graph.nodes:
        if (work := node_work(node)) is not None:
            yield work


def operation_flops(program: Program) -> float:
    """Floating-point operations of one run; a loop counts what it recomputes."""
    return sum(_graph_flops(node) for node in program.graph.nodes)


def _graph_flops(node: fx.Node) -> float:
    if node.op != "call_function" or ir.is_getitem(node):
        return 0.0
    if ir.is_loop(node):
        loop = ir.loop_of(node)
        each = [sum(_graph_flops(inner) for inner in body.graph.nodes) for body in loop.bodies]
        return sum(each[step.body] for step in loop.steps)
    args, kwargs = fx.map_arg((node.args, node.kwargs), ir.val)  # type: ignore[misc]
    return work_of(node.target, args, kwargs, ir.val(node)).flops  # type: ignore[arg-type]


@dataclass(frozen=True)
class Setup:
    """What a simulation is of: a device, a model of its costs, how the graph is run."""

    target: Target
    cost_model: CostModel
    mode: Mode = "eager"

    @property
    def workspace(self) -> Workspace:
        """Whether ops' inner temporaries count."""
        return workspace_of(self.target)

    @cached_property
    def issue(self) -> Issue:
        """The host's seconds for an op."""
        return issue(self.target, self.mode)

    @cached_property
    def overhead(self) -> Overhead:
        """What the runtime adds to the ops."""
        return overhead_of(self.cost_model)

    def works(self, graph: fx.Graph) -> dict[fx.Node, OpWork | None]:
        """The work of the nodes whose kernels are not the eager ones."""
        if self.mode != "compiled":
            return {}
        eager = {node: work for node in graph.nodes if (work := node_work(node)) is not None}
        return fuse(graph, eager)


@dataclass(frozen=True, slots=True)
class _Op:
    """An op with its time for all slices; ``below``: bytes less than at its top-level node's peak."""

    name: str
    op: str
    work: OpWork
    #: Of the device, of the host, and of both when nothing runs ahead.
    device_s: float
    host_s: float
    alone_s: float
    bound: Bound
    flops: float
    slices: int
    below: int
    source: str
    place: str = ""
    #: Of one run: the device's seconds, and what they leave to other ops.
    phases: tuple[Phase, ...] = ()


def _entry(node: fx.Node, op: _Op, start: float, duration: float, live: int) -> Entry:
    loop = node.name if ir.is_loop(node) else None
    # What it waits for the host is the larger part.
    bound: Bound = "launch" if duration > 2.0 * op.device_s and duration > 0.0 else op.bound
    below = max(live - op.below, 0)
    return Entry(node, op.name, op.op, start, duration, bound, op.flops, below, loop, op.slices, op.place, op.source)


def node_work(node: fx.Node) -> OpWork | None:
    """The work of an op; None for what runs nothing, and for a loop."""
    if node.op != "call_function" or ir.is_getitem(node) or ir.is_loop(node):
        return None
    args, kwargs = fx.map_arg((node.args, node.kwargs), ir.val)  # type: ignore[misc]
    return work_of(node.target, args, kwargs, ir.val(node))  # type: ignore[arg-type]


def _ops(
    node: fx.Node, times: int, setup: Setup, works: Mapping[fx.Node, OpWork | None], below: int = 0
) -> Iterator[_Op]:
    """The ops that a node comes to: itself, or those of its bodies."""
    if ir.is_loop(node):
        yield from _loop_ops(node, times, setup, below)
        return
    work = works[node] if node in works else node_work(node)
    if work is not None:
        yield _timed(node.name, str(node.target), work, setup, times, below)


def _timed(name: str, op: str, work: OpWork, setup: Setup, times: int, below: int) -> _Op:
    cost = setup.cost_model.op_seconds(work, setup.target)
    host_s = setup.issue.view_s if work.is_free else setup.issue.op_s
    if cost.device_s is None:
        device_s, host_s = cost.seconds, 0.0
    else:
        device_s = cost.device_s
    alone = cost.seconds * times
    flops = work.flops * times
    phases = cost.phases or (Phase(device_s),)
    return _Op(
        name,
        op,
        work,
        device_s * times,
        host_s * times,
        alone,
        cost.bound,
        flops,
        times,
        below,
        cost.source,
        "",
        phases,
    )


def _placed(ops: list[list[_Op]], target: Target) -> list[list[_Op]]:
    """The ops on the engine or on the CPU beside it, whichever way is the fastest in all; changes take their time."""
    fallback = target.fallback
    assert fallback is not None
    flat = [op for group in ops for op in group]
    on_cpu = [fallback_s(op.work, fallback) * op.slices for op in flat]
    costs = [
        (math.inf if refuses(op.work, target) else op.device_s, seconds)
        for op, seconds in zip(flat, on_cpu, strict=True)
    ]
    placed, seconds = placed_seconds(costs, fallback)
    done = iter(replace(op, device_s=s, place=where) for op, s, where in zip(flat, seconds, placed, strict=True))
    return [[next(done) for _ in group] for group in ops]


def _loop_ops(node: fx.Node, times: int, setup: Setup, below: int) -> Iterator[_Op]:
    loop = ir.loop_of(node)
    ops = [op for index in _bodies_run(loop) for _, op in body_ops(node, index, times, setup, below)]
    if loop.pipeline is not None and setup.target.kind == "cuda":
        ops = _overlapped(node, ops, setup)
        yield _joins(node, times, setup)
    yield from ops
    yield from _turns(node, times, setup, below)


def _bodies_run(loop: ir.Loop) -> list[int]:
    """The bodies in the order in which they first run."""
    return list(dict.fromkeys(step.body for step in loop.steps))


def body_ops(node: fx.Node, index: int, times: int, setup: Setup, below: int = 0) -> Iterator[tuple[int, _Op]]:
    """What one body of a loop comes to in all its steps, each op with the position in the body that it stands at."""
    loop = ir.loop_of(node)
    body, puts = loop.bodies[index], plan_outputs(node)[index]
    at = loop_profile(node, workspace=setup.workspace)[index].at
    most = loop_bytes(node, workspace=setup.workspace)
    steps = [step for step in loop.steps if step.body == index]
    runs = times * len(steps)
    order = {inner: i for i, inner in enumerate(body.graph.nodes)}
    for placeholder in _slice_copies(node, body, steps[0]):
        first = min(order[user] for user in placeholder.users)
        yield first, _copy(placeholder.name, ir.val(placeholder), runs, setup, below + most - max(at))
    extra = _moves(puts, first=steps[0] is loop.steps[0])
    works = setup.works(body.graph)
    for i, (inner, live) in enumerate(zip(body.graph.nodes, at, strict=True)):
        under = below + most - live
        for op in _ops(inner, runs, setup, works, under):
            yield i, op
        for put in extra.get(inner, ()):
            # What is put out at the end is.
            yield len(at) - 1 if put.how == "late" or inner.op == "placeholder" else i, _put(put, runs, setup, under)


def _overlapped(node: fx.Node, ops: Sequence[_Op], setup: Setup) -> list[_Op]:
    """The ops with their shares of what all rounds take together."""
    loop = ir.loop_of(node)
    assert loop.pipeline is not None
    phases = [body_phases(node, index, setup) for index in range(len(loop.bodies))]
    alone = sum(step_s(phases[step.body]) for step in loop.steps)
    work = staged(loop_stages(node), phases)
    share = pipelined_s(work, loop.steps, loop.pipeline.engines) / alone if alone else 1.0
    return [replace(op, device_s=op.device_s * share, alone_s=op.alone_s * share) for op in ops]


#: The phases of a body's ops for one step, by the ops' positions.
BodyPhases = Mapping[int, Sequence[Phase]]


def body_phases(node: fx.Node, index: int, setup: Setup) -> BodyPhases:
    """What one step of a body takes of the device, op by op."""
    steps = sum(step.body == index for step in ir.loop_of(node).steps)
    found: dict[int, list[Phase]] = {}
    for i, op in body_ops(node, index, 1, setup) if steps else ():
        runs = op.slices / steps
        phases = op.phases if op.device_s else ()
        found.setdefault(i, []).extend(replace(phase, seconds=phase.seconds * runs) for phase in phases)
    return found


def step_s(phases: BodyPhases) -> float:
    """Seconds of one step by itself."""
    return sum(phase.seconds for chain in phases.values() for phase in chain)


def staged(stages: Sequence[BodyStages], phases: Sequence[BodyPhases]) -> list[list[list[Phase]]]:
    """For each body and stage what it runs, in order."""
    return [
        [[phase for i in body.span(s) for phase in found.get(i, ())] for s in range(body.last + 1)]
        for body, found in zip(stages, phases, strict=True)
    ]


def join_s(target: Target) -> float:
    """The device's seconds in which engines wait for each other once: as from one kernel to the next."""
    return target.launch_s


def joins_host_s(pipeline: ir.Pipeline, setup: Setup) -> float:
    """The host's seconds for the same: for each engine but one two events, recorded and waited for, as a view each."""
    return 4 * max(pipeline.engines) * setup.issue.view_s


def _joins(node: fx.Node, times: int, setup: Setup) -> _Op:
    """Engines wait for each other after every round."""
    loop = ir.loop_of(node)
    assert loop.pipeline is not None
    turns = times * (loop.n_slices + loop.pipeline.in_flight - 1)
    device_s, host_s = turns * join_s(setup.target), turns * joins_host_s(loop.pipeline, setup)
    return _Op(node.name, "join", _NO_WORK, device_s, host_s, device_s, "launch", 0.0, turns, 0, "overhead")


def _turns(node: fx.Node, times: int, setup: Setup, below: int) -> Iterator[_Op]:
    """The runtime's own seconds in a loop: its steps, and the slices that they read and write."""
    overhead, loop = setup.overhead, ir.loop_of(node)
    slices = sum(span is not None for step in loop.steps for span in (*step.reads, *step.writes))
    seconds = times * (overhead.step_s * loop.n_slices + overhead.slice_s * slices)
    if seconds:
        turns = times * loop.n_slices
        yield _Op(node.name, "slicing", _NO_WORK, seconds, 0.0, seconds, "launch", 0.0, turns, below, "overhead")


def _slice_copies(node: fx.Node, body: ir.Body, step: ir.Step) -> Iterator[fx.Node]:
    """The placeholders of the operands' slices that are copied."""
    copied = copied_operands(node, body, step)
    return (inner for i, inner in enumerate(body.graph.nodes) if i in copied and inner.users)


def _moves(puts: tuple[Put, ...], *, first: bool) -> dict[fx.Node, list[Put]]:
    """The outputs of a body that cost time to put out. A loop's first value needs no merge."""
    moves: dict[fx.Node, list[Put]] = {}
    for put in puts:
        if put.how in ("direct", "keep") or (put.how == "merge" and first and put.owned):
            continue
        moves.setdefault(put.node, []).append(put)
    return moves


def _put(put: Put, times: int, setup: Setup, below: int) -> _Op:
    value = ir.val(put.node)
    if put.how != "merge":
        return _copy(put.node.name, value, times, setup, below)
    work = work_of(put.merge, (value, value), {}, value)
    return _timed(put.node.name, str(put.merge), work, setup, times, below)


def _copy(name: str, value: Tensor, times: int, setup: Setup, below: int) -> _Op:
    work: OpWork = work_of(_CLONE, (value,), _CONTIGUOUS, value)
    return _timed(name, "copy", work, setup, times, below)


_NO_WORK = OpWork("view", ir.sliced, torch.float32)
_CONTIGUOUS: dict[str, Any] = {"memory_format": torch.contiguous_format}
