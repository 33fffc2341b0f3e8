"""A lower bound on the peak of activation bytes over *every* execution order of a graph.

While op ``v`` runs, some set ``D`` of ops has run before it. ``D`` is a downset (it holds the
ancestors of each of its members), holds the ancestors of ``v`` and neither ``v`` nor a descendant.
Live then are the graph's inputs, the results of ``v``, and each buffer born in ``D`` that an op
outside ``D`` (``v`` is one) still reads or that is an output. The least of that over all such ``D``
is a minimum cut; no order can run ``v`` in less, so the largest over ``v`` bounds the peak from below.

Few cuts are needed. The ops that are neither ancestors nor descendants of ``v`` are the only freedom
(at the narrow waists of a network there are none). The order given and two extreme downsets bound each
cut from above, the buffers that are live in every downset bound it from below; both come from a few
matrix products over ancestor bits, and only ops whose interval reaches above the best bound so far are
cut exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from vgcomp import inplace as _inplace
from vgcomp import ir, memory
from vgcomp.loops import alias_base, operands_of
from vgcomp.max_flow import Network
from vgcomp.program import Program

#: Cut work (flow edges summed over cuts) after which the best bound so far is returned; it is a true one.
CUT_BUDGET = 250_000
_ROWS = 64  # ops a block of the bit-matrix products

_Bools = npt.NDArray[np.bool_]
_Bytes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bound:
    """``bytes``: no order peaks below it. ``node``: the op that cannot run in less ("" for the outputs alone)."""

    bytes: int
    node: str


@dataclass(frozen=True, slots=True)
class Task:
    """One op as the bound sees it: buffers by index, bytes.

    ``extra`` is live only while the op runs; negative where a result always takes an input's place.
    ``reuse`` lists (buffer read, bytes saved): should the buffer die here, a result may take its place.
    """

    name: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    extra: int = 0
    reuse: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """Ops in a topological order over buffers.

    ``sizes``: bytes a buffer. ``kept``: buffers that live to the end. ``base``: bytes always live.
    A buffer is written by exactly one task.
    """

    tasks: tuple[Task, ...]
    sizes: tuple[int, ...]
    kept: frozenset[int]
    base: int = 0


def lower_bound_bytes(program: Program | fx.Graph, *, inplace: bool = False) -> Bound:
    """Least possible peak of activation bytes (inputs, outputs and temporaries) in any order of the graph's ops.

    Inputs are live throughout, outputs from when they are made. A loop is one op with the peak of its
    inside. With ``inplace``, an elementwise op may take the buffer of an input that dies in it; without,
    every op's result has a buffer of its own.
    """
    graph = program.graph if isinstance(program, Program) else program
    return solve(problem_of(graph, inplace=inplace))


def solve(problem: Problem) -> Bound:
    """The bound of an abstract :class:`Problem`."""
    ending = Bound(problem.base + sum(problem.sizes[b] for b in problem.kept), "")
    if not problem.tasks:
        return ending
    rel = _Relations.of(problem)
    best, node, candidates = _quick(problem, rel)
    spent = 0
    for high, v in candidates:
        if high <= best or spent > CUT_BUDGET:
            break
        exact, edges = _least_at(problem, rel, v)
        spent += edges
        if exact > best:
            best, node = exact, v
    bound = Bound(best + problem.base, problem.tasks[node].name)
    return max(bound, ending, key=lambda found: found.bytes)


# -- from a graph ---------------------------------------------------------------------------------


def problem_of(graph: fx.Graph, *, inplace: bool = False) -> Problem:
    """The graph's ops over its activation buffers; views own nothing and run at no cost."""
    buffers = _Buffers()
    tasks: list[Task] = []
    for node in graph.nodes:
        if node.op == "placeholder":
            buffers.fixed(node, ir.nbytes(ir.val(node)))
        elif node.op == "get_attr":
            buffers.fixed(node, 0)
        elif node.op == "output":
            buffers.keep(node)
        elif ir.is_getitem(node):
            buffers.project(node)
        elif ir.is_loop(node):
            tasks.append(_loop_task(node, buffers))
        elif (base := alias_base(node)) is None:
            tasks.append(_task(node, buffers, inplace))
        elif "reuse" in node.meta:
            tasks.append(_overwriting_task(node, base, buffers))
        else:
            buffers.share(node, base)
    return Problem(tuple(tasks), tuple(buffers.sizes), frozenset(buffers.kept), buffers.base)


