"""Liveness: which values share storage, how long each storage lives, and the exact peak.

What is counted is what ``vgcomp.backends.torch_module`` does, op by op:

* **Inputs** are held by the caller: alive from start to end. **Outputs** live from their op to the
  end. **Weights**, and views of weights, count nothing here.
* Any other value lives from the op that makes it until its last use is done. While an op runs its
  inputs and its output are both alive; a value that nothing uses dies with its own op.
* A **view** (``permute``, ``expand``, ``slice``, and ``reshape`` where the strides allow) has no storage and keeps
  its base alive. ``meta["reuse"] = k`` puts a node's output in the storage of argument k.
* A **loop** allocates its axis results at its start (``capacity`` bytes if more) unless they go ``into`` an
  operand's storage. Its operands live until it ends. While it runs there are, besides:

  - *operand slices*: nothing for a whole operand or a view; a slice that must be copied
    (``slices.slice_copies``: an inner factor of a merged dimension) lives from its first use to its last;
  - *body values*, by the same rules as above;
  - a *result slice*, until it has been copied into the result right after the node that makes it, or, for a
    result that goes ``into`` an operand, at the end of the body;
  - *carries*: one put out by a body is the value itself if it is a contiguous tensor with a storage of
    its own; else (a tail sliced from an intermediate) it is copied right after the node that makes it. It lives
    until its last use in the body that reads it, or until it is replaced;
  - *accumulators* of combined results: the first step's value as with carries; then the old, the step's and the
    merged one together for a moment.

So a planner may estimate, for a loop that stands at position i of its graph::

    peak = live across i + operands that die here + new axis results
           + max over bodies (liveness of the body with slice-sized values + carries + accumulators)

``workspace="cpu"`` adds what the ops allocate inside themselves on the CPU, as tensors that a tracker
sees (``linear`` of a non-contiguous input, a norm's statistics, attention's log-sum-exp). The figure called
``peak_activation_bytes`` leaves it out except for the target ``cpu``.

Cost is linear in the nodes; a body is analysed once for each way that it is entered. A body's graph
must therefore not change once it is part of a Loop.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import fx

from vgcomp import ir
from vgcomp.slices import is_contiguous, slice_copies, view_strides
from vgcomp.workspace import storage_bytes, workspace_bytes

if TYPE_CHECKING:
    from vgcomp.program import Program

aten = torch.ops.aten
own = torch.ops.vgcomp

#: Whether the ops' inner temporaries count: "none", or those of the CPU.
Workspace = Literal["none", "cpu"]
Kind = Literal["input", "weight", "value", "output", "operand", "carry"]

_MERGE = {"moments": own.merge_moments.default, "softmax": own.merge_softmax.default}


@dataclass(slots=True)
class Buffer:
    """One storage: the values that share it, its bytes, and the nodes (by index) between which it lives."""

    size: int
    first: int
    last: int
    kind: Kind
    nodes: list[fx.Node] = field(default_factory=list)
    #: For a view of a loop's operand: which one. Such a buffer has no bytes of its own.
    operand: int | None = None


@dataclass(frozen=True)
class Liveness:
    """Live bytes of a graph. ``at[i]``: the most while node i of ``graph.nodes`` runs (a loop: over its steps)."""

    peak: int
    peak_node: fx.Node | None
    at: list[int]
    buffers: list[Buffer]
    #: The buffer of each node; a loop's results are found under its ``getitem`` nodes.
    buffer_of: dict[fx.Node, Buffer]


def peak_activation_bytes(program: Program, *, workspace: Workspace = "none") -> int:
    """Most bytes of inputs, outputs and temporaries alive at once; weights excluded."""
    return analyse(program.graph, workspace=workspace).peak


def analyse(graph: fx.Graph, *, workspace: Workspace = "none") -> Liveness:
    """Liveness of a Program's graph, loops included."""
    return _Analysis(graph, workspace).run()


