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
  - a *result slice*: nothing where the op that makes it writes straight into the result (``loops.Put``: a pointwise
    op, ``clone``, a cast or ``cat``, cut along an axis whose ``outer`` is 1); else until it has been copied there right
    after its node, or, for a result that goes ``into`` an operand, at the end of the body;
  - *carries*: one put out by a body is the value itself if it is a contiguous tensor with a storage of
    its own; else (a tail sliced from an intermediate) it is copied right after the node that makes it. It lives
    until its last use in the body that reads it, or until it is replaced;
  - *accumulators* of combined results: the first step's value as with carries; then the old, the step's and the
    merged one together for a moment.

* A **pipelined loop** works on several slices at once (:mod:`vgcomp.stages`): in each round the most that each stage
  holds at any moment counts, all of them together, as engines keep no time with each other. A value used in a
  later stage than the one that made it lives to the end of the last stage that uses it.

So a planner may estimate, for a loop that stands at position i of its graph::

    peak = live across i + operands that die here + new axis results
           + max over bodies (liveness of the body with slice-sized values + carries + accumulators)

``workspace="cpu"`` adds what the ops allocate inside themselves on the CPU, as tensors that a tracker
sees (``linear`` of a non-contiguous input, a norm's statistics, attention's log-sum-exp). The figure called
``peak_activation_bytes`` leaves it out unless asked. ``workspace="cuda"`` adds what they allocate on CUDA devices
(:mod:`vgcomp.cuda_temporaries`): layout copies, statistics, convolutions' workspaces.

Cost is linear in the nodes; a body is analysed once for each way that it is entered. A body's graph
must therefore not change once it is part of a Loop.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import fx

from vgcomp import ir
from vgcomp.cuda_temporaries import node_cuda_bytes
from vgcomp.loops import Put, copied_operands, operands_of, plan_outputs, storage_root
from vgcomp.loops import alias_base as alias_base
from vgcomp.stages import BodyStages, loop_stages, rounds
from vgcomp.workspace import storage_bytes, workspace_bytes

if TYPE_CHECKING:
    from vgcomp.program import Program

#: Whether the ops' inner temporaries count: "none", those of the CPU, or those of CUDA devices.
Workspace = Literal["none", "cpu", "cuda"]
Kind = Literal["input", "weight", "value", "output", "operand", "carry"]


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


def body_liveness(body: ir.Body, *, workspace: Workspace = "none") -> Liveness:
    """Liveness of a body's graph by itself, for who wants to slice it again.

    Slices of operands are others' memory and count nothing here; carries live until they are last read; what the
    body puts out lives to its end, which is never too little.
    """
    analysis = _Analysis(body.graph, workspace, body)
    analysis.assign()
    for used in analysis.nodes[-1].all_input_nodes:
        buffer = analysis.buffer_of[used]
        buffer.last = analysis.end
        if buffer.kind == "value":
            buffer.kind = "output"
    return analysis.finish()


@dataclass(frozen=True)
class BodyProfile:
    """Live bytes of one body beside the loop's operands and axis results: ``at[i]`` while its node i runs.

    The most over all the ways and steps in which the loop enters the body.
    """

    at: tuple[int, ...]


def loop_profile(node: fx.Node, *, workspace: Workspace = "none") -> tuple[BodyProfile, ...]:
    """What each body of a loop node holds beyond operands and axis results, carries and accumulators included."""
    operands = operands_of(node)
    roots = [storage_root(operand) for operand in operands]
    alias = tuple(roots.index(root) for root in roots)
    strides = tuple(tuple(ir.val(operand).stride()) for operand in operands)
    known = _profiles.setdefault(ir.loop_of(node), {})
    key = (alias, strides, workspace)
    if key not in known:
        known[key] = _profile(node, workspace)
    return known[key]


def loop_bytes(node: fx.Node, *, workspace: Workspace = "none") -> int:
    """Most bytes that a loop holds beyond its operands and axis results, over all its steps."""
    return max((max(body.at) for body in loop_profile(node, workspace=workspace)), default=0)


_profiles: weakref.WeakKeyDictionary[ir.Loop, dict[object, tuple[BodyProfile, ...]]] = weakref.WeakKeyDictionary()


