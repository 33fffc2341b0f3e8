"""The allocations that the torch runtime makes for a graph, in order: inputs, every op, loops step by step.

It follows ``vgcomp.backends.torch_runtime`` instruction by instruction, as ``vgcomp.memory`` does by intervals: the
most bytes that a trace asks for at once are that module's peak (a test holds the two together).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import torch
from torch import fx

from vgcomp import ir
from vgcomp.alloc_trace import Alloc, Event, Free, Kind, Move, Steps
from vgcomp.cuda_temporaries import NONE, Temporaries
from vgcomp.loops import Put, alias_base, copied_operands, operands_of, output_nodes, plan_outputs, weights_of
from vgcomp.round_trace import StagedTrace, round_steps
from vgcomp.stages import BodyStages, loop_stages

#: What a node's op allocates beside its output; with an op as second argument, what merging two such values by it does.
OpTemporaries = Callable[[fx.Node, Any], Temporaries]


def no_temporaries(node: fx.Node, merge: Any = None) -> Temporaries:
    """Ops that allocate their outputs and nothing else."""
    return NONE


def graph_trace(graph: fx.Graph, temporaries: OpTemporaries = no_temporaries, *, streamed: bool = False) -> list[Event]:
    """The events of one run. Inputs and outputs stay allocated at the end; weights are the caller's.

    ``streamed``: weights come with the op or loop that uses them, and go with it.
    """
    return _Walk(graph, count(), temporaries, streamed).top_level()


class _Walk:
    """One graph, or one body of a loop as entered in one way. ``slot_of[node]``: its storage; None: somebody else's."""

    def __init__(
        self, graph: fx.Graph, numbers: Iterator[int], temporaries: OpTemporaries, streamed: bool = False
    ) -> None:
        self.graph = graph
        self.streamed = streamed
        self.nodes = list(graph.nodes)
        self.order = {node: i for i, node in enumerate(self.nodes)}
        self.numbers = numbers
        self.temporaries = temporaries
        #: The stream whose pool storages come from.
        self.stream = 0
        self.events: list[Event] = []
        self.slot_of: dict[fx.Node, int | None] = {}
        #: Names in use of each storage; it goes with the last.
        self.names: dict[int, int] = {}
        self.dying: dict[int, list[fx.Node]] = {}
        self.outputs: set[fx.Node] = set()

    def top_level(self) -> list[Event]:
        self.outputs = set(output_nodes(self.graph))
        self.plan_deaths(self.outputs | {node for node in self.nodes if node.op == "placeholder"})
        for node in self.nodes:
            if node.op == "placeholder":
                self.bind(node, self.alloc(ir.nbytes(ir.val(node)), "input"))
        for i, node in enumerate(self.nodes):
            if node.op not in ("placeholder", "output"):
                self.run_node(i, node)
        return self.events

    def plan_deaths(self, held: set[fx.Node]) -> None:
        """Which values go after each node: those used there for the last time, or never and made there."""
        last = dict(self.order)
        for i, node in enumerate(self.nodes):
            if node.op != "output":
                last.update(dict.fromkeys(node.all_input_nodes, i))
        for node, i in last.items():
            if node not in held:
                self.dying.setdefault(i, []).append(node)

    def run_node(self, i: int, node: fx.Node, after: Sequence[Put] = ()) -> None:
        """The op, then the drop of what it used last, then ``after``, then the drop of itself if nothing needs it."""
        self.make(node)
        dying = self.dying.get(i, [])
        for other in dying:
            if other is not node:
                self.drop(other)
        for put in after:
            self.put(put)
        if node in dying:
            self.drop(node)

    def make(self, node: fx.Node) -> None:
        if node.op == "get_attr":
            self.bind(node, self.alloc(ir.nbytes(ir.val(node)), "weight") if self.streamed else None)
        elif ir.is_loop(node):
            self.loop(node)
        elif not ir.is_getitem(node):
            self.call(node)

    def call(self, node: fx.Node) -> None:
        base = alias_base(node)
        if base is not None:
            self.bind(node, self.slot_of[base])
            return
        inner = self.temporaries(node, None)
        early = [self.alloc(size, "workspace") for size in inner.before]
        self.bind(node, self.alloc(ir.nbytes(ir.val(node)), self.kind_of(node)))
        self._pass(Temporaries(after=inner.after))
        self.events += [Free(slot) for slot in reversed(early) if slot is not None]

    def _pass(self, inner: Temporaries) -> None:
        """Temporaries made after an op's output come and go."""
        slots = [self.alloc(size, "workspace") for size in inner.after]
        self.events += [Free(slot) for slot in reversed(slots) if slot is not None]

    def kind_of(self, node: fx.Node | None) -> Kind:
        return "output" if node in self.outputs else "temporary"

    # -- storages ----------------------------------------------------------------------------------

    def alloc(self, size: int, kind: Kind) -> int | None:
        """A new storage; None for one of no bytes."""
        if size == 0:
            return None
        slot = next(self.numbers)
        self.events.append(Alloc(slot, size, kind, self.stream))
        return slot

    def bind(self, node: fx.Node, slot: int | None) -> None:
        self.slot_of[node] = slot
        if slot is not None:
            self.names[slot] = self.names.get(slot, 0) + 1

    def drop(self, node: fx.Node) -> None:
        slot = self.slot_of.get(node)
        if slot is None or slot not in self.names:
            return
        self.names[slot] -= 1
        if self.names[slot] == 0:
            del self.names[slot]
            self.free(slot)

    def free(self, slot: int) -> None:
        """A storage that nothing names any more goes."""
        self.events.append(Free(slot))

    def hand_over(self, slot: int | None, to: int, kind: Kind) -> None:
        """A storage leaves this walk's care."""
        if slot is None:
            self.events.append(Free(to))
            return
        self.names.pop(slot, None)
        self.events.append(Move(slot, to, kind))

    # -- loops -------------------------------------------------------------------------------------

    def put(self, put: Put) -> None:
        raise NotImplementedError("only a body puts values out")

    def loop(self, node: fx.Node) -> None:
        loop, operands = ir.loop_of(node), operands_of(node)
        projections = [(user, user.args[1]) for user in node.users if ir.is_getitem(user)]
        named: dict[Any, fx.Node] = {k: user for user, k in projections}
        results: list[int | None] = []
        for k, spec in enumerate(loop.results):
            size = torch.Size(spec.shape).numel() * spec.dtype.itemsize
            if spec.combine is not None:
                results.append(next(self.numbers))
            elif spec.into is not None:
                results.append(self.slot_of[operands[spec.into]])
            else:
                results.append(self.alloc(max(size, spec.capacity), self.kind_of(named.get(k))))
        weights = weights_of(loop) if self.streamed else {}
        held = [self.alloc(ir.nbytes(value), "weight") for value in weights.values()]
        bodies = _Bodies(node, results, self.numbers, self.temporaries, self.stream)
        self.events.append(bodies.steps())
        self.events += [Free(slot) for slot in (*bodies.carries.values(), *held) if slot is not None]
        # From here on the results go by their projections' names, an operand that one lies in by these too.
        for projection, index in projections:
            self.bind(projection, results[index])  # type: ignore[index]
        for k, slot in enumerate(results):
            if k not in named and slot is not None and loop.results[k].into is None:
                self.events.append(Free(slot))


