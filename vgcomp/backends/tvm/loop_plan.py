"""Plans a loop: its results and carries, and each of its bodies once for each way that it is entered."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import fx

from vgcomp import ir
from vgcomp.backends.tvm.body_plan import BodyScope, Entry, LoopState
from vgcomp.backends.tvm.layout import View, row_major
from vgcomp.backends.tvm.scope import Scope
from vgcomp.backends.tvm.storage import Buffer, Enter, GraphPlan, Region, Value, aligned
from vgcomp.errors import InternalError
from vgcomp.loops import operands_of


def plan_loop(scope: Scope, i: int, node: fx.Node) -> None:
    """Plans loop ``node``, the i-th of its graph."""
    loop = ir.loop_of(node)
    scope.now = 2 * i
    operands = [scope.values[operand] for operand in operands_of(node)]
    for value in operands:
        scope.touch(value)
    results = [_result(scope, node, k, operands) for k in range(len(loop.results))]
    for value in results:
        scope.touch(value, write=True)
    scope.results[node] = results
    _Steps(scope, node, LoopState(node, scope.names.fresh(loop.name), operands, results)).plan()


def _result(scope: Scope, node: fx.Node, k: int, operands: list[Value]) -> Value:
    spec = ir.loop_of(node).results[k]
    view = row_major(spec.shape) if spec.stride is None else View(spec.shape, spec.stride)
    size = torch.Size(spec.shape).numel() * spec.dtype.itemsize
    if spec.into is None:
        buffer = scope.given.get((node, k)) or scope.buffer(max(size, spec.capacity), f"{node.name}_{k}")
        return Value(buffer, view, spec.dtype)
    buffer = operands[spec.into].buffer
    if buffer.kind == "param" or buffer.size < size:
        raise InternalError(f"{node.name}: result {k} does not fit into operand {spec.into}'s storage")
    return Value(buffer, view, spec.dtype)


@dataclass
class _Carry:
    """The storages of a carry: one, or two that take turns where a body reads the old after it has put out the new."""

    slots: list[Buffer] = field(default_factory=list)
    current: int | None = None


class _Steps:
    """Walks a loop's steps."""

    def __init__(self, scope: Scope, node: fx.Node, state: LoopState) -> None:
        self.scope, self.node, self.state = scope, node, state
        self.loop = ir.loop_of(node)
        self.carries = {c: _Carry([Buffer(size, 0, 0), Buffer(size, 0, 0)]) for c, size in self._carry_sizes().items()}
        self.known: dict[Entry, BodyScope] = {}

    def plan(self) -> None:
        if self.carries:
            self._walk(emit=False)
            self._share_slots()
            self.known.clear()
        bodies = self._walk(emit=True)
        region = Region(self.scope.buffer(0, f"{self.node.name}_inside"), self._slots(), bodies)
        region.buffer.size = sum(aligned(b.size) for b in region.own) + max((b.size for b in bodies), default=0)
        self.scope.plan.regions.append(region)

    def _carry_sizes(self) -> dict[int, int]:
        sizes: dict[int, int] = {}
        for body in self.loop.bodies:
            outputs: tuple[fx.Node, ...] = body.graph.output_node().args[0]  # type: ignore[assignment]
            for carry, out in zip(body.carries_out, outputs[len(body.results) :], strict=True):
                sizes[carry] = max(sizes.get(carry, 0), ir.nbytes(ir.val(out)))
        return sizes

    def _slots(self) -> list[Buffer]:
        return list(dict.fromkeys(slot for carry in self.carries.values() for slot in carry.slots))

    def _share_slots(self) -> None:
        """One storage for a carry whose new value is stored only after the old one has been read."""
        for carry in self.carries.values():
            if all(self._in_turn(scope, carry) for scope in self.known.values()):
                carry.slots[1] = carry.slots[0]

    def _in_turn(self, scope: BodyScope, carry: _Carry) -> bool:
        new = [slot for slot in carry.slots if slot in scope.entry.carries_out]
        old = [slot for slot in carry.slots if slot in scope.entry.carries_in]
        written = min((scope.written[slot] for slot in new if slot in scope.written), default=None)
        read = max((scope.read[slot] for slot in old if slot in scope.read), default=-1)
        return written is None or read < written

    def _walk(self, *, emit: bool) -> list[GraphPlan]:
        """Plans the body of each step, unless it was entered so before; with ``emit``, adds the steps' calls."""
        merged: set[int] = set()
        for carry in self.carries.values():
            carry.current = None
        for step in self.loop.steps:
            body = self.loop.bodies[step.body]
            entry = self._entry(step, frozenset(merged))
            if entry not in self.known:
                self.known[entry] = BodyScope(self.scope.names, self.state, entry, step)
                self.known[entry].walk()
            if emit:
                scalars = tuple(self.state.scalars(step))
                self.scope.plan.instructions.append(Enter(self.known[entry].plan, scalars))
            merged.update(k for k in body.results if self.loop.results[k].combine is not None)
        return [scope.plan for scope in self.known.values()]

    def _entry(self, step: ir.Step, merged: frozenset[int]) -> Entry:
        body = self.loop.bodies[step.body]
        inputs, outputs = [], []
        for c in body.carries_in:
            current = self.carries[c].current
            if current is None:
                raise InternalError(f"{self.node.name}: carry {c} is read before it is put out")
            inputs.append(self.carries[c].slots[current])
        for c in body.carries_out:
            carry = self.carries[c]
            carry.current = 0 if carry.current is None else 1 - carry.current
            if carry.slots[0] is carry.slots[1]:
                carry.current = 0
            outputs.append(carry.slots[carry.current])
        return Entry(
            step.body,
            merged & frozenset(body.results),
            tuple(span is None for span in step.reads),
            tuple(span is None for span in step.writes),
            tuple(inputs),
            tuple(outputs),
        )
