"""Compiles a graph, once, to small closures over numbered slots; loops run in place.

What the closures allocate and when they let go is what ``vgcomp.memory`` counts; change both together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx

from vgcomp import ir
from vgcomp.backends.torch_outputs import Frame, Instruction, Outputs
from vgcomp.backends.torch_pipeline import PipelinedBody, StageCode, run_pipelined
from vgcomp.errors import InternalError
from vgcomp.inplace import call_into, write_to
from vgcomp.loops import Put, operands_of, plan_outputs, weights_of
from vgcomp.memory import loop_profile
from vgcomp.slices import narrow, read_slice
from vgcomp.stages import BodyStages, loop_stages

aten = torch.ops.aten


@dataclass(slots=True)
class Code:
    """A compiled top-level graph."""

    slots: int
    inputs: list[int]
    instructions: list[Instruction]
    outputs: list[int]

    def run(self, inputs: Sequence[Tensor], weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The outputs for these inputs, in the placeholders' order; ``weights`` by the targets of their nodes."""
        frame = Frame([None] * self.slots, weights, _device(inputs, weights))
        for slot, value in zip(self.inputs, inputs, strict=True):
            frame.env[slot] = value
        for instruction in self.instructions:
            instruction(frame)
        return tuple(frame.env[slot] for slot in self.outputs)


def _device(inputs: Sequence[Tensor], weights: Mapping[str, Tensor]) -> torch.device:
    # One at a time: to look a weight up may copy it.
    return next((tensor.device for tensor in chain(inputs, weights.values())), torch.device("cpu"))


@dataclass(slots=True)
class _BodyCode:
    """A compiled body: placeholders are read by instructions, results and carries put out by instructions."""

    slots: int
    instructions: list[Instruction]

    def run(self, frame: Frame) -> None:
        frame.env = [None] * self.slots
        for instruction in self.instructions:
            instruction(frame)
        frame.env = []


class _Slots:
    """Numbers the values of a graph and knows where each is used last."""

    def __init__(self, graph: fx.Graph, held: Collection[fx.Node]) -> None:
        self.nodes = list(graph.nodes)
        self.of = {node: i for i, node in enumerate(self.nodes)}
        last: dict[fx.Node, int] = {}
        for i, node in enumerate(self.nodes):
            last[node] = i
            if node.op != "output":
                last.update(dict.fromkeys(node.all_input_nodes, i))
        self._dying: dict[int, list[int]] = {}
        for node, i in last.items():
            if node not in held:
                self._dying.setdefault(i, []).append(self.of[node])

    def dying(self, node: fx.Node) -> list[int]:
        """Slots whose last use is by this node (its own if nothing uses it); never those of ``held`` nodes."""
        return self._dying.get(self.of[node], [])


def compile_graph(graph: fx.Graph) -> Code:
    """The graph's instructions. The graph must be a Program's: in order, functional, of the dialect."""
    outputs: tuple[fx.Node, ...] = graph.output_node().args[0]  # type: ignore[assignment]
    slots = _Slots(graph, set(outputs))
    placeholders = [node for node in slots.nodes if node.op == "placeholder"]
    unused = [slot for node in placeholders for slot in slots.dying(node)]
    instructions = _drop(unused)
    for node in slots.nodes:
        if node.op not in ("placeholder", "output"):
            instructions += _of_node(node, slots)
    return Code(
        len(slots.nodes), [slots.of[node] for node in placeholders], instructions, [slots.of[node] for node in outputs]
    )


def _of_node(node: fx.Node, slots: _Slots, after: Sequence[Instruction] = ()) -> list[Instruction]:
    """Runs a node, drops what it used last, does ``after`` with its value, drops that if nothing else needs it."""
    return [*_work(node, slots), *_then(slots.of[node], slots.dying(node), after)]


def _then(own: int, dying: Sequence[int], after: Sequence[Instruction]) -> list[Instruction]:
    """What comes after a node's work; ``dying``: slots to drop, perhaps its own."""
    return [*_drop([slot for slot in dying if slot != own]), *after, *_drop([own] if own in dying else [])]


def _work(node: fx.Node, slots: _Slots) -> list[Instruction]:
    if ir.is_getitem(node):
        return []  # the loop has put its results into the slots of its getitem nodes
    if node.op == "get_attr":
        return [_weight(str(node.target), slots.of[node])]
    return [_loop(node, slots) if ir.is_loop(node) else _call(node, slots)]


def _drop(slots: Sequence[int]) -> list[Instruction]:
    """Lets go of slots; no instruction where there are none."""

    def drop(frame: Frame) -> None:
        for slot in slots:
            frame.env[slot] = None

    return [drop] if slots else []