class _Bodies:
    """The traces of a loop's bodies, one for each way that they are entered."""

    def __init__(
        self,
        node: fx.Node,
        results: Sequence[int | None],
        numbers: Iterator[int],
        temporaries: OpTemporaries,
        stream: int,
    ) -> None:
        self.node = node
        self.stream = stream
        self.loop = ir.loop_of(node)
        self.puts = plan_outputs(node)
        self.numbers = numbers
        self.temporaries = temporaries
        #: Slots of accumulators, by result.
        self.merged = {
            k: slot
            for k, (spec, slot) in enumerate(zip(self.loop.results, results, strict=True))
            if spec.combine is not None and slot is not None
        }
        carried = dict.fromkeys(carry for body in self.loop.bodies for carry in body.carries_out)
        self.carries = {carry: next(numbers) for carry in carried}

    def steps(self) -> Steps:
        if self.loop.pipeline is not None:
            return self._rounds(self.loop.pipeline)
        traces: list[tuple[Event, ...]] = []
        known: dict[object, int] = {}
        order: list[int] = []
        begun: set[int] = set()
        for step in self.loop.steps:
            body = self.loop.bodies[step.body]
            copied = copied_operands(self.node, body, step)
            here = frozenset(k for k in body.results if k in begun)
            key = (step.body, copied, here)
            if key not in known:
                known[key] = len(traces)
                traces.append(tuple(_BodyWalk(self, step.body, copied, here).run()))
            order.append(known[key])
            begun.update(put.index for put in self.puts[step.body] if put.how == "merge")
        return Steps(tuple(traces), tuple(order), (*self.carries.values(), *self.merged.values()))

    def _rounds(self, pipeline: ir.Pipeline) -> Steps:
        """The rounds of a pipelined loop. Steps in flight together have slots of their own, though of one body."""
        stages = loop_stages(self.node)
        known: dict[object, StagedTrace] = {}
        walked: list[object] = []
        begun: set[int] = set()
        for i, step in enumerate(self.loop.steps):
            body = self.loop.bodies[step.body]
            copied = copied_operands(self.node, body, step)
            here = frozenset(k for k in body.results if k in begun)
            key = (step.body, copied, here, i % pipeline.in_flight)
            if key not in known:
                walk = _BodyWalk(self, step.body, copied, here, stages[step.body])
                known[key] = StagedTrace(walk.run_stages(pipeline.engines))
            walked.append(key)
            begun.update(put.index for put in self.puts[step.body] if put.how == "merge")
        return round_steps(known, walked, pipeline.in_flight, (*self.carries.values(), *self.merged.values()))


