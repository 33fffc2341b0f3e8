"""Plans one body of a loop for one way of entering it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import fx

from vgcomp import ir
from vgcomp.backends.tvm.layout import row_major
from vgcomp.backends.tvm.scope import Names, Scope
from vgcomp.backends.tvm.storage import Buffer, GraphPlan, Value, parts
from vgcomp.errors import InternalError
from vgcomp.loops import Put, plan_outputs, storage_root
from vgcomp.slices import slice_copies


@dataclass(frozen=True)
class Entry:
    """A way of entering a body: what exists already, what is read and written, and where the carries lie."""

    body: int
    merged: frozenset[int]
    whole: tuple[bool, ...]
    unwritten: tuple[bool, ...]
    carries_in: tuple[Buffer, ...]
    carries_out: tuple[Buffer, ...]


class LoopState:
    """What a loop's bodies share."""

    def __init__(self, node: fx.Node, name: str, operands: list[Value], results: list[Value]) -> None:
        self.node, self.name = node, name
        self.loop = ir.loop_of(node)
        self.operands, self.results = operands, results

    @cached_property
    def puts(self) -> tuple[tuple[Put, ...], ...]:
        """What becomes of each body's outputs."""
        return plan_outputs(self.node)

    @cached_property
    def most(self) -> tuple[dict[str, int], ...]:
        """For each body, the greatest position of each of its slices, by the scalar's name."""
        found: list[dict[str, int]] = [{} for _ in self.loop.bodies]
        for step in self.loop.steps:
            for name, start in self.scalars(step):
                known = found[step.body]
                known[name] = max(known.get(name, 0), start)
        return tuple(found)

    def scalars(self, step: ir.Step) -> Iterator[tuple[str, int]]:
        """The positions of a step's slices, each once."""
        found: dict[str, int] = {}
        for k, span in enumerate(step.reads):
            if span is not None and self.loop.operand_axes[k] is not None:
                found[self.read_scalar(k)] = span[0]
        for k, span in enumerate(step.writes):
            if span is not None:
                found[self.write_scalar(k)] = span[0]
        yield from found.items()

    def read_scalar(self, k: int) -> str:
        """The scalar with the position of operand k's slice."""
        return self._names[_starts(step.reads[k] for step in self.loop.steps)]

    def write_scalar(self, k: int) -> str:
        """The scalar with the position of result k's slice."""
        return self._names[_starts(step.writes[k] for step in self.loop.steps)]

    @cached_property
    def _names(self) -> dict[tuple[int | None, ...], str]:
        """One scalar for all slices that start at the same places, step by step."""
        found: dict[tuple[int | None, ...], str] = {}
        for spans in ([step.reads for step in self.loop.steps], [step.writes for step in self.loop.steps]):
            for column in zip(*spans, strict=True):
                found.setdefault(_starts(column), f"{self.name}_{len(found)}")
        return found


def _starts(spans: Iterable[ir.Span | None]) -> tuple[int | None, ...]:
    """Where a slice begins at each step."""
    return tuple(None if span is None else span[0] for span in spans)