def loop_bytes(node: fx.Node, *, workspace: Workspace = "none") -> int:
    """Most bytes that a loop holds beyond its operands and axis results, over all its steps."""
    operands: Sequence[fx.Node] = node.args[1]  # type: ignore[assignment]
    strides = [tuple(ir.val(operand).stride()) for operand in operands]
    return _loop_bytes(ir.loop_of(node), strides, workspace)


def owned_outputs(body: ir.Body) -> frozenset[fx.Node]:
    """Outputs of a body that a carry or a first accumulator may take as they are, without a copy.

    They are contiguous, alone in a storage of just their size, and not a view of an operand.
    """
    analysis = _Analysis(body.graph, "none", body)
    analysis.assign()
    outputs = _output_nodes(body.graph)
    owners = [analysis.buffer_of[node] for node in outputs]
    return frozenset(
        node
        for node, buffer in zip(outputs, owners, strict=True)
        if buffer.kind in ("value", "carry")
        and buffer.size == ir.nbytes(ir.val(node))
        and sum(other is buffer for other in owners) == 1
        and is_contiguous(ir.val(node).shape, ir.val(node).stride())
    )


def operand_views(body: ir.Body) -> dict[fx.Node, int]:
    """Outputs of a body that are views of an operand's storage, with the index of that operand."""
    analysis = _Analysis(body.graph, "none", body)
    analysis.assign()
    found = {node: analysis.buffer_of[node].operand for node in _output_nodes(body.graph)}
    return {node: operand for node, operand in found.items() if operand is not None}


