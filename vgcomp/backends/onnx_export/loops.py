"""Sliced loops as ONNX: model-local functions for the bodies, ``Scan`` for runs of steps.

Each distinct body becomes one function. Steps whose results lie side by side, in either direction, form
a *run*, and a run becomes one ``Scan`` over the steps' start positions: its body slices the
operands, which it sees as outer values, and calls the function (through ``If`` where first, middle
and last steps differ). Carries and running statistics are the Scan's state. What is left, such as a
shorter last step, is called directly; a final ``Concat`` joins the pieces if there is more than one.

Scan and not Loop: ONNX Runtime allocates a Scan's stacked output once and lets every iteration
write its slice there, while it keeps a Loop's pieces and concatenates them. So a result whose axis leads
(nothing but dimensions of 1 before it) exists once; otherwise it exists twice for as long as the
transposition that moves the axis into place takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx

from vgcomp import ir
from vgcomp.backends.onnx_export.emit_reduce import merge
from vgcomp.backends.onnx_export.emit_shape import filled
from vgcomp.backends.onnx_export.runs import Run, runs_of
from vgcomp.backends.onnx_export.scope import FUNCTION_DOMAIN, Names, Scope, Value
from vgcomp.backends.onnx_export.slices import Segment, assembled, read_at, read_span, unstacked

EmitGraph = Callable[[Scope, fx.Graph, list[Value]], list[Value]]


@dataclass(frozen=True)
class _Function:
    """A body as a model-local function: its inputs are the body's and then ``weights``."""

    name: str
    body: ir.Body
    outputs: list[Value]
    weights: list[str]


@dataclass
class _State:
    """What has come out of the steps so far."""

    carries: dict[int, Value] = field(default_factory=dict)
    totals: dict[int, Value] = field(default_factory=dict)
    segments: dict[int, list[Segment]] = field(default_factory=dict)


class LoopEmitter:
    """Emits loops; ``emit_graph`` emits a body's graph. ``unroll``: no Scan, every step a call."""

    def __init__(self, emit_graph: EmitGraph, *, unroll: bool) -> None:
        self._emit_graph = emit_graph
        self._unroll = unroll

    def emit(self, scope: Scope, loop: ir.Loop, operands: list[Value]) -> list[Value]:
        """Emits a loop and returns its results."""
        functions = [self._function(scope, loop, i) for i in range(len(loop.bodies))]
        state = _State()
        for run in runs_of(loop, unroll=self._unroll):
            if run.scan:
                _Scan(scope, loop, operands, functions, run).emit(state)
                continue
            for step in run.steps:
                _call_step(scope, loop, operands, functions[step.body], step, state)
        return [_result(scope, loop, k, state) for k in range(len(loop.results))]

    def _function(self, scope: Scope, loop: ir.Loop, index: int) -> _Function:
        body = loop.bodies[index]
        names = Names()
        weights: dict[str, str] = {}

        def weight(name: str) -> str:
            if name not in weights:
                weights[name] = names.fresh(f"weight_{len(weights)}")
            return weights[name]

        inner = Scope(scope.model, names, weight)
        placeholders = [ir.val(node) for node in body.graph.nodes if node.op == "placeholder"]
        inputs = [Value.like(names.fresh(f"input_{i}"), value) for i, value in enumerate(placeholders)]
        outputs = own_outputs(inner, self._emit_graph(inner, body.graph, inputs))
        signature = [*(value.name for value in inputs), *weights.values()]
        hint = f"{loop.name}_{index}" if len(loop.bodies) > 1 else loop.name
        name = scope.model.add_function(hint, signature, [value.name for value in outputs], inner.nodes)
        return _Function(name, body, outputs, list(weights))


def own_outputs(scope: Scope, values: Sequence[Value]) -> list[Value]:
    """``values`` as outputs of ``scope``: each made by a node of its own, none twice."""
    made = {name for node in scope.nodes for name in node.output}
    outputs = []
    for value in values:
        fresh = value.name in made
        name = value.name if fresh else scope.op("Identity", value.name)
        made.discard(name)
        outputs.append(Value(name, value.shape, value.dtype))
    return outputs


def _call(scope: Scope, function: _Function, slices: Sequence[str], carries: Sequence[str]) -> list[Value]:
    inputs = [*slices, *carries, *(scope.weight(name) for name in function.weights)]
    names = scope.ops(function.name, inputs, len(function.outputs), hint="piece", domain=FUNCTION_DOMAIN)
    return [Value(name, out.shape, out.dtype) for name, out in zip(names, function.outputs, strict=True)]


