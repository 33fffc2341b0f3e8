"""The planning problem: a fixed order of ops, their buffers, and what each costs unsliced.

Everything that a plan's memory depends on outside a region is a prefix sum here: while the ops
``[i, j)`` run as a region, the bytes that cross it are fixed by ``i`` and ``j`` alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import fx

from vgcomp import ir
from vgcomp.axes import AxisMap
from vgcomp.cost_models.base import CostModel, OpWork
from vgcomp.cost_models.work import work_of
from vgcomp.ir import Axis
from vgcomp.memory import Buffer, Liveness, Workspace, alias_base, inner_bytes
from vgcomp.targets import Target

if TYPE_CHECKING:
    from vgcomp.slicing.memo import Memo

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass
class Problem:
    """Ops ``nodes[i]`` in order. Position i is the boundary before op i."""

    graph: fx.Graph
    nodes: list[fx.Node]
    index: dict[fx.Node, int]
    amap: AxisMap
    target: Target
    cost_model: CostModel
    #: Buffer of each op's output and each input; first/last are op indices (-1: before, len: after).
    buffer: dict[fx.Node, Buffer]
    first: dict[int, int]
    last: dict[int, int]
    works: list[OpWork | None]
    seconds: Floats
    #: Bytes live while op i runs unsliced; bytes that live across boundary i.
    plain_peak: Ints
    crossing: Ints
    #: True where op i makes no storage of its own (a view).
    is_view: list[bool]
    #: Dense bytes of every value, weights and inputs included.
    size: dict[fx.Node, int]
    #: A number for each op, the same for ops of equal work.
    alike: list[int]
    #: Bytes that each op holds inside itself while it runs.
    inner: list[int]
    #: Which kind of bytes those are.
    workspace: Workspace
    #: What growths through the problem found, see :mod:`vgcomp.slicing.memo`.
    memo: Memo | None = None
    #: Where the slices of a value lie in memory, by value and axis.
    places: dict[tuple[fx.Node, Axis], tuple[Any, ...] | None] = field(default_factory=dict)
    #: What ops hold inside themselves on slices, by op and axis (:mod:`vgcomp.slicing.inner`).
    inner_slices: dict[tuple[int, Axis], tuple[float, float]] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.nodes)

    def born(self, node: fx.Node) -> int:
        return self.first[id(self.buffer[node])]

    def dies(self, node: fx.Node) -> int:
        """Index of the op that last uses the node's buffer; ``n`` for outputs and inputs."""
        return self.last[id(self.buffer[node])]


#: Buffers that are there before the first op: a graph's own, and those of a body.
_GIVEN = ("input", "weight", "operand", "carry")


def make_problem(
    graph: fx.Graph, target: Target, cost_model: CostModel, liveness: Liveness, workspace: Workspace = "none"
) -> Problem:
    """The problem of a prepared graph (norms split, reuse assigned) with its liveness, taken with that workspace."""
    every = list(graph.nodes)
    nodes = [n for n in every if n.op == "call_function"]
    index = {node: i for i, node in enumerate(nodes)}
    position = _op_positions(every)
    first = {id(b): position[b.first] if b.kind not in _GIVEN else -1 for b in liveness.buffers}
    last = {id(b): position[b.last] for b in liveness.buffers}
    works = [_work(node) for node in nodes]
    seconds = np.array([cost_model.op_seconds(w, target).seconds if w is not None else 0.0 for w in works])
    crossing = np.zeros(len(nodes) + 1, dtype=np.int64)
    for b in liveness.buffers:
        crossing[first[id(b)] + 1 : last[id(b)] + 1] += b.size
    at = dict(zip(every, liveness.at, strict=True))
    plain = np.array([at[n] for n in nodes], dtype=np.int64)
    views = [alias_base(n) is not None and "reuse" not in n.meta for n in nodes]
    numbers: dict[OpWork | None, int] = {}
    alike = [numbers.setdefault(work, len(numbers)) for work in works]
    inner = [inner_bytes(workspace, n, how="reuse" if "reuse" in n.meta else "new") for n in nodes]
    return Problem(
        graph, nodes, index, AxisMap(), target, cost_model, liveness.buffer_of, first, last, works, seconds,
        plain, crossing, views, {n: ir.nbytes(ir.val(n)) for n in every if n.op != "output"}, alike, inner, workspace,
    )  # fmt: skip


def _op_positions(every: list[fx.Node]) -> list[int]:
    """For each graph node, the index of the first op at or after it (the output node: their number)."""
    found, ops = [], 0
    for node in every:
        found.append(ops)
        ops += node.op == "call_function"
    return found


def _work(node: fx.Node) -> OpWork | None:
    if ir.is_loop(node) or ir.is_getitem(node):
        return None
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    return work_of(node.target, args, kwargs, node.meta["val"])
