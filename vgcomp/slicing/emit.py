"""Writes one loop: from nodes, axes and spans to an :class:`~vgcomp.ir.Loop`.

Steps whose spans look the same from the inside (same lengths, same distance to the borders, same
overlaps) share one body, so a loop of 64 slices has three or four bodies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from vgcomp import ir
from vgcomp.axes import AxisMap
from vgcomp.ir import Axis, Body, Loop, Result, Span, Step, aten, own
from vgcomp.slices import read_slice
from vgcomp.slicing.localize import BodyBuilder, localize, signature, substitute
from vgcomp.slicing.spans import Item, LoopSpec, Schedule, StepSpans, kept_tails, reads_of, schedule_spans


@dataclass
class BuiltLoop:
    """A loop with its operands (nodes of the unsliced graph) and which target each result is."""

    loop: Loop
    operands: list[fx.Node]
    targets: tuple[fx.Node, ...]


@dataclass
class _Emitter:
    """State of one loop being written."""

    spec: LoopSpec
    amap: AxisMap
    steps: tuple[StepSpans, ...]
    tails: list[dict[Item, int]]
    carried: list[Item]
    ends: list[dict[Item, int]]
    operands: list[tuple[fx.Node, Axis | None]] = field(default_factory=list)
    operand_index: dict[tuple[fx.Node, Axis | None], int] = field(default_factory=dict)
    carries: list[Item] = field(default_factory=list)

    def operand(self, node: fx.Node, axis: Axis | None) -> int:
        key = (node, axis)
        if key not in self.operand_index:
            self.operand_index[key] = len(self.operands)
            self.operands.append(key)
        return self.operand_index[key]


def build_loop(name: str, spec: LoopSpec, amap: AxisMap, into: Mapping[fx.Node, fx.Node], note: str) -> BuiltLoop:
    """The loop that delivers ``spec.targets``; ``into`` maps a target to the operand it overwrites."""
    schedule = schedule_spans(spec, amap)
    steps = schedule.steps
    carried = _in_order(spec, schedule)
    emitter = _Emitter(spec, amap, steps, kept_tails(schedule), carried, _ends(carried, steps))
    bodies: list[Body] = []
    known: dict[Any, int] = {}
    made: list[Step] = []
    for k in range(len(steps)):
        key = _step_key(emitter, k)
        if key not in known:
            known[key] = len(bodies)
            bodies.append(_build_body(emitter, k))
        made.append(_step(emitter, k, known[key], bodies[known[key]]))
    width = len(emitter.operands)
    loop_steps = tuple(Step(s.body, s.reads + (None,) * (width - len(s.reads)), s.writes) for s in made)
    results = tuple(_result(emitter, t, into, loop_steps) for t in spec.targets)
    axes = tuple(axis for _, axis in emitter.operands)
    loop = Loop(name, tuple(bodies), loop_steps, axes, results, note)
    return BuiltLoop(loop, [node for node, _ in emitter.operands], spec.targets)


def _carry_in(emitter: _Emitter, k: int, item: Item) -> Span | None:
    """What step ``k`` finds in the line buffer of ``item``."""
    if k == 0 or item not in emitter.tails[k - 1] or item not in emitter.ends[k - 1]:
        return None
    start, end = emitter.tails[k - 1][item], emitter.ends[k - 1][item]
    return (start, end) if start < end else None


def _in_order(spec: LoopSpec, schedule: Schedule) -> list[Item]:
    """The items that may have a line buffer, in a stable order: overwritten operands, then nodes."""
    inside = [(node, spec.axis_of[node]) for node in spec.nodes]
    outside = dict.fromkeys(item for step in schedule.steps for item in step.new if item[0] not in spec.axis_of)
    return [item for item in (*outside, *inside) if item in schedule.carried]


def _ends(carried: Sequence[Item], steps: Sequence[StepSpans]) -> list[dict[Item, int]]:
    """After each step, up to where each carried item has been computed."""
    found: list[dict[Item, int]] = []
    now: dict[Item, int] = {}
    for step in steps:
        now = now | {item: step.new[item][1] for item in carried if item in step.new}
        found.append(now)
    return found


def _available(emitter: _Emitter, k: int, item: Item) -> Span | None:
    held, new = _carry_in(emitter, k, item), emitter.steps[k].new.get(item)
    if held is None or new is None:
        return new or held
    return held[0], new[1]


def _step_key(emitter: _Emitter, k: int) -> Any:
    """Everything that the body of step ``k`` depends on."""
    spec, step = emitter.spec, emitter.steps[k]
    key: list[Any] = []
    for node in spec.nodes:
        item = (node, spec.axis_of[node])
        span = step.new.get(item)
        key.append(_carry_key(emitter, k, item))
        if span is None:
            continue
        key.append((span[1] - span[0],) if node in spec.merged else signature(node, item[1], span))
        for _, x, window in reads_of(spec, emitter.amap, node):
            source = (x, window.axis)
            have, need = _available(emitter, k, source), window.needs(span)
            key.append(None if have is None else (need[0] - have[0], need[1] - have[0], have[1] - have[0]))
            if x not in spec.axis_of:
                key.append(_carry_key(emitter, k, source))
        if node in step.delivered:
            key.append((step.delivered[node][0] - span[0], step.delivered[node][1] - span[0]))
    return tuple(key)


def _carry_key(emitter: _Emitter, k: int, item: Item) -> Any:
    held, out = _carry_in(emitter, k, item), _carry_out(emitter, k, item)
    return (held and held[1] - held[0], out and out[1] - out[0])


def _carry_out(emitter: _Emitter, k: int, item: Item) -> Span | None:
    return _carry_in(emitter, k + 1, item) if k + 1 < len(emitter.steps) else None


@dataclass
class _BodyState:
    """Values of one body under construction."""

    body: BodyBuilder
    values: dict[Item, fx.Node] = field(default_factory=dict)
    spans: dict[Item, Span] = field(default_factory=dict)
    whole: dict[fx.Node, fx.Node] = field(default_factory=dict)
    held: dict[Item, fx.Node] = field(default_factory=dict)
    tails: dict[Item, fx.Node] = field(default_factory=dict)


def _build_body(emitter: _Emitter, k: int) -> Body:
    spec, step = emitter.spec, emitter.steps[k]
    state = _BodyState(BodyBuilder())
    used = _declare_operands(emitter, k, state)
    carries_in = _declare_carries(emitter, k, state)
    for node in spec.nodes:
        item = (node, spec.axis_of[node])
        if item in step.new:
            state.values[item] = _compute(emitter, k, state, node)
            _absorb(emitter, k, state, item)
            _keep_tail(emitter, k, state, item)
    results, outputs = [], []
    for index, target in enumerate(spec.targets):
        if target in step.delivered:
            item = (target, spec.axis_of[target])
            merged = target in spec.merged
            have = state.spans[item]
            results.append(index)
            value = state.values[item]
            outputs.append(value if merged else state.body.crop(value, item[1], have, step.delivered[target]))
    carries_out = _emit_carries(emitter, k, state, outputs)
    state.body.graph.output(tuple(outputs))
    return Body(state.body.graph, tuple(used), tuple(results), tuple(carries_in), tuple(carries_out))


def _declare_operands(emitter: _Emitter, k: int, state: _BodyState) -> list[int]:
    """Placeholders for what the step reads from outside, in first-use order."""
    spec, step = emitter.spec, emitter.steps[k]
    used: list[int] = []
    for node in spec.nodes:
        if (node, spec.axis_of[node]) not in step.new:
            continue
        windows = {index: window for index, _, window in reads_of(spec, emitter.amap, node)}
        for index, x in enumerate(emitter.amap.operands(node)):
            if x in spec.axis_of and index in windows:
                continue
            _declare_one(emitter, k, state, used, x, windows[index].axis if index in windows else None)
    return used


def _declare_one(emitter: _Emitter, k: int, state: _BodyState, used: list[int], x: fx.Node, axis: Axis | None) -> None:
    if axis is None:
        if x not in state.whole:
            used.append(emitter.operand(x, None))
            state.whole[x] = state.body.placeholder(x.name, x.meta["val"])
        return
    item = (x, axis)
    span = emitter.steps[k].new.get(item)
    if item in state.values or span is None:
        return
    used.append(emitter.operand(x, axis))
    state.values[item] = state.body.placeholder(x.name, read_slice(ir.val(x), axis, span))
    state.spans[item] = span


def _declare_carries(emitter: _Emitter, k: int, state: _BodyState) -> list[int]:
    """Placeholders for the line buffers; joined to an operand's fresh part at once."""
    found: list[int] = []
    for item in emitter.carried:
        span = _carry_in(emitter, k, item)
        if span is None:
            continue
        shape = item[1].narrowed_shape(ir.val(item[0]).shape, span[1] - span[0])
        value = ir.val(item[0]).new_empty(shape)
        state.held[item] = state.body.placeholder(f"{item[0].name}_tail", value)
        found.append(_carry_index(emitter, item))
    for item, node in state.held.items():
        span = _carry_in(emitter, k, item)
        assert span is not None
        fresh = state.values.get(item)
        if fresh is not None:
            node, span = state.body.join(node, fresh, item[1]), (span[0], state.spans[item][1])
        state.values[item], state.spans[item] = node, span
    return found