def _call_step(
    scope: Scope, loop: ir.Loop, operands: list[Value], function: _Function, step: ir.Step, state: _State
) -> None:
    """One step as a plain call."""
    body = function.body
    slices = [read_span(scope, operands[k], loop.operand_axes[k], step.reads[k]) for k in body.operands]
    carries = [state.carries.pop(c).name for c in body.carries_in]
    outputs = _call(scope, function, slices, carries)
    for k, value in zip(body.results, outputs, strict=False):
        span, combine = step.writes[k], loop.results[k].combine
        if combine is not None:
            before = state.totals.get(k)
            name = value.name if before is None else merge(scope, combine, before, value)
            state.totals[k] = Value(name, value.shape, value.dtype)
        elif span is not None:
            state.segments.setdefault(k, []).append(Segment(span, value.name))
    state.carries.update(zip(body.carries_out, outputs[len(body.results) :], strict=True))


def _result(scope: Scope, loop: ir.Loop, k: int, state: _State) -> Value:
    result = loop.results[k]
    if result.axis is None:
        return state.totals[k]
    name = assembled(scope, result.shape, result.axis, state.segments.get(k, []), f"result {k} of loop {loop.name!r}")
    return Value(name, result.shape, result.dtype)


class _Scan:
    """One run of steps as a Scan."""

    def __init__(
        self, scope: Scope, loop: ir.Loop, operands: list[Value], functions: list[_Function], run: Run
    ) -> None:
        self._outer, self._loop, self._operands, self._run = scope, loop, operands, run
        self._functions = {i: functions[i] for i in sorted({step.body for step in run.steps})}
        bodies = [function.body for function in self._functions.values()]
        self._carries = sorted(run.carry_specs)
        combined = [k for k, result in enumerate(loop.results) if result.combine is not None]
        self._totals = [k for k in combined if any(k in body.results for body in bodies)]
        self._written = run.written
        self._inner = scope.inner()
        self._tables: dict[tuple[int, ...], str] = {}

    def emit(self, state: _State) -> None:
        """Emits the Scan into the outer scope and puts what it yields into ``state``."""
        slices = self._slices()
        chosen = self._table([step.body for step in self._run.steps])
        initial = [self._initial_carry(c, state) for c in self._carries]
        initial += [self._initial_total(k, state) for k in self._totals]
        current = [Value(self._inner.names.fresh("state"), v.shape, v.dtype) for v in initial]
        outputs = own_outputs(self._inner, self._choose(self._inner, list(self._functions), chosen, slices, current))
        steps = [Value(name, (1,), torch.int64) for name in self._tables.values()]
        graph = self._inner.graph(f"{self._loop.name}_steps", [*current, *steps], outputs)
        tables = [self._outer.constant(np.array(starts, np.int64).reshape(-1, 1)) for starts in self._tables]
        directions = [int(self._run.descending[k]) for k in self._written]
        backwards: dict[str, Any] = {"scan_output_directions": directions} if any(directions) else {}
        names = self._outer.ops(
            "Scan",
            [*(value.name for value in initial), *tables],
            len(outputs),
            hint=f"{self._loop.name}_out",
            body=graph,
            num_scan_inputs=len(tables),
            **backwards,
        )
        self._collect(names, outputs, state)

    def _collect(self, names: list[str], outputs: list[Value], state: _State) -> None:
        values = [Value(name, out.shape, out.dtype) for name, out in zip(names, outputs, strict=True)]
        n = len(self._carries)
        state.carries.update(zip(self._carries, values[:n], strict=True))
        state.totals.update(zip(self._totals, values[n:], strict=False))
        for k, value in zip(self._written, values[n + len(self._totals) :], strict=True):
            axis = self._loop.results[k].axis
            assert axis is not None
            spans = [step.writes[k] for step in self._run.steps]
            whole = (min(lo for lo, _ in spans), max(hi for _, hi in spans))  # type: ignore[misc]
            name = unstacked(self._outer, value.name, len(spans), value.shape, axis)
            state.segments.setdefault(k, []).append(Segment(whole, name))

    def _table(self, values: Sequence[int]) -> str:
        """The scanned int64 of one element that is ``values[i]`` in step i."""
        key = tuple(values)
        if key not in self._tables:
            self._tables[key] = self._inner.names.fresh("at")
        return self._tables[key]

    def _slices(self) -> dict[int, Callable[[Scope, int], str]]:
        """How to get the slice of an operand in a branch: (scope, length) -> name."""
        found: dict[int, Callable[[Scope, int], str]] = {}
        bodies = self._functions
        for k in sorted({k for function in bodies.values() for k in function.body.operands}):
            spans = [step.reads[k] if k in bodies[step.body].body.operands else None for step in self._run.steps]
            found[k] = self._slice(k, spans)
        return found

    def _slice(self, k: int, spans: Sequence[ir.Span | None]) -> Callable[[Scope, int], str]:
        axis, operand = self._loop.operand_axes[k], self._operands[k]
        used = {span for span in spans if span is not None}
        if axis is None or len(used) <= 1:
            # The same in every step: read once, before the Scan.
            name = read_span(self._outer, operand, axis, next(iter(used), None))
            return lambda scope, length: name
        start = self._table([0 if span is None else span[0] * axis.inner for span in spans])
        return lambda scope, length: read_at(scope, operand, axis, start, length)

    def _choose(
        self,
        scope: Scope,
        bodies: list[int],
        chosen: str,
        slices: dict[int, Callable[[Scope, int], str]],
        current: list[Value],
    ) -> list[Value]:
        """The step's outputs in ``scope``: a branch for each body."""
        if len(bodies) == 1:
            return self._branch(scope, self._functions[bodies[0]], slices, current)
        then_scope, else_scope = scope.inner(), scope.inner()
        then_out = own_outputs(then_scope, self._choose(then_scope, bodies[:1], chosen, slices, current))
        else_out = own_outputs(else_scope, self._choose(else_scope, bodies[1:], chosen, slices, current))
        names = scope.ops(
            "If",
            [scope.op("Equal", chosen, scope.ints([bodies[0]]))],
            len(then_out),
            hint="chosen",
            then_branch=then_scope.graph("then", [], then_out),
            else_branch=else_scope.graph("else", [], else_out),
        )
        return [Value(name, out.shape, out.dtype) for name, out in zip(names, then_out, strict=True)]

    def _branch(
        self, scope: Scope, function: _Function, slices: dict[int, Callable[[Scope, int], str]], current: list[Value]
    ) -> list[Value]:
        """One body's step: carries and totals after it (unchanged where it has none), then its pieces."""
        body = function.body
        before = dict(zip(self._carries, current, strict=False))
        totals = dict(zip(self._totals, current[len(self._carries) :], strict=True))
        step = next(step for step in self._run.steps if self._functions[step.body] is function)
        reads = [slices[k](scope, _length(step.reads[k])) for k in body.operands]
        outputs = _call(scope, function, reads, [before[c].name for c in body.carries_in])
        values = dict(zip(body.results, outputs, strict=False))
        before.update(zip(body.carries_out, outputs[len(body.results) :], strict=True))
        for k in self._totals:
            combine = self._loop.results[k].combine
            if k in values and combine is not None:
                totals[k] = Value(merge(scope, combine, totals[k], values[k]), totals[k].shape, totals[k].dtype)
        return [*before.values(), *totals.values(), *(values[k] for k in self._written)]

    def _initial_carry(self, carry: int, state: _State) -> Value:
        shape, dtype = self._run.carry_specs[carry]
        if carry in state.carries:
            return state.carries.pop(carry)
        # Some body puts it out before one reads it; until then its content does not matter.
        spec = Value("", shape, dtype)
        return Value(filled(self._outer, spec, 0), shape, dtype)

    def _initial_total(self, k: int, state: _State) -> Value:
        if k in state.totals:
            return state.totals[k]
        result = self._loop.results[k]
        return Value(_neutral(self._outer, result), result.shape, result.dtype)


def _length(span: ir.Span | None) -> int:
    return 0 if span is None else span[1] - span[0]


def _neutral(scope: Scope, result: ir.Result) -> str:
    """What merging leaves as it is: no elements; no keys (a row maximum below all others, a sum of 0)."""
    if result.combine == "moments":
        return filled(scope, Value("", result.shape, result.dtype), 0)
    *lead, width = result.shape
    zeros = filled(scope, Value("", (*lead, width - 2), result.dtype), 0)
    # Finite: the difference of two infinities would not be a number.
    top = filled(scope, Value("", (*lead, 1), result.dtype), -1e30)
    total = filled(scope, Value("", (*lead, 1), result.dtype), 0)
    return scope.op("Concat", zeros, top, total, axis=len(lead))
