"""The stages of a pipelined loop: what runs side by side, and why a cut may not.

Round r runs stage s of step r - s. Two pieces of work of different steps therefore run side by side, or in another
order than one step after the other would have them, only where the later step is in an earlier stage. So a loop may
be cut where nothing goes from a later stage of one step to an earlier stage of the next:

* a **carry** is taken, at its first use, in the very stage in which it is made, the same in all bodies, and not used
  after that stage by the step that makes it;
* an **accumulator** is merged in one stage, the same in all bodies;
* a result that goes **into** an operand's storage is written in no earlier stage than the last that reads the operand.

Everything else a slice has to itself. A value made in one stage and used in a later one is let go only at the end of
the round in which it is used last: engines wait for each other there and nowhere else.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property

from torch import fx

from vgcomp import ir
from vgcomp.loops import Put, Root, operands_of, plan_outputs, storage_root

#: What runs in a round: (stage, step), the step furthest on first.
Round = tuple[tuple[int, int], ...]


def rounds(n_steps: int, n_stages: int) -> Iterator[Round]:
    """The rounds of a loop, filling and draining included."""
    for r in range(n_steps + n_stages - 1):
        yield tuple((s, r - s) for s in reversed(range(n_stages)) if 0 <= r - s < n_steps)


class BodyStages:
    """The stages of one body, cut before the nodes at ``cuts``."""

    def __init__(self, body: ir.Body, cuts: Sequence[int]) -> None:
        self.body = body
        self.cuts = tuple(cuts)
        self.nodes = list(body.graph.nodes)
        self.order = {node: i for i, node in enumerate(self.nodes)}

    @property
    def last(self) -> int:
        """The last stage."""
        return len(self.cuts)

    def span(self, stage: int) -> range:
        """The positions of a stage's nodes."""
        bounds = (0, *self.cuts, len(self.nodes))
        return range(bounds[stage], bounds[stage + 1])

    def at(self, position: int) -> int:
        """The stage of the node at a position."""
        return bisect_right(self.cuts, position)

    def of(self, node: fx.Node) -> int:
        """The stage in which a node's value comes to be; a placeholder's where it is used first."""
        if node.op != "placeholder":
            return self.at(self.order[node])
        return min((self.at(self.order[user]) for user in node.users), default=self.last)

    def last_use(self, node: fx.Node) -> int:
        """The last stage in which an op uses the storage that a value lies in, by whatever name."""
        return self._uses.get(storage_root(node), self.of(node))

    @cached_property
    def _uses(self) -> dict[Root, int]:
        found: dict[Root, int] = {}
        for i, node in enumerate(self.nodes):
            if node.op != "call_function":
                continue
            for used in (node, *node.all_input_nodes):
                root = storage_root(used)
                found[root] = max(found.get(root, 0), self.at(i))
        return found

    def of_put(self, put: Put) -> int:
        """The stage in which an output is put out."""
        if put.how == "late" or put.node.op == "placeholder":
            return self.last
        return self.of(put.node)

    @cached_property
    def carries_in(self) -> dict[int, fx.Node]:
        """The placeholder of each carry that the body takes."""
        placeholders = [node for node in self.nodes if node.op == "placeholder"]
        return dict(zip(self.body.carries_in, placeholders[len(self.body.operands) :], strict=True))

    def storage_stage(self, node: fx.Node) -> int:
        """The stage in which the storage that a value lies in comes to be."""
        return self.of(storage_root(node)[0])


def loop_stages(node: fx.Node) -> tuple[BodyStages, ...]:
    """The stages of each body of a pipelined loop node."""
    loop = ir.loop_of(node)
    assert loop.pipeline is not None
    return tuple(BodyStages(body, cuts) for body, cuts in zip(loop.bodies, loop.pipeline.cuts, strict=True))


def pipeline_complaints(node: fx.Node) -> Iterator[str]:
    """What is wrong with a loop node's pipeline; nothing where it has none."""
    loop = ir.loop_of(node)
    if loop.pipeline is None:
        return
    found = list(_shape_complaints(loop, loop.pipeline))
    yield from found or dependence_complaints(node, loop_stages(node), plan_outputs(node))