class _BodyWalk(_Walk):
    """One body. ``copied``: positions of operands that come as copies; ``begun``: results that have an accumulator."""

    def __init__(
        self,
        loop: _Bodies,
        index: int,
        copied: frozenset[int],
        begun: frozenset[int],
        stages: BodyStages | None = None,
    ) -> None:
        self.body = loop.loop.bodies[index]
        super().__init__(self.body.graph, loop.numbers, loop.temporaries)
        self.owner = loop
        self.stream = loop.stream
        self.stages = stages or BodyStages(self.body, ())
        self.stage = 0
        #: The stage that each storage was made in, and what goes when the round is done.
        self.made_in: dict[int, int] = {}
        self.crossing: list[Event] = []
        self.puts = loop.puts[index]
        self.copied = copied
        self.begun = begun
        self.placeholders = [node for node in self.nodes if node.op == "placeholder"]
        #: Slots of the copies that become carries.
        self.copies: dict[int, int | None] = {}

    def run(self) -> list[Event]:
        """All of it, in a loop that is not pipelined."""
        (events,) = self.run_stages((self.stream,))
        return events

    def run_stages(self, streams: Sequence[int]) -> list[list[Event]]:
        """The events of each stage. What only goes when the round is done stands at the end of its list."""
        direct = {put.node for put in self.puts if put.how == "direct"}
        held = {put.node for put in self.puts if put.how in ("late", "keep") or put.node.op == "placeholder"}
        self.plan_deaths(held)
        reads = self._first_uses()
        found: list[list[Event]] = []
        for self.stage, self.stream in enumerate(streams):
            self.events, self.crossing = [], []
            self._take_carries()
            for i in self.stages.span(self.stage):
                self._run_at(i, reads.get(i, ()), direct)
            self._at_end()
            found.append(self.events + self.crossing)
        return found

    def _run_at(self, i: int, reads: Sequence[fx.Node], direct: set[fx.Node]) -> None:
        node = self.nodes[i]
        for placeholder in reads:
            self._read(placeholder)
        if node.op in ("placeholder", "output"):
            return
        if node in direct:
            self._drop_all(i)
        else:
            self.run_node(i, node, after=[put for put in self.puts if put.node is node and put.how != "late"])

    def bind(self, node: fx.Node, slot: int | None) -> None:
        super().bind(node, slot)
        if slot is not None:
            self.made_in.setdefault(slot, self.stage)

    def free(self, slot: int) -> None:
        crosses = self.made_in.get(slot, self.stage) < self.stage
        (self.crossing if crosses else self.events).append(Free(slot))

    def put(self, put: Put) -> None:
        """What happens right after the node (for a placeholder: at the end)."""
        size = ir.nbytes(ir.val(put.node))
        if put.how == "copy":
            self.copies[put.index] = self.alloc(size, "carry")
        elif put.how == "merge":
            self._merge(put, size)

    def _merge(self, put: Put, size: int) -> None:
        to = self.owner.merged[put.index]
        if put.index in self.begun or not put.owned:
            slot = self.alloc(size, "accumulator")
            if put.index in self.begun:
                self._pass(self.temporaries(put.node, put.merge))
            self.hand_over(slot, to, "accumulator")
        else:
            self.hand_over(self.slot_of[put.node], to, "accumulator")

    def _take_carries(self) -> None:
        for carry, node in self.stages.carries_in.items():
            if self.stages.of(node) != self.stage:
                continue
            slot = next(self.numbers)
            self.events.append(Move(self.owner.carries[carry], slot, "carry"))
            self.bind(node, slot)
            self._drop_all(self.order[node])

    def _first_uses(self) -> dict[int, list[fx.Node]]:
        reads: dict[int, list[fx.Node]] = {}
        for node in self.placeholders[: len(self.body.operands)]:
            if node.users:
                reads.setdefault(min(self.order[user] for user in node.users), []).append(node)
        return reads

    def _read(self, node: fx.Node) -> None:
        copied = self.placeholders.index(node) in self.copied
        self.bind(node, self.alloc(ir.nbytes(ir.val(node)), "temporary") if copied else None)

    def _drop_all(self, i: int) -> None:
        for node in self.dying.get(i, []):
            self.drop(node)

    def _at_end(self) -> None:
        """Placeholders are put out, values that an in-place write would destroy are copied, carries are kept."""
        puts = [put for put in self.puts if self.stages.of_put(put) == self.stage]
        for put in puts:
            if put.node.op == "placeholder" and put.how != "late":
                self.put(put)
            elif put.how == "late" and not put.owned:
                self._replace_by_copy(put.node)
        for put in puts:
            if put.how == "keep":
                self.hand_over(self.slot_of[put.node], self.owner.carries[put.index], "carry")
            elif put.how == "copy":
                self.hand_over(self.copies[put.index], self.owner.carries[put.index], "carry")
        if self.stage == self.stages.last:
            for slot in list(self.names):
                self.free(slot)

    def _replace_by_copy(self, node: fx.Node) -> None:
        copy = self.alloc(ir.nbytes(ir.val(node)), "temporary")
        self.drop(node)
        self.bind(node, copy)