def _weight(name: str, slot: int) -> Instruction:
    def load(frame: Frame) -> None:
        frame.env[slot] = frame.weights[name]

    return load


def _call(node: fx.Node, slots: _Slots) -> Instruction:
    target: Any = node.target
    out = slots.of[node]
    args, kwargs = _template(node.args, slots), _template(node.kwargs, slots)
    reuse = node.meta.get("reuse")
    if reuse is not None:
        base = slots.of[node.args[reuse]]  # type: ignore[index]
        into = call_into(target)

        def call_in_place(frame: Frame) -> None:
            frame.env[out] = into(frame.env[base], reuse, args(frame.env), kwargs(frame.env))

        return call_in_place
    if target is aten.full.default:

        def fill(frame: Frame) -> None:
            frame.env[out] = target(*args(frame.env), **{**kwargs(frame.env), "device": frame.device})

        return fill
    strides = tuple(ir.val(node).stride())

    def call(frame: Frame) -> None:
        frame.env[out] = _as_planned(target(*args(frame.env), **kwargs(frame.env)), strides)

    return call


def _as_planned(value: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The value laid out as planned, so that later slices find each other's bytes where they should be.

    A kernel is free in the stride that it gives a dimension of size 1, and others choose their layout by it: that is
    set right in the view. A kernel that lays out otherwise (another device's, say) is copied from.
    """
    if value.stride() == strides:
        return value
    if all(n == 1 or a == b for n, a, b in zip(value.shape, value.stride(), strides, strict=True)):
        return value.as_strided(value.shape, strides)
    return torch.empty_strided(value.shape, strides, dtype=value.dtype, device=value.device).copy_(value)


def _direct(node: fx.Node, k: int, loop: ir.Loop, slots: _Slots) -> Instruction:
    """Runs a node straight into its slice of result ``k``."""
    args, kwargs = _template(node.args, slots), _template(node.kwargs, slots)
    run, axis = write_to(node.target), loop.results[k].axis
    assert axis is not None

    def call(frame: Frame) -> None:
        assert frame.step is not None
        span = frame.step.writes[k]
        assert span is not None
        run(narrow(frame.results[k], axis, span), args(frame.env), kwargs(frame.env))

    return call


class _Slot(int):
    """A slot number among literal arguments."""


def _template(value: Any, slots: _Slots) -> Callable[[list[Any]], Any]:
    """A function that fills the nodes of an argument structure from the slots."""
    filled = fx.map_arg(value, lambda node: _Slot(slots.of[node]))
    if isinstance(filled, dict) and not filled:
        return lambda env: {}
    return lambda env: _fill(filled, env)


def _fill(value: Any, env: list[Any]) -> Any:
    if isinstance(value, _Slot):
        return env[value]
    if isinstance(value, (list, tuple)):
        return [_fill(entry, env) for entry in value]
    if isinstance(value, dict):
        return {name: _fill(entry, env) for name, entry in value.items()}
    return value


def _loop(node: fx.Node, slots: _Slots) -> Instruction:
    loop = ir.loop_of(node)
    operand_slots = [slots.of[operand] for operand in operands_of(node)]
    targets: list[tuple[int, Any]] = [(slots.of[user], user.args[1]) for user in node.users if ir.is_getitem(user)]
    run_steps = _one_by_one(node) if loop.pipeline is None else _in_flight(node)
    names = list(weights_of(loop))

    def run(frame: Frame) -> None:
        # Looked up once: a caller's mapping may copy a weight to the device each time that it is asked for.
        weights = {name: frame.weights[name] for name in names}
        inner = Frame([], weights, frame.device, [frame.env[slot] for slot in operand_slots])
        for k, spec in enumerate(loop.results):
            if spec.axis is not None:
                inner.results[k] = _allocate(spec, inner)
        run_steps(inner)
        for slot, k in targets:
            frame.env[slot] = inner.results[k]

    return run


def _one_by_one(node: fx.Node) -> Instruction:
    """Runs a loop's steps in order."""
    loop = ir.loop_of(node)
    bodies = [_compile_body(loop, body, puts) for body, puts in zip(loop.bodies, plan_outputs(node), strict=True)]

    def run(frame: Frame) -> None:
        for step in loop.steps:
            frame.step = step
            bodies[step.body].run(frame)

    return run


def _in_flight(node: fx.Node) -> Instruction:
    """Runs a pipelined loop's steps."""
    loop = ir.loop_of(node)
    parts = zip(loop_stages(node), plan_outputs(node), loop_profile(node), strict=True)
    bodies = [_compile_stages(loop, stages, puts, profile.at) for stages, puts, profile in parts]
    return lambda frame: run_pipelined(loop, bodies, frame)


def _allocate(spec: ir.Result, frame: Frame) -> Tensor:
    """The tensor that an axis result is written into: new, or in an operand's storage from its start."""
    numel = torch.Size(spec.shape).numel()
    if spec.into is None:
        capacity = max(numel, -(-spec.capacity // spec.dtype.itemsize))
        flat = torch.empty(capacity, dtype=spec.dtype, device=frame.device)
        return _laid_out(flat[:numel], spec)
    base = frame.operands[spec.into]
    room = base.untyped_storage().nbytes() // base.element_size()
    flat = base.as_strided((room,), (1,), 0).view(spec.dtype)
    if flat.numel() < numel:
        raise InternalError(f"a result of {spec.shape} does not fit into operand {spec.into}'s buffer")
    return _laid_out(flat[:numel], spec)


def _laid_out(flat: Tensor, spec: ir.Result) -> Tensor:
    return flat.view(spec.shape) if spec.stride is None else flat.as_strided(spec.shape, spec.stride)


def _compile_body(loop: ir.Loop, body: ir.Body, puts: Sequence[Put]) -> _BodyCode:
    put = Outputs(loop, puts)
    slots = _Slots(body.graph, put.held)
    code = _BodyCode(len(slots.nodes) + put.copies, [])
    emit = code.instructions.extend
    placeholders = [node for node in slots.nodes if node.op == "placeholder"]
    reads = _reads(loop, body, placeholders, slots)
    for node, carry in zip(placeholders[len(body.operands) :], body.carries_in, strict=True):
        emit([_take_carry(carry, slots.of[node])])
    emit(_drop([slot for node in placeholders for slot in slots.dying(node)]))
    after, at_end = put.instructions(slots.of)
    for i, node in enumerate(slots.nodes):
        emit(reads.get(i, []))
        if node in put.direct:
            emit([_direct(node, put.direct[node], loop, slots), *_drop(slots.dying(node))])
        elif node.op not in ("placeholder", "output"):
            emit(_of_node(node, slots, after.get(i, [])))
    emit([instruction for _, instruction in at_end])
    return code


def _compile_stages(loop: ir.Loop, stages: BodyStages, puts: Sequence[Put], live: Sequence[int]) -> PipelinedBody:
    """A body's instructions by stage; ``live``: bytes at each node, by which the other stages' turn is found."""
    body, put = stages.body, Outputs(loop, puts)
    slots = _Slots(body.graph, put.held)
    reads = _reads(loop, body, [node for node in slots.nodes if node.op == "placeholder"], slots)
    after, at_end = put.instructions(slots.of)
    codes = [StageCode() for _ in range(stages.last + 1)]
    for carry, node in stages.carries_in.items():
        code = codes[stages.of(node)]
        code.before += [_take_carry(carry, slots.of[node]), *_drop(slots.dying(node))]
    for s, code in enumerate(codes):
        turn = max(stages.span(s), key=live.__getitem__, default=-1)
        for i in stages.span(s):
            node = slots.nodes[i]
            if node.op in ("placeholder", "output"):
                continue
            direct = [_direct(node, put.direct[node], loop, slots)] if node in put.direct else None
            (code.before if i <= turn else code.after).extend([*reads.get(i, []), *(direct or _work(node, slots))])
            dying = slots.dying(node)
            late = [slot for slot in dying if stages.storage_stage(slots.nodes[slot]) < s]
            code.crossing += late
            then = _then(i, [slot for slot in dying if slot not in late], after.get(i, []))
            (code.before if i < turn else code.after).extend(then)
    for one, instruction in at_end:
        codes[stages.of_put(one)].after.append(instruction)
    return PipelinedBody(len(slots.nodes) + put.copies, codes)


def _reads(
    loop: ir.Loop, body: ir.Body, placeholders: Sequence[fx.Node], slots: _Slots
) -> dict[int, list[Instruction]]:
    """Operand slices are taken right before their first use, so that a copy lives no longer than it must."""
    reads: dict[int, list[Instruction]] = {}
    for node, operand in zip(placeholders, body.operands, strict=False):
        first = min((slots.of[user] for user in node.users), default=None)
        if first is not None:
            reads.setdefault(first, []).append(_read(loop.operand_axes[operand], operand, slots.of[node]))
    return reads


def _read(axis: ir.Axis | None, operand: int, slot: int) -> Instruction:
    def read(frame: Frame) -> None:
        assert frame.step is not None
        frame.env[slot] = read_slice(frame.operands[operand], axis, frame.step.reads[operand])

    return read


def _take_carry(carry: int, slot: int) -> Instruction:
    def take(frame: Frame) -> None:
        frame.env[slot] = frame.carries.pop(carry)

    return take