class _Analysis:
    """One pass over a graph. Time is in half steps: 2i while node i runs, 2i + 1 right after it."""

    def __init__(
        self,
        graph: fx.Graph,
        workspace: Workspace,
        body: ir.Body | None = None,
        copied: frozenset[int] = frozenset(),
    ) -> None:
        self.graph = graph
        self.nodes = list(graph.nodes)
        self.index = {node: i for i, node in enumerate(self.nodes)}
        self.workspace = workspace
        self.body = body
        #: Operand positions (in ``body.operands``) that come as copies.
        self.copied = copied
        self.buffers: list[Buffer] = []
        self.buffer_of: dict[fx.Node, Buffer] = {}
        self.results_of: dict[fx.Node, list[Buffer]] = {}
        self.extra = [0] * (2 * len(self.nodes) + 2)

    @property
    def end(self) -> int:
        """The last half step."""
        return 2 * len(self.nodes) - 1

    def run(self) -> Liveness:
        self.assign()
        halves = self.sweep()
        at = [max(halves[2 * i], halves[2 * i + 1]) for i in range(len(self.nodes))]
        peak = max(at, default=0)
        peak_node = self.nodes[at.index(peak)] if at else None
        for buffer in self.buffers:
            buffer.first, buffer.last = buffer.first // 2, buffer.last // 2
        return Liveness(peak, peak_node, at, self.buffers, self.buffer_of)

    def assign(self) -> None:
        """Gives every node its buffer, and every buffer its life."""
        for i, node in enumerate(self.nodes):
            if node.op == "placeholder":
                self._placeholder(i, node)
            elif node.op == "get_attr":
                self._new(node, 0, 0, "weight")
            elif node.op == "call_function":
                self._use(i, node)
                self._call(i, node)
            elif node.op == "output":
                self._output(node)

    def sweep(self) -> list[int]:
        """Live bytes at each half step."""
        delta = [0] * (2 * len(self.nodes) + 2)
        for buffer in self.buffers:
            delta[buffer.first] += buffer.size
            delta[buffer.last + 1] -= buffer.size
        live, halves = 0, []
        for change, extra in zip(delta, self.extra, strict=True):
            live += change
            halves.append(live + extra)
        return halves

    def add(self, size: int, first: int, last: int) -> None:
        """A storage that no node names."""
        self.buffers.append(Buffer(size, first, last, "value"))

    def _new(self, node: fx.Node, size: int, first: int, kind: Kind) -> Buffer:
        buffer = Buffer(size, first, first, kind, [node])
        self.buffers.append(buffer)
        self.buffer_of[node] = buffer
        return buffer

    def _join(self, i: int, node: fx.Node, base: fx.Node) -> None:
        buffer = self.buffer_of[base]
        buffer.nodes.append(node)
        buffer.last = max(buffer.last, 2 * i)
        self.buffer_of[node] = buffer

    def _use(self, i: int, node: fx.Node) -> None:
        for used in node.all_input_nodes:
            buffer = self.buffer_of.get(used)
            if buffer is not None:
                buffer.last = max(buffer.last, 2 * i)

    def _placeholder(self, i: int, node: fx.Node) -> None:
        size = ir.nbytes(ir.val(node))
        if self.body is None:
            self._new(node, size, 0, "input").last = self.end
            return
        if i >= len(self.body.operands):
            self._new(node, size, 0, "carry")
            return
        if i not in self.copied:
            self._new(node, 0, 0, "operand").operand = self.body.operands[i]
            return
        # Copied when first used, dropped when last used: never made if not used.
        uses = [self.index[user] for user in node.users]
        self._new(node, size if uses else 0, 2 * min(uses, default=i), "value")

    def _call(self, i: int, node: fx.Node) -> None:
        if ir.is_loop(node):
            self._loop(i, node)
            return
        if ir.is_getitem(node):
            source: fx.Node = node.args[0]  # type: ignore[assignment]
            buffer = self.results_of[source][node.args[1]]  # type: ignore[index]
            buffer.nodes.append(node)
            buffer.last = max(buffer.last, 2 * i)
            self.buffer_of[node] = buffer
            return
        base = alias_base(node)
        if base is not None:
            self._join(i, node, base)
            if "reuse" in node.meta and self.workspace == "cpu":
                self.extra[2 * i] += workspace_bytes(node)
            return
        size = storage_bytes(node) if self.workspace == "cpu" else ir.nbytes(ir.val(node))
        self._new(node, size, 2 * i, "value")
        if self.workspace == "cpu":
            self.extra[2 * i] += workspace_bytes(node)

    def _loop(self, i: int, node: fx.Node) -> None:
        loop = ir.loop_of(node)
        operands: Sequence[fx.Node] = node.args[1]  # type: ignore[assignment]
        results = []
        for spec in loop.results:
            if spec.into is not None:
                results.append(self.buffer_of[operands[spec.into]])
                continue
            size = torch.Size(spec.shape).numel() * spec.dtype.itemsize
            born = 2 * i if spec.combine is None else 2 * i + 1
            results.append(Buffer(max(size, spec.capacity), born, born, "value"))
            self.buffers.append(results[-1])
        self.results_of[node] = results
        self.extra[2 * i] += loop_bytes(node, workspace=self.workspace)

    def _output(self, node: fx.Node) -> None:
        if self.body is not None:
            return  # what becomes of a body's outputs is counted in _measure_body
        for used in node.all_input_nodes:
            buffer = self.buffer_of[used]
            buffer.last = self.end
            if buffer.kind == "value":
                buffer.kind = "output"


def alias_base(node: fx.Node) -> fx.Node | None:
    """The argument whose storage a (non-loop) node's output shares, or None for a storage of its own."""
    reuse = node.meta.get("reuse")
    if reuse is not None:
        return node.args[reuse]  # type: ignore[return-value]
    if node.target not in ir.VIEW_OPS:
        return None
    base: fx.Node = node.args[0]  # type: ignore[assignment]
    if node.target is aten.reshape.default:
        value = ir.val(base)
        if view_strides(value.shape, value.stride(), ir.val(node).shape) is None:
            return None
    return base


def _output_nodes(graph: fx.Graph) -> tuple[fx.Node, ...]:
    return tuple(graph.output_node().args[0])  # type: ignore[arg-type]


_bodies: weakref.WeakKeyDictionary[fx.Graph, dict[object, int]] = weakref.WeakKeyDictionary()