def _carry_index(emitter: _Emitter, item: Item) -> int:
    if item not in emitter.carries:
        emitter.carries.append(item)
    return emitter.carries.index(item)


def _compute(emitter: _Emitter, k: int, state: _BodyState, node: fx.Node) -> fx.Node:
    """The node's fresh span, from its operands cropped to exactly what it needs."""
    spec = emitter.spec
    axis = spec.axis_of[node]
    span = emitter.steps[k].new[(node, axis)]
    windows = {index: window for index, _, window in reads_of(spec, emitter.amap, node)}
    local: list[fx.Node | None] = []
    for index, x in enumerate(emitter.amap.operands(node)):
        window = windows.get(index)
        if window is None:
            local.append(state.whole[x])
            continue
        need, item = window.needs(span), (x, window.axis)
        if need[0] >= need[1]:
            local.append(None)
            continue
        local.append(state.body.crop(state.values[item], window.axis, state.spans[item], need))
    if node in spec.merged:
        return state.body.call(node.target, *substitute(node, local))
    return localize(state.body, node, axis, span, local)


def _absorb(emitter: _Emitter, k: int, state: _BodyState, item: Item) -> None:
    """Joins a fresh span to what the line buffer held of it."""
    span = emitter.steps[k].new[item]
    held = state.held.get(item)
    if held is None:
        state.spans[item] = span
        return
    state.values[item] = state.body.join(held, state.values[item], item[1])
    state.spans[item] = (state.spans[item][0], span[1])