class BodyScope(Scope):
    """A body under planning."""

    def __init__(self, names: Names, state: LoopState, entry: Entry, step: ir.Step) -> None:
        body = state.loop.bodies[entry.body]
        super().__init__(body.graph, GraphPlan(names.fresh(f"{state.name}_body")), names)
        self.state, self.entry, self.step, self.body = state, entry, step, body
        self.puts = state.puts[entry.body]
        self.most = state.most[entry.body]
        self._late: list[tuple[Value, Value]] = []

    def walk(self) -> None:
        """Plans every node, the reads before and the writes after it."""
        from vgcomp.backends.tvm.loop_plan import plan_loop

        end = len(self.nodes) - 1
        self._placeholders()
        self._prepare_puts()
        after: dict[fx.Node, list[Put]] = {}
        for put in self.puts:
            after.setdefault(put.node, []).append(put)
        reads = self._copied_reads()
        for i, node in enumerate(self.nodes):
            self.now = 2 * i
            for source, to in reads.get(i, []):
                to.buffer.first = to.buffer.last = self.now
                self.copy(source, to)
            if node.op in ("placeholder", "output"):
                continue
            if ir.is_loop(node):
                plan_loop(self, i, node)
            else:
                self.node(i, node)
            self.now = 2 * i + 1
            for put in after.get(node, []):
                self._put(put)
        self.now = 2 * end + 1
        for put in self.puts:
            if put.node.op == "placeholder":
                self._put(put)
        for value, to in self._late:
            self.copy(value, to)
        self.plan.pack()

    # -- what comes in

    def _placeholders(self) -> None:
        nodes = [node for node in self.nodes if node.op == "placeholder"]
        for node, k in zip(nodes, self.body.operands, strict=False):
            value = self._operand(node, k)
            if value is not None:
                self.values[node] = value
        for node, slot in zip(nodes[len(self.body.operands) :], self.entry.carries_in, strict=True):
            self.values[node] = Value(slot, row_major(ir.val(node).shape), ir.val(node).dtype)

    def _operand(self, node: fx.Node, k: int) -> Value | None:
        """An operand's slice as a view; None where it has to be copied."""
        value, axis, span = self.state.operands[k], self.state.loop.operand_axes[k], self.step.reads[k]
        if axis is None or span is None:
            return value
        if slice_copies(value.view.strides, axis, span):
            return None
        name = self.state.read_scalar(k)
        view = value.view.narrowed(axis, span[1] - span[0], name, self.most[name])
        pairs = zip(view.shape, view.strides, ir.val(node).stride(), strict=True)
        if any(n > 1 and a != b for n, a, b in pairs):
            raise InternalError(f"{self.state.node.name}: {node.name} lies otherwise than planned")
        return value.seen_as(view)

    def _copied_reads(self) -> dict[int, list[tuple[Value, Value]]]:
        """Copies of operand slices, by the node that first uses them."""
        index = {node: i for i, node in enumerate(self.nodes)}
        reads: dict[int, list[tuple[Value, Value]]] = {}
        nodes = [node for node in self.nodes if node.op == "placeholder"]
        for node, k in zip(nodes, self.body.operands, strict=False):
            if node in self.values or not node.users:
                continue
            value, axis, span = self.state.operands[k], self.state.loop.operand_axes[k], self.step.reads[k]
            assert axis is not None
            assert span is not None
            name = self.state.read_scalar(k)
            split = parts(value.view, axis, span[1] - span[0], name, self.most[name])
            own = Value(self.buffer(ir.nbytes(ir.val(node)), node.name), row_major(ir.val(node).shape), value.dtype)
            self.values[node] = own
            first = min(index[user] for user in node.users)
            reads.setdefault(first, []).append((value.seen_as(split), own.seen_as(row_major(split.shape))))
        return reads

    # -- what goes out

    def _prepare_puts(self) -> None:
        """Says where values lie that need no copy to be put out."""
        for put in self.puts:
            if put.node.op == "placeholder":
                continue
            if put.how == "direct" or (put.how == "write" and self._stores(put)):
                target = self._target(put.index)
                if target is not None:
                    self.direct[put.node] = target
            elif put.how == "merge" and put.owned and put.index not in self.entry.merged:
                self.given[storage_root(put.node)] = self.state.results[put.index].buffer
            elif put.how == "keep":
                self.given[storage_root(put.node)] = self._carry(put.index)

    def _stores(self, put: Put) -> bool:
        """True where a node's own kernel can store into the result, as nothing else reads its value."""
        node, spec = put.node, self.state.loop.results[put.index]
        if node.op != "call_function" or ir.is_loop(node) or ir.is_getitem(node) or "reuse" in node.meta:
            return False
        if storage_root(node) != (node, 0) or len(node.users) > 1 or ir.val(node).dtype != spec.dtype:
            return False
        outputs: tuple[fx.Node, ...] = self.body.graph.output_node().args[0]  # type: ignore[assignment]
        assert spec.axis is not None
        return outputs.count(node) == 1 and spec.axis.outer == 1 and self.step.writes[put.index] is not None

    def _target(self, k: int) -> Value | None:
        """The slice of result ``k``; None where this step does not write it."""
        spec, span = self.state.loop.results[k], self.step.writes[k]
        if span is None:
            return None
        assert spec.axis is not None
        name = self.state.write_scalar(k)
        result = self.state.results[k]
        return result.seen_as(result.view.narrowed(spec.axis, span[1] - span[0], name, self.most[name]))

    def _carry(self, carry: int) -> Buffer:
        return self.entry.carries_out[self.body.carries_out.index(carry)]

    def _put(self, put: Put) -> None:
        """Puts out a node's value, right after it."""
        value = self.values[put.node]
        if put.node in self.direct:
            return
        if put.how == "merge":
            self._merge(put, value)
        elif put.how == "copy":
            self.copy(value, Value(self._carry(put.index), row_major(value.view.shape), value.dtype))
        elif put.how in ("write", "late", "direct"):
            self._write(put, value)

    def _merge(self, put: Put, value: Value) -> None:
        total = self.state.results[put.index]
        if put.index not in self.entry.merged:
            if value.buffer is not total.buffer:
                self.copy(value, total)
            return
        made = Value(self.buffer(ir.nbytes(ir.val(put.node))), row_major(value.view.shape), value.dtype)
        self.run(put.merge, (total, value), {}, made)
        self.copy(made, total)

    def _write(self, put: Put, value: Value) -> None:
        """Copies a value into its slice; late where the result lies over an operand that is still read."""
        spec, span = self.state.loop.results[put.index], self.step.writes[put.index]
        if span is None:
            return
        assert spec.axis is not None
        result, name = self.state.results[put.index], self.state.write_scalar(put.index)
        to = parts(result.view, spec.axis, span[1] - span[0], name, self.most[name])
        source = value.seen_as(parts(value.view, _own_axis(spec.axis, span), span[1] - span[0], "", 0))
        if put.how != "late":
            self.copy(source, result.seen_as(to))
            return
        if not put.owned:
            aside = Value(self.buffer(ir.nbytes(ir.val(put.node))), row_major(source.view.shape), value.dtype)
            self.copy(source, aside)
            source = aside
        self._late.append((source, result.seen_as(to)))


def _own_axis(axis: ir.Axis, span: ir.Span) -> ir.Axis:
    """The axis as it runs in the slice itself."""
    return ir.Axis(axis.dim, span[1] - span[0], axis.outer, axis.inner)