class _Analysis:
    """One pass over a graph. Time is in half steps: 2i while node i runs, 2i + 1 right after it."""

    def __init__(
        self,
        graph: fx.Graph,
        workspace: Workspace,
        body: ir.Body | None = None,
        copied: frozenset[int] = frozenset(),
        direct: frozenset[fx.Node] = frozenset(),
    ) -> None:
        self.graph = graph
        self.nodes = list(graph.nodes)
        self.index = {node: i for i, node in enumerate(self.nodes)}
        self.workspace = workspace
        self.body = body
        #: Operand positions (in ``body.operands``) that come as copies.
        self.copied = copied
        #: Nodes that write straight into a result of the loop.
        self.direct = direct
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
        return self.finish()

    def finish(self) -> Liveness:
        """The result, once every node has its buffer. Turns half steps into nodes: nothing may follow."""
        at = self.per_node()
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

    def per_node(self) -> list[int]:
        """Most bytes while each node runs or right after it."""
        halves = self.sweep()
        return [max(halves[2 * i], halves[2 * i + 1]) for i in range(len(self.nodes))]

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
        if node in self.direct:
            self._new(node, 0, 2 * i, "operand")
            self.extra[2 * i] += inner_bytes(self.workspace, node, how="direct")
            return
        base = alias_base(node)
        if base is not None:
            self._join(i, node, base)
            if "reuse" in node.meta:
                self.extra[2 * i] += inner_bytes(self.workspace, node, how="reuse")
            return
        size = storage_bytes(node) if self.workspace == "cpu" else ir.nbytes(ir.val(node))
        self._new(node, size, 2 * i, "value")
        self.extra[2 * i] += inner_bytes(self.workspace, node)

    def _loop(self, i: int, node: fx.Node) -> None:
        loop = ir.loop_of(node)
        operands = operands_of(node)
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


def inner_bytes(
    workspace: Workspace, node: fx.Node, *, how: Literal["new", "reuse", "direct"] = "new", merge: Any = None
) -> int:
    """What a node's op holds inside itself. On CUDA, ops that write into a given tensor hold nothing."""
    if workspace == "cpu":
        return workspace_bytes(node, merge=merge, direct=how == "direct")
    if workspace == "cuda" and how == "new":
        return node_cuda_bytes(node, merge)
    return 0


def _profile(node: fx.Node, workspace: Workspace) -> tuple[BodyProfile, ...]:
    """Walks the steps, keeping count of carries and accumulators."""
    if ir.loop_of(node).pipeline is not None:
        return _pipelined_profile(node, workspace)
    loop, puts = ir.loop_of(node), plan_outputs(node)
    carries: dict[int, int] = {}
    merged: dict[int, int] = {}
    entered: dict[object, list[int]] = {}
    most = [[0] * len(body.graph.nodes) for body in loop.bodies]
    for step in loop.steps:
        body = loop.bodies[step.body]
        for carry in body.carries_in:
            carries.pop(carry, None)
        here = frozenset(k for k in body.results if k in merged)
        # What the body neither reads nor replaces is a constant on top of it.
        held = sum(carries.values()) + sum(size for k, size in merged.items() if k not in here)
        copied = copied_operands(node, body, step)
        key = (step.body, copied, here, held)
        if key not in entered:
            entered[key] = _body_bytes(body, puts[step.body], copied, here, workspace)
            most[step.body] = [max(a, b + held) for a, b in zip(most[step.body], entered[key], strict=True)]
        for put in puts[step.body]:
            if put.how == "merge":
                merged[put.index] = ir.nbytes(ir.val(put.node))
            elif put.how in ("keep", "copy"):
                carries[put.index] = ir.nbytes(ir.val(put.node))
    return tuple(BodyProfile(tuple(at)) for at in most)