def _loop_bytes(loop: ir.Loop, strides: Sequence[Sequence[int]], workspace: Workspace) -> int:
    """Walks the steps, keeping count of carries and accumulators."""
    carries: dict[int, int] = {}
    merged: dict[int, int] = {}
    peak = 0
    for step in loop.steps:
        body = loop.bodies[step.body]
        for carry in body.carries_in:
            carries.pop(carry, None)
        copied = frozenset(
            i
            for i, operand in enumerate(body.operands)
            if slice_copies(strides[operand], loop.operand_axes[operand], step.reads[operand])
        )
        # What the body neither reads nor replaces is a constant on top of it.
        held = sum(carries.values()) + sum(size for k, size in merged.items() if k not in body.results)
        inner = _body_bytes(loop, body, copied, frozenset(merged) & frozenset(body.results), workspace)
        peak = max(peak, held + inner)
        outputs = _output_nodes(body.graph)
        for carry, node in zip(body.carries_out, outputs[len(body.results) :], strict=True):
            carries[carry] = ir.nbytes(ir.val(node))
        for k, node in zip(body.results, outputs, strict=False):
            if loop.results[k].combine is not None:
                merged[k] = ir.nbytes(ir.val(node))
    return peak


def _body_bytes(
    loop: ir.Loop, body: ir.Body, copied: frozenset[int], merged: Iterable[int], workspace: Workspace
) -> int:
    """Peak of one body, with ``merged`` the combined results that already have an accumulator."""
    merged = frozenset(merged)
    into = frozenset(k for k in body.results if loop.results[k].into is not None)
    combine = tuple(loop.results[k].combine for k in body.results)
    key = (body.operands, body.results, body.carries_in, body.carries_out, copied, merged, into, combine, workspace)
    known = _bodies.setdefault(body.graph, {})
    if key not in known:
        known[key] = _measure_body(loop, body, copied, merged, workspace)
    return known[key]


def _measure_body(
    loop: ir.Loop, body: ir.Body, copied: frozenset[int], merged: frozenset[int], workspace: Workspace
) -> int:
    analysis = _Analysis(body.graph, workspace, body, copied)
    analysis.assign()
    outputs = _output_nodes(body.graph)
    owned = owned_outputs(body)
    for k, node in zip(body.results, outputs, strict=False):
        _count_result(analysis, loop.results[k], node, k in merged, node in owned)
    for node in outputs[len(body.results) :]:
        buffer = analysis.buffer_of[node]
        if node in owned:
            buffer.last = analysis.end
            continue
        made = _made(analysis, node)
        buffer.last = max(buffer.last, made)
        analysis.add(ir.nbytes(ir.val(node)), made, analysis.end)
    return max(analysis.sweep())


def _made(analysis: _Analysis, node: fx.Node) -> int:
    """The half step in which an output of a body is copied or merged: after its node, a placeholder's at the end."""
    return analysis.end if node.op == "placeholder" else 2 * analysis.index[node] + 1


def _count_result(analysis: _Analysis, spec: ir.Result, node: fx.Node, has_old: bool, owned: bool) -> None:
    buffer = analysis.buffer_of[node]
    made = _made(analysis, node)
    size = ir.nbytes(ir.val(node))
    if spec.into is not None:
        buffer.last = analysis.end
        if buffer.operand is not None:
            analysis.add(size, analysis.end, analysis.end)
        return
    if spec.combine is None:
        buffer.last = max(buffer.last, made)
        return
    if has_old:
        buffer.last = max(buffer.last, made)
        analysis.add(size, 0, made)
        analysis.add(size, made, analysis.end)
        if analysis.workspace == "cpu":
            analysis.extra[made] += workspace_bytes(node, merge=_MERGE[spec.combine])
        return
    if owned:
        buffer.last = analysis.end
        return
    buffer.last = max(buffer.last, made)
    analysis.add(size, made, analysis.end)