class _Buffers:
    """Which buffer each value lives in: None for weights and graph inputs, which are not scheduled."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.kept: set[int] = set()
        self.base = 0
        self._of: dict[fx.Node, int | None] = {}
        self._results: dict[fx.Node, list[int | None]] = {}

    def fixed(self, node: fx.Node, nbytes: int) -> None:
        self._of[node] = None
        self.base += nbytes

    def share(self, node: fx.Node, base: fx.Node) -> None:
        self._of[node] = self._of[base]

    def make(self, node: fx.Node, size: int) -> int:
        """A buffer of ``size`` bytes that is the value of ``node``."""
        self._of[node] = made = self.new(size)
        return made

    def new(self, size: int) -> int:
        self.sizes.append(size)
        return len(self.sizes) - 1

    def results(self, node: fx.Node, made: list[int | None]) -> None:
        """The buffers of a loop's results."""
        self._results[node] = made

    def project(self, node: fx.Node) -> None:
        source, index = node.args
        assert isinstance(source, fx.Node)
        assert isinstance(index, int)
        self._of[node] = self._results[source][index]

    def keep(self, output: fx.Node) -> None:
        self.kept.update(b for n in output.all_input_nodes if (b := self._of[n]) is not None)

    def of(self, node: fx.Node) -> int | None:
        return self._of[node]

    def read_by(self, node: fx.Node) -> tuple[int, ...]:
        """Buffers that a node reads, each once."""
        return tuple(dict.fromkeys(b for n in node.all_input_nodes if (b := self._of[n]) is not None))


def _task(node: fx.Node, buffers: _Buffers, inplace: bool) -> Task:
    reads = buffers.read_by(node)
    size = ir.nbytes(ir.val(node))
    reuse: tuple[tuple[int, int], ...] = ()
    if inplace and _inplace.can_reuse(node.target):
        reuse = tuple((b, size) for b in reads if buffers.sizes[b] >= size)
    return Task(node.name, reads, (buffers.make(node, size),), 0, reuse)


def _overwriting_task(node: fx.Node, base: fx.Node, buffers: _Buffers) -> Task:
    """An op that always writes over ``base``: its buffer is the old one under a new name."""
    reads, old = buffers.read_by(node), buffers.of(base)
    if old is None:
        buffers.share(node, base)
        return Task(node.name, reads, ())
    size = buffers.sizes[old]
    return Task(node.name, reads, (buffers.make(node, size),), -size)


def _loop_task(node: fx.Node, buffers: _Buffers) -> Task:
    """A loop adds its results, less those written over an operand, and what its bodies hold."""
    operands = operands_of(node)
    made: list[int | None] = []
    new: list[int] = []
    overwritten = late = 0
    for result in ir.loop_of(node).results:
        old = None if result.into is None else buffers.of(operands[result.into])
        if result.into is not None and old is None:
            made.append(None)
            continue
        if old is not None:
            size = buffers.sizes[old]
            overwritten += size
        else:
            size = max(torch.Size(result.shape).numel() * result.dtype.itemsize, result.capacity)
        # A combined result takes over its accumulator, part of what the loop holds, at the end.
        late += size if result.combine is not None else 0
        new.append(buffers.new(size))
        made.append(new[-1])
    buffers.results(node, made)
    inside = max(memory.loop_bytes(node) - late, 0)
    return Task(node.name, buffers.read_by(node), tuple(new), inside - overwritten)