def _keep_tail(emitter: _Emitter, k: int, state: _BodyState, item: Item) -> None:
    """Copies out what the next step needs again, at once, so that the rest of the slice can be freed."""
    span = _carry_out(emitter, k, item)
    if span is None or item in state.tails:
        return
    tail = state.body.crop(state.values[item], item[1], state.spans[item], span)
    state.tails[item] = state.body.call(aten.clone.default, (tail,), {"memory_format": _CONTIGUOUS})


def _emit_carries(emitter: _Emitter, k: int, state: _BodyState, outputs: list[fx.Node]) -> list[int]:
    """Adds the tails to the body's outputs; returns their carries."""
    found = []
    for item in emitter.carried:
        _keep_tail(emitter, k, state, item)
        if item in state.tails:
            outputs.append(state.tails[item])
            found.append(_carry_index(emitter, item))
    return found


def _step(emitter: _Emitter, k: int, body: int, built: Body) -> Step:
    step = emitter.steps[k]
    reads: list[Span | None] = [None] * len(emitter.operands)
    for index in built.operands:
        node, axis = emitter.operands[index]
        reads[index] = None if axis is None else step.new[(node, axis)]
    writes = tuple(None if t in emitter.spec.merged else step.delivered.get(t) for t in emitter.spec.targets)
    return Step(body, tuple(reads), writes)


def _result(emitter: _Emitter, target: fx.Node, into: Mapping[fx.Node, fx.Node], steps: Sequence[Step]) -> Result:
    value = ir.val(target)
    shape = tuple(int(n) for n in value.shape)
    if target in emitter.spec.merged:
        partial = target.target is own.attention_partial.default
        return Result(shape, value.dtype, combine="softmax" if partial else "moments")
    axis = emitter.spec.axis_of[target]
    source = into.get(target)
    keys = [key for key in emitter.operands if key[0] is source and key[1] is not None]
    operand = emitter.operand_index[keys[0]] if keys else None
    return Result(shape, value.dtype, axis=axis, into=operand, stride=dense_stride(value))


def dense_stride(value: torch.Tensor) -> tuple[int, ...] | None:
    """The strides a result takes over from the unsliced value; None for row-major or a value with gaps."""
    if value.is_contiguous():
        return None
    order = sorted(range(value.dim()), key=value.stride, reverse=True)
    return tuple(value.stride()) if value.permute(order).is_contiguous() else None


_CONTIGUOUS = torch.contiguous_format