def _shape_complaints(loop: ir.Loop, pipeline: ir.Pipeline) -> Iterator[str]:
    if len(pipeline.cuts) != len(loop.bodies):
        yield f"its pipeline cuts {len(pipeline.cuts)} bodies of {len(loop.bodies)}"
        return
    engines = set(pipeline.engines)
    if pipeline.in_flight < 2 or engines != set(range(len(engines))):
        yield f"its pipeline has the stages' engines {list(pipeline.engines)}"
    for i, (body, cuts) in enumerate(zip(loop.bodies, pipeline.cuts, strict=True)):
        ops = [node.op for node in body.graph.nodes]
        allowed = range(ops.count("placeholder"), len(ops))
        if len(cuts) != pipeline.in_flight - 1 or list(cuts) != sorted(cuts) or any(c not in allowed for c in cuts):
            yield f"body {i} of {len(ops)} nodes is cut at {list(cuts)} for {pipeline.in_flight} stages"
        if any(has_pipeline(inner) for inner in body.graph.nodes):
            yield f"body {i} has a pipelined loop within a pipelined one"


def n_engines(graph: fx.Graph) -> int:
    """How many engines run a graph, loops' bodies included."""
    return max((_engines_of(ir.loop_of(node)) for node in graph.nodes if ir.is_loop(node)), default=1)


def _engines_of(loop: ir.Loop) -> int:
    own = 1 if loop.pipeline is None else max(loop.pipeline.engines) + 1
    return max(own, *(n_engines(body.graph) for body in loop.bodies))


def has_pipeline(node: fx.Node) -> bool:
    """True for a pipelined loop, and for one with such a loop in a body."""
    if not ir.is_loop(node):
        return False
    loop = ir.loop_of(node)
    if loop.pipeline is not None:
        return True
    return any(has_pipeline(inner) for body in loop.bodies for inner in body.graph.nodes)


def dependence_complaints(node: fx.Node, stages: Sequence[BodyStages], puts: Sequence[Sequence[Put]]) -> Iterator[str]:
    """Why steps cut into these stages may not overlap."""
    yield from _carry_complaints(stages, puts)
    yield from _merge_complaints(stages, puts)
    yield from _overwrite_complaints(node, stages, puts)


def _carry_complaints(stages: Sequence[BodyStages], puts: Sequence[Sequence[Put]]) -> Iterator[str]:
    found: dict[int, set[int]] = {}
    for body, outputs in zip(stages, puts, strict=True):
        for carry, placeholder in body.carries_in.items():
            found.setdefault(carry, set()).add(body.of(placeholder))
        for put in outputs:
            if put.how not in ("keep", "copy"):
                continue
            found.setdefault(put.index, set()).add(body.of_put(put))
            if put.how == "keep" and body.last_use(put.node) > body.of_put(put):
                yield f"carry {put.index} is used in a later stage by the slice that makes it"
    for carry, where in sorted(found.items()):
        if len(where) > 1:
            yield f"carry {carry}: the next slice takes in stage {min(where)} what a slice makes in stage {max(where)}"


def _merge_complaints(stages: Sequence[BodyStages], puts: Sequence[Sequence[Put]]) -> Iterator[str]:
    found: dict[int, set[int]] = {}
    for body, outputs in zip(stages, puts, strict=True):
        for put in outputs:
            if put.how != "merge":
                continue
            found.setdefault(put.index, set()).add(body.of_put(put))
            if put.owned and body.last_use(put.node) > body.of_put(put):
                yield f"the accumulator of result {put.index} is used in a later stage"
    yield from (f"result {k} is merged in stages {sorted(w)}" for k, w in sorted(found.items()) if len(w) > 1)


def _overwrite_complaints(node: fx.Node, stages: Sequence[BodyStages], puts: Sequence[Sequence[Put]]) -> Iterator[str]:
    loop, operands = ir.loop_of(node), operands_of(node)
    for k, result in enumerate(loop.results):
        if result.into is None:
            continue
        root = storage_root(operands[result.into])
        reads = max((_last_read(body, operands, root) for body in stages), default=0)
        writes = [body.of_put(put) for body, outputs in zip(stages, puts, strict=True) for put in _of(outputs, k)]
        if writes and min(writes) < reads:
            yield f"result {k} overwrites in stage {min(writes)} what the slice before still reads in stage {reads}"


def _of(puts: Sequence[Put], result: int) -> Iterator[Put]:
    return (put for put in puts if put.index == result and put.how in ("direct", "write", "late"))


def _last_read(body: BodyStages, operands: Sequence[fx.Node], root: tuple[fx.Node, int]) -> int:
    """The last stage in which a body reads an operand that lies in ``root``, by whatever name."""
    shown = zip((node for node in body.nodes if node.op == "placeholder"), body.body.operands, strict=False)
    return max(
        (body.last_use(node) for node, k in shown if storage_root(operands[k]) == root and node.users), default=0
    )
