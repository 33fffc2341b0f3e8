"""The figures of many programs that differ little, as a search meets them: what was costed once is looked up.

A copy of a Program shares its values, so a node whose value and whose inputs' values are the very objects of a node
met before does the same work on the same storage. Such a node costs a look-up; the rest of its timeline is two
additions. A node that is new is costed by :mod:`vgcomp.simulate`'s rules (where equal structure is remembered too).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import fx

from vgcomp import ir
from vgcomp.cost_models.base import CostModel
from vgcomp.cost_models.neural_engine import fallback_s, placed_seconds, refuses
from vgcomp.execution import Mode
from vgcomp.loops import alias_base
from vgcomp.memory import Workspace, analyse
from vgcomp.program import Program
from vgcomp.simulate import Setup, node_work, simulate
from vgcomp.targets import Target

#: Nodes remembered before the memo starts anew.
_LIMIT = 500_000

_ATTENTION = ir.aten.scaled_dot_product_attention.default
#: Arguments of attention that may change its work and leave its value alone: dropout and causality.
_ATTENTION_OPTIONS = slice(4, None)


@dataclass(frozen=True, slots=True)
class Summary:
    """A simulated run without its timeline; seconds, bytes and FLOPs as in :class:`~vgcomp.simulate.Timeline`."""

    latency_s: float
    peak_activation_bytes: int
    weight_bytes: int
    flops: float

    @property
    def peak_bytes(self) -> int:
        """Peak of activations and all weights together, in bytes."""
        return self.peak_activation_bytes + self.weight_bytes


@dataclass(frozen=True, slots=True)
class _Fact:
    """What is known of a node: the input whose storage it shares (-1: none), bytes it makes and holds, its times."""

    alias: int
    size: int
    inside: int
    device_s: float
    host_s: float
    fallback_s: float
    flops: float
    #: Keeps the objects alive whose addresses are the key.
    held: tuple[Any, ...]


class Simulator:
    """Simulates programs on one target under one cost model, remembering nodes between them.

    :meth:`summary` gives the figures of ``simulate`` exactly. Programs with sliced loops and compiled ones are
    simulated whole.
    """

    def __init__(self, target: Target, cost_model: CostModel, mode: Mode = "eager") -> None:
        self._setup = Setup(target, cost_model, mode)
        self._facts: dict[tuple[Any, ...], _Fact] = {}

    def summary(self, program: Program) -> Summary:
        """Latency, peak and operations of one run."""
        setup = self._setup
        facts = None if setup.mode == "compiled" else self._read(program.graph)
        if facts is None:
            timeline = simulate(program, setup.target, setup.cost_model, mode=setup.mode)
            return Summary(timeline.latency_s, timeline.peak_activation_bytes, timeline.weight_bytes, timeline.flops)
        known, peak = facts
        flops = sum(fact.flops for fact in known)
        return Summary(self._latency(known), peak, program.weight_bytes(), flops)

    def _read(self, graph: fx.Graph) -> tuple[list[_Fact], int] | None:
        """The facts of the calls in order and the peak of live bytes; None for a graph with loops."""
        nodes = list(graph.nodes)
        end = len(nodes) - 1
        index: dict[fx.Node, int] = {}
        values: list[int] = []
        #: By storage: the node that owns a node's, and of each owner bytes, birth and last use.
        owner, size, first, last = list(range(end + 1)), [0] * (end + 1), [0] * (end + 1), [0] * (end + 1)
        inside = [0] * (end + 1)
        known: list[_Fact] = []
        #: Inputs, which the caller holds, and outputs.
        held: list[int] = []
        memo = self._facts
        for i, node in enumerate(nodes):
            index[node] = i
            values.append(id(node.meta.get("val")))
            first[i] = last[i] = i
            if node.op == "call_function":
                inputs = [index[source] for source in node._input_nodes]
                for k in inputs:
                    last[owner[k]] = i
                key: tuple[Any, ...] = (node.target, values[i], node.meta.get("reuse"), *[values[k] for k in inputs])
                if node.target is _ATTENTION:
                    key = (*key, *node.args[_ATTENTION_OPTIONS])
                fact = memo.get(key)
                if fact is None:
                    if ir.is_loop(node) or ir.is_getitem(node):
                        return None
                    fact = self._learn(key, node)
                known.append(fact)
                inside[i] = fact.inside
                if fact.alias >= 0:
                    owner[i] = owner[inputs[fact.alias]]
                else:
                    size[i] = fact.size
            elif node.op == "placeholder":
                size[i], first[i] = ir.nbytes(ir.val(node)), 0
                held.append(i)
            elif node.op == "output":
                held.extend(owner[index[source]] for source in node._input_nodes)
        for i in held:
            last[i] = end
        return known, _peak(size, first, last, inside)

    def _learn(self, key: tuple[Any, ...], node: fx.Node) -> _Fact:
        setup = self._setup
        inputs = list(node._input_nodes)
        base = alias_base(node)
        work = node_work(node)
        assert work is not None
        cost = setup.cost_model.op_seconds(work, setup.target)
        device_s = cost.seconds if cost.device_s is None else cost.device_s
        host_s = setup.issue.view_s if work.is_free else setup.issue.op_s
        fallback = setup.target.fallback
        size, inside = _memory(node, setup.workspace)
        fact = _Fact(
            alias=-1 if base is None else inputs.index(base),
            size=size,
            inside=inside,
            device_s=math.inf if fallback is not None and refuses(work, setup.target) else device_s,
            host_s=0.0 if cost.device_s is None else host_s,
            fallback_s=0.0 if fallback is None else fallback_s(work, fallback),
            flops=work.flops,
            held=(ir.val(node), *(ir.val(source) for source in inputs)),
        )
        if len(self._facts) >= _LIMIT:
            self._facts.clear()
        self._facts[key] = fact
        return fact

    def _latency(self, known: list[_Fact]) -> float:
        fallback = self._setup.target.fallback
        if fallback is not None:
            _, seconds = placed_seconds([(fact.device_s, fact.fallback_s) for fact in known], fallback)
            return sum(seconds)
        if not self._setup.issue.op_s:
            return sum(fact.device_s for fact in known)
        now = host = 0.0
        for fact in known:
            host += fact.host_s
            if fact.device_s:
                now = (host if host > now else now) + fact.device_s
        return now


def _memory(node: fx.Node, workspace: Workspace) -> tuple[int, int]:
    """Bytes of the storage that a node makes (0 for a view) and of what its op holds besides while it runs."""
    if workspace == "none":
        return ir.nbytes(ir.val(node)), 0
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for source in node._input_nodes:
        env[source] = graph.placeholder(source.name)
        env[source].meta["val"] = ir.val(source)
    alone = graph.node_copy(node, env.__getitem__)
    graph.output((alone,))
    found = analyse(graph, workspace=workspace)
    inputs = sum(ir.nbytes(ir.val(source)) for source in env)
    made = 0 if alias_base(alone) is not None else found.buffer_of[alone].size
    return made, found.at[len(env)] - inputs - made


def _peak(size: list[int], first: list[int], last: list[int], inside: list[int]) -> int:
    """Most bytes alive at once."""
    change = [0] * (len(size) + 1)
    for owned, begin, end in zip(size, first, last, strict=True):
        if owned:
            change[begin] += owned
            change[end + 1] -= owned
    return max((live + more for live, more in zip(accumulate(change), [*inside, 0], strict=True)), default=0)
