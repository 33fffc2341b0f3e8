"""Runs a Program on paper: when each op starts, how long it takes, what bounds it, and what is live.

Ops run one after the other in the graph's order. A loop's steps that share a body take the same time, so
a loop becomes one entry for each op of each body, with the number of slices, in the order in which the
bodies first run: entries grow with the text of the program and not with its slices. What the runtime copies
besides (a slice that is no view, a result that its op cannot write in place, a carry, a merge) is timed too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from vgcomp import ir
from vgcomp.cost_models.base import Bound, Cost, CostModel, OpWork
from vgcomp.cost_models.work import work_of
from vgcomp.loops import Put, copied_operands, plan_outputs
from vgcomp.memory import Liveness, Workspace, analyse, loop_bytes, loop_profile
from vgcomp.program import Program
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

    @property
    def peak_bytes(self) -> int:
        """Peak of activations and all weights together, in bytes."""
        return self.peak_activation_bytes + self.weight_bytes

    @cached_property
    def peak_entry(self) -> Entry | None:
        """The entry with the most live bytes."""
        return max(self.entries, key=lambda entry: entry.live_bytes, default=None)


def workspace_of(target: Target) -> Workspace:
    """Whether ops' inner temporaries count on a target: only on the CPU, whose kernels are known here."""
    return "cpu" if target.kind == "cpu" else "none"


def simulate(program: Program, target: Target, cost_model: CostModel) -> Timeline:
    """The timeline of one run of the program on the target."""
    workspace = workspace_of(target)
    liveness = analyse(program.graph, workspace=workspace)
    clock, flops = 0.0, 0.0
    entries: list[Entry] = []
    for node, live in zip(program.graph.nodes, liveness.at, strict=True):
        for op in _ops(node, 1, target, cost_model, workspace):
            entries.append(_entry(node, op, clock, live))
            clock += op.seconds
            flops += op.flops
    return Timeline(
        entries=tuple(entries),
        peak_activation_bytes=liveness.peak,
        weight_bytes=program.weight_bytes(),
        latency_s=clock,
        flops=flops,
        peak_node=liveness.peak_node,
        liveness=liveness,
    )


def node_seconds(node: fx.Node, target: Target, cost_model: CostModel, workspace: Workspace) -> float:
    """Seconds of one node, a loop with all its steps."""
    return sum(op.seconds for op in _ops(node, 1, target, cost_model, workspace))


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


@dataclass(frozen=True, slots=True)
class _Op:
    """An op with its time for all slices; ``below``: bytes less than at its top-level node's peak."""

    name: str
    op: str
    seconds: float
    bound: Bound
    flops: float
    slices: int
    below: int


def _entry(node: fx.Node, op: _Op, clock: float, live: int) -> Entry:
    loop = node.name if ir.is_loop(node) else None
    return Entry(node, op.name, op.op, clock, op.seconds, op.bound, op.flops, max(live - op.below, 0), loop, op.slices)


def _ops(
    node: fx.Node, times: int, target: Target, cost_model: CostModel, workspace: Workspace, below: int = 0
) -> Iterator[_Op]:
    """The ops that a node comes to: itself, or those of its bodies."""
    if node.op != "call_function" or ir.is_getitem(node):
        return
    if ir.is_loop(node):
        yield from _loop_ops(node, times, target, cost_model, workspace, below)
        return
    args, kwargs = fx.map_arg((node.args, node.kwargs), ir.val)  # type: ignore[misc]
    work = work_of(node.target, args, kwargs, ir.val(node))  # type: ignore[arg-type]
    yield _timed(node.name, str(node.target), work, cost_model.op_seconds(work, target), times, below)


def _timed(name: str, op: str, work: OpWork, cost: Cost, times: int, below: int) -> _Op:
    return _Op(name, op, cost.seconds * times, cost.bound, work.flops * times, times, below)


def _loop_ops(
    node: fx.Node, times: int, target: Target, cost_model: CostModel, workspace: Workspace, below: int
) -> Iterator[_Op]:
    loop = ir.loop_of(node)
    profiles = loop_profile(node, workspace=workspace)
    most = loop_bytes(node, workspace=workspace)
    puts = plan_outputs(node)
    for index in dict.fromkeys(step.body for step in loop.steps):
        steps = [step for step in loop.steps if step.body == index]
        at = profiles[index].at
        for name, value in _slice_copies(node, loop.bodies[index], steps[0]):
            yield _copy(name, value, times * len(steps), target, cost_model, below + most - max(at))
        extra = _moves(puts[index], first=steps[0] is loop.steps[0])
        for inner, live in zip(loop.bodies[index].graph.nodes, at, strict=True):
            under = below + most - live
            yield from _ops(inner, times * len(steps), target, cost_model, workspace, under)
            for put in extra.get(inner, ()):
                yield _put(put, times * len(steps), target, cost_model, under)


def _slice_copies(node: fx.Node, body: ir.Body, step: ir.Step) -> Iterator[tuple[str, Tensor]]:
    """The operands' slices that are copied, with the names of their placeholders."""
    copied = copied_operands(node, body, step)
    for i, placeholder in enumerate(body.graph.nodes):
        if i in copied and placeholder.users:
            yield placeholder.name, ir.val(placeholder)


def _moves(puts: tuple[Put, ...], *, first: bool) -> dict[fx.Node, list[Put]]:
    """The outputs of a body that cost time to put out. A loop's first value needs no merge."""
    moves: dict[fx.Node, list[Put]] = {}
    for put in puts:
        if put.how in ("direct", "keep") or (put.how == "merge" and first and put.owned):
            continue
        moves.setdefault(put.node, []).append(put)
    return moves


def _put(put: Put, times: int, target: Target, cost_model: CostModel, below: int) -> _Op:
    value = ir.val(put.node)
    if put.how != "merge":
        return _copy(put.node.name, value, times, target, cost_model, below)
    work = work_of(put.merge, (value, value), {}, value)
    return _timed(put.node.name, str(put.merge), work, cost_model.op_seconds(work, target), times, below)


def _copy(name: str, value: Tensor, times: int, target: Target, cost_model: CostModel, below: int) -> _Op:
    work: OpWork = work_of(_CLONE, (value,), _CONTIGUOUS, value)
    return _timed(name, "copy", work, cost_model.op_seconds(work, target), times, below)


_CONTIGUOUS: dict[str, Any] = {"memory_format": torch.contiguous_format}