# -- relations between ops ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Relations:
    """Who makes, reads and depends on what. Bit rows are packed, one row an op."""

    birth: list[int]  # task that writes each buffer
    users: list[list[int]]  # tasks that read each buffer
    preds: list[list[int]]
    ancestors: npt.NDArray[np.uint8]
    descendants: npt.NDArray[np.uint8]

    @staticmethod
    def of(problem: Problem) -> _Relations:
        n = len(problem.tasks)
        birth = [0] * len(problem.sizes)
        users: list[list[int]] = [[] for _ in problem.sizes]
        preds: list[list[int]] = []
        for t, task in enumerate(problem.tasks):
            for b in task.reads:
                users[b].append(t)
            preds.append(sorted({birth[b] for b in task.reads}))
            for b in task.writes:
                birth[b] = t
        succs: list[list[int]] = [[] for _ in range(n)]
        for t, before in enumerate(preds):
            for p in before:
                succs[p].append(t)
        forward = _closure(preds, range(n))
        backward = _closure(succs, range(n - 1, -1, -1))
        return _Relations(birth, users, preds, forward, backward)

    def rows(self, packed: npt.NDArray[np.uint8], which: npt.NDArray[np.int64] | list[int]) -> _Bools:
        """Rows ``which`` of a bit matrix, unpacked."""
        bits = np.unpackbits(packed[which], axis=1, count=len(self.preds), bitorder="little")
        return bits.astype(np.bool_)

    def ordered_after(self, early: int, late: int) -> bool:
        """True when ``late`` depends on ``early``."""
        return bool(self.descendants[early, late >> 3] >> (late & 7) & 1)