def _pipelined_profile(node: fx.Node, workspace: Workspace) -> tuple[BodyProfile, ...]:
    """The same by rounds: beside what a stage holds, the most that the other slices in flight hold in theirs."""
    loop, puts, stages = ir.loop_of(node), plan_outputs(node), loop_stages(node)
    known: dict[object, list[int]] = {}
    entered: list[list[int]] = []
    begun: set[int] = set()
    for step in loop.steps:
        body = loop.bodies[step.body]
        key = (step.body, copied_operands(node, body, step), frozenset(k for k in body.results if k in begun))
        if key not in known:
            known[key] = _body_bytes(body, puts[step.body], *key[1:], workspace, stages[step.body])
        entered.append(known[key])
        begun.update(put.index for put in puts[step.body] if put.how == "merge")
    sizes, there = _handed_on(loop, puts, stages)
    most = [[0] * len(body.graph.nodes) for body in loop.bodies]
    for running in rounds(loop.n_slices, stages[0].last + 1):
        works = [(loop.steps[i].body, stages[loop.steps[i].body].span(s), entered[i]) for s, i in running]
        peaks = [max((at[i] for i in span), default=at[span.start - 1]) for _, span, at in works]
        # What is handed on stands with the slice that takes or makes it. Where none does, it is counted here.
        counted = {name for s, i in running for name in there[loop.steps[i].body, s]}
        total = sum(peaks) + sum(size for name, size in sizes.items() if name not in counted)
        for (index, span, at), peak in zip(works, peaks, strict=True):
            for i in span:
                most[index][i] = max(most[index][i], at[i] + total - peak)
    return tuple(BodyProfile(tuple(at)) for at in most)


def _handed_on(
    loop: ir.Loop, puts: Sequence[Sequence[Put]], stages: Sequence[BodyStages]
) -> tuple[dict[str, int], dict[tuple[int, int], set[str]]]:
    """Carries and accumulators: their bytes, and which of them each (body, stage) takes or makes."""
    sizes: dict[str, int] = {}
    there: dict[tuple[int, int], set[str]] = {
        (b, s): set() for b in range(len(puts)) for s in range(stages[0].last + 1)
    }
    for index, (body, outputs) in enumerate(zip(stages, puts, strict=True)):
        for carry, placeholder in body.carries_in.items():
            there[index, body.of(placeholder)].add(f"carry {carry}")
        for put in outputs:
            if put.how in ("merge", "keep", "copy"):
                name = f"result {put.index}" if put.how == "merge" else f"carry {put.index}"
                sizes[name] = ir.nbytes(ir.val(put.node))
                there[index, body.of_put(put)].add(name)
    return sizes, there


def _body_bytes(
    body: ir.Body,
    puts: Sequence[Put],
    copied: frozenset[int],
    merged: frozenset[int],
    workspace: Workspace,
    stages: BodyStages | None = None,
) -> list[int]:
    """Live bytes at each node of a body, with ``merged`` the combined results that have an accumulator already."""
    direct = frozenset(put.node for put in puts if put.how == "direct")
    analysis = _Analysis(body.graph, workspace, body, copied, direct)
    analysis.assign()
    stages = stages or BodyStages(body, ())
    for put in puts:
        _count_put(analysis, put, put.index in merged, stages.span(stages.of_put(put)))
    for placeholder in stages.carries_in.values():
        analysis.buffer_of[placeholder].first = 2 * stages.span(stages.of(placeholder)).start
    for buffer in analysis.buffers:
        made, used = stages.at(buffer.first // 2), stages.at(buffer.last // 2)
        if made != used:
            buffer.last = 2 * stages.span(used).stop - 1
    return analysis.per_node()


def _count_put(analysis: _Analysis, put: Put, has_old: bool, stage: range) -> None:
    """``stage``: the positions of the stage that puts it out, all of them in a loop that is not pipelined."""
    buffer = analysis.buffer_of[put.node]
    size = ir.nbytes(ir.val(put.node))
    end = 2 * stage.stop - 1
    # A placeholder is put out at the end, anything else right after its node.
    made = analysis.end if put.node.op == "placeholder" else 2 * analysis.index[put.node] + 1
    merges = put.how == "merge" and has_old
    if put.how == "late" or put.how == "keep" or (put.how == "merge" and not has_old and put.owned):
        buffer.last = max(buffer.last, end)
        if not put.owned:
            analysis.add(size, analysis.end, analysis.end)
        return
    buffer.last = max(buffer.last, made)
    if put.how in ("copy", "merge"):
        analysis.add(size, made, end)
    if merges:
        analysis.add(size, 2 * stage.start, made)
        analysis.extra[made] += inner_bytes(analysis.workspace, put.node, merge=put.merge)