def _closure(neighbours: Sequence[Sequence[int]], order: Sequence[int] | range) -> npt.NDArray[np.uint8]:
    """Transitive closure as packed bit rows; ``order`` visits neighbours first."""
    n = len(neighbours)
    out = np.zeros((n, (n + 7) // 8), dtype=np.uint8)
    for t in order:
        row = out[t]
        for p in neighbours[t]:
            np.bitwise_or(row, out[p], out=row)
            row[p >> 3] |= 1 << (p & 7)
    return out


# -- quick intervals -----------------------------------------------------------------------------


def _quick(problem: Problem, rel: _Relations) -> tuple[int, int, list[tuple[int, int]]]:
    """(Best bound without a cut, its op, [(bytes at most, op)] of the ops that might give a better one, largest first).

    The order given is an order, too: ops that it runs in less than the best bound need no look.
    """
    given = _in_given_order(problem, rel)
    by_given = np.argsort(-given, kind="stable")
    readers = _Readers.of(problem, rel)
    best, node = -1, 0
    candidates: list[tuple[int, int]] = []
    for start in range(0, len(by_given), _ROWS):
        block = by_given[start : start + _ROWS]
        if given[block[0]] <= best:
            break
        low, high = _intervals(problem, rel, readers, block)
        candidates += zip(np.minimum(high, given[block]).tolist(), block.tolist())
        top = int(low.argmax())
        if low[top] > best:
            best, node = int(low[top]), int(block[top])
    return best, node, sorted((c for c in candidates if c[0] > best), reverse=True)


def _in_given_order(problem: Problem, rel: _Relations) -> _Bytes:
    """Bytes while each op runs, in the order given and without reuse."""
    n = len(problem.tasks)
    change = np.zeros(n + 1, dtype=np.int64)
    for b, size in enumerate(problem.sizes):
        change[rel.birth[b]] += size
        end = n if b in problem.kept else max(rel.users[b], default=rel.birth[b]) + 1
        change[end] -= size
    live: _Bytes = np.cumsum(change)[:n] + np.array([task.extra for task in problem.tasks], dtype=np.int64)
    return live


@dataclass(frozen=True)
class _Readers:
    """Who reads each buffer that is read at all, in one array: ``flat[starts[i]:starts[i + 1]]``."""

    flat: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    birth: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.float64]  # exact below 2**53

    @staticmethod
    def of(problem: Problem, rel: _Relations) -> _Readers:
        # An output has a reader past the end (number n), which no downset holds.
        n = len(problem.tasks)
        all_readers = [users + [n] * (b in problem.kept) for b, users in enumerate(rel.users)]
        read = [b for b, readers in enumerate(all_readers) if readers]
        lengths = [len(all_readers[b]) for b in read]
        return _Readers(
            np.array([u for b in read for u in all_readers[b]], dtype=np.int64),
            np.cumsum([0, *lengths[:-1]], dtype=np.int64),
            np.array([rel.birth[b] for b in read], dtype=np.int64),
            np.array([problem.sizes[b] for b in read], dtype=np.float64),
        )


def _intervals(
    problem: Problem, rel: _Relations, readers: _Readers, block: npt.NDArray[np.int64]
) -> tuple[_Bytes, _Bytes]:
    """For each op of ``block`` a value at most, and one at least, the exact minimum; equal where nothing is free."""
    own = np.array([_own_bytes(problem, rel, v) for v in block.tolist()], dtype=np.int64)
    if not len(readers.flat):
        return own[:, 0], own[:, 1]
    rows = np.arange(len(block))
    before = np.pad(rel.rows(rel.ancestors, block), ((0, 0), (0, 1)))
    after = np.pad(rel.rows(rel.descendants, block), ((0, 0), (0, 1)), constant_values=True)
    after[rows, block] = True
    held = np.logical_or.reduceat(after[:, readers.flat], readers.starts, axis=1)
    done = np.logical_and.reduceat(before[:, readers.flat], readers.starts, axis=1)
    born = before[:, readers.birth]
    certain = (born & held) @ readers.sizes
    smallest = (born & ~done) @ readers.sizes  # the downset of the ancestors alone
    largest = (~after[:, readers.birth] & held) @ readers.sizes  # of all but v and its descendants
    return own[:, 0] + certain.astype(np.int64), own[:, 1] + np.minimum(smallest, largest).astype(np.int64)


def _own_bytes(problem: Problem, rel: _Relations, v: int) -> tuple[int, int]:
    """Bytes that an op itself adds: with the best reuse that some order allows, and with the best that all do."""
    task = problem.tasks[v]
    own = task.extra + sum(problem.sizes[b] for b in task.writes)
    options = [(b, saved) for b, saved in task.reuse if _may_die_at(problem, rel, b, v)]
    sole = [saved for b, saved in options if rel.users[b] == [v]]
    return own - max((saved for _, saved in options), default=0), own - max(sole, default=0)


def _may_die_at(problem: Problem, rel: _Relations, buffer: int, v: int) -> bool:
    """True if some order has ``v`` read ``buffer`` last."""
    if buffer in problem.kept:
        return False
    return not any(rel.ordered_after(v, u) for u in rel.users[buffer] if u != v)


# -- the exact minimum at one op -----------------------------------------------------------------


def _least_at(problem: Problem, rel: _Relations, v: int) -> tuple[int, int]:
    """(Least bytes while ``v`` runs, flow edges spent), without the base."""
    task = problem.tasks[v]
    own = task.extra + sum(problem.sizes[b] for b in task.writes)
    cut, edges = _least_live(problem, rel, v, ())
    least = own + cut
    for b, saved in task.reuse:
        if not _may_die_at(problem, rel, b, v):
            continue
        others = tuple(u for u in rel.users[b] if u != v)
        cut, more = _least_live(problem, rel, v, others)
        least, edges = min(least, own - saved + cut), edges + more
    return least, edges


def _least_live(problem: Problem, rel: _Relations, v: int, forced: tuple[int, ...]) -> tuple[int, int]:
    """Least bytes born in a downset and needed past it, where the downset also holds ``forced``; and edges used."""
    before = rel.rows(rel.ancestors, [v])[0]
    after = rel.rows(rel.descendants, [v])[0]
    after[v] = True
    for u in forced:
        before |= rel.rows(rel.ancestors, [u])[0]
        before[u] = True
    free = ~(before | after)
    certain = 0
    network = Network()
    for u in np.flatnonzero(free).tolist():
        vertex = network.vertex(u)
        for p in rel.preds[u]:
            if free[p]:
                network.edge(vertex, network.vertex(p), None)
    for b, size in enumerate(problem.sizes):
        origin = rel.birth[b]
        if after[origin] or not size:
            continue
        needed = b in problem.kept or bool(after[rel.users[b]].any())
        if before[origin] and needed:
            certain += size
            continue
        start = network.SOURCE if before[origin] else network.vertex(origin)
        if needed:
            network.edge(start, network.SINK, size)
            continue
        pending = [u for u in rel.users[b] if free[u]]
        _charge(network, start, pending, size)
    return certain + network.max_flow(), network.n_edges


def _charge(network: Network, start: int, readers: list[int], size: int) -> None:
    """``size`` is paid once if ``start`` is in the downset and any of the readers is not."""
    if not readers:
        return
    if len(readers) == 1:
        network.edge(start, network.vertex(readers[0]), size)
        return
    joint = network.new_vertex()
    network.edge(start, joint, size)
    for u in readers:
        network.edge(joint, network.vertex(u), None)
