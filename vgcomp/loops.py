"""How a loop's body puts out its results and carries: in place, by a copy, merged, or kept.

The runtime does what :func:`plan_outputs` says, ``vgcomp.memory`` counts it and ``vgcomp.simulate`` times it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx

from vgcomp import ir
from vgcomp.inplace import can_write
from vgcomp.slices import contiguous_strides, is_contiguous, slice_copies, view_strides

aten = torch.ops.aten

#: The op that merges two values of a combined result.
MERGE_OPS: dict[ir.Combine, Any] = {
    "moments": torch.ops.vgcomp.merge_moments.default,
    "softmax": torch.ops.vgcomp.merge_softmax.default,
}

#: A storage: the node that makes it (and which of its results).
Root = tuple[fx.Node, int]

How = Literal["direct", "write", "late", "merge", "keep", "copy"]


@dataclass(frozen=True, slots=True)
class Put:
    """What becomes of one output of a body.

    * ``direct``: the op itself writes into the result's slice; the value never exists by itself.
    * ``write``: copied into the result's slice right after its node.
    * ``late``: the same at the end of the body, where the result overwrites an operand.
    * ``merge``: into the accumulator, right after its node.
    * ``keep``: the value itself becomes the carry.
    * ``copy``: a contiguous copy made right after its node becomes the carry.

    Outputs that are placeholders are put out at the end.
    """

    node: fx.Node
    how: How
    #: Index of the loop's result, or of the carry for ``keep`` and ``copy``.
    index: int
    #: ``merge``: the first value needs no copy to become the accumulator.
    #: ``late``: False where the value is a view of an operand and is copied aside before anything is written.
    owned: bool = True
    #: ``merge``: the op that does it.
    merge: Any = None


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


def operands_of(node: fx.Node) -> Sequence[fx.Node]:
    """The operands of a loop node."""
    return node.args[1]  # type: ignore[return-value]


def weights_of(loop: ir.Loop) -> dict[str, Tensor]:
    """The weights that a loop's bodies use, those of loops within them too: name -> value."""
    found: dict[str, Tensor] = {}
    for body in loop.bodies:
        for node in body.graph.nodes:
            if node.op == "get_attr":
                found[str(node.target)] = ir.val(node)
            elif ir.is_loop(node):
                found |= weights_of(ir.loop_of(node))
    return found


def output_nodes(graph: fx.Graph) -> tuple[fx.Node, ...]:
    """What a graph returns."""
    return tuple(graph.output_node().args[0])  # type: ignore[arg-type]


def storage_root(node: fx.Node) -> Root:
    """The node (and which of its results) whose storage a value lies in; equal roots mean the same storage."""
    while True:
        if ir.is_getitem(node):
            source, k = node.args
            assert isinstance(source, fx.Node)
            assert isinstance(k, int)
            into = ir.loop_of(source).results[k].into
            if into is None:
                return source, k
            node = operands_of(source)[into]
            continue
        base = alias_base(node)
        if base is None:
            return node, 0
        node = base


def copied_operands(node: fx.Node, body: ir.Body, step: ir.Step) -> frozenset[int]:
    """Positions in ``body.operands`` whose slices this step must copy."""
    loop, operands = ir.loop_of(node), operands_of(node)
    return frozenset(
        i
        for i, k in enumerate(body.operands)
        if slice_copies(ir.val(operands[k]).stride(), loop.operand_axes[k], step.reads[k])
    )


def plan_outputs(node: fx.Node) -> tuple[tuple[Put, ...], ...]:
    """For each body of a loop node, what becomes of its outputs, in their order."""
    return tuple(_Planner(node, index).puts() for index in range(len(ir.loop_of(node).bodies)))


class _Planner:
    """Decides for one body."""

    def __init__(self, node: fx.Node, index: int) -> None:
        self.loop = ir.loop_of(node)
        self.body = self.loop.bodies[index]
        self.steps = [step for step in self.loop.steps if step.body == index]
        self.operands = operands_of(node)
        self.roots = [storage_root(operand) for operand in self.operands]
        self.outputs = output_nodes(self.body.graph)
        self.order = {inner: i for i, inner in enumerate(self.body.graph.nodes)}
        self.placeholders = [inner for inner in self.order if inner.op == "placeholder"]
        #: The operand that each placeholder shows a slice of (carries: none).
        self.operand_of = dict(zip(self.placeholders, self.body.operands, strict=False))

    def puts(self) -> tuple[Put, ...]:
        n = len(self.body.results)
        results = [self._result(k, node) for k, node in zip(self.body.results, self.outputs, strict=False)]
        carries = [
            Put(node, "keep" if self._owned(node) else "copy", carry)
            for carry, node in zip(self.body.carries_out, self.outputs[n:], strict=True)
        ]
        return (*results, *carries)

    def _result(self, k: int, node: fx.Node) -> Put:
        spec = self.loop.results[k]
        if spec.combine is not None:
            return Put(node, "merge", k, self._owned(node), MERGE_OPS[spec.combine])
        if self._direct(k, node):
            return Put(node, "direct", k)
        if spec.into is None:
            return Put(node, "write", k)
        return Put(node, "late", k, self._operand(node) is None)

    def _operand(self, node: fx.Node) -> int | None:
        """The operand in whose storage a value of the body lies."""
        return self.operand_of.get(storage_root(node)[0])

    def _owned(self, node: fx.Node) -> bool:
        """True for a contiguous value alone in a storage of just its size that is not an operand's."""
        root, k = storage_root(node)
        if root in self.operand_of or root.op == "get_attr":
            return False
        if sum(storage_root(other) == (root, k) for other in self.outputs) > 1:
            return False
        value = ir.val(node)
        return _storage_size(root, k) == ir.nbytes(value) and is_contiguous(value.shape, value.stride())

    def _direct(self, k: int, node: fx.Node) -> bool:
        spec = self.loop.results[k]
        axis = spec.axis
        if axis is None or axis.outer != 1 or not can_write(node) or ir.val(node).dtype != spec.dtype:
            return False
        if len(node.users) > 1 or self.outputs.count(node) > 1 or any(s.writes[k] is None for s in self.steps):
            return False
        return spec.into is None or self._direct_into(k, node, spec.into)

    def _direct_into(self, k: int, node: fx.Node, into: int) -> bool:
        """True when nothing that the op overwrites is still to be read, but for the very element it writes."""
        spec, operand = self.loop.results[k], ir.val(self.operands[into])
        strides = contiguous_strides(spec.shape) if spec.stride is None else spec.stride
        same_layout = tuple(operand.shape) == spec.shape and tuple(operand.stride()) == strides
        if not same_layout or operand.dtype != spec.dtype or self.loop.operand_axes[into] != spec.axis:
            return False
        later = [inner for inner, i in self.order.items() if i > self.order[node]]
        if any(self._reads(used, into) for inner in later for used in inner.all_input_nodes if used is not node):
            return False
        return all(self._same_place(used, k, into) for used in node.all_input_nodes if self._reads(used, into))

    def _reads(self, value: fx.Node, into: int) -> bool:
        operand = self._operand(value)
        return operand is not None and self.roots[operand] == self.roots[into]

    def _same_place(self, value: fx.Node, k: int, into: int) -> bool:
        """True when a value that is a slice of operand ``into`` lies just where the result is written."""
        axis = self.loop.results[k].axis
        assert axis is not None
        strides = ir.val(self.operands[into]).stride()
        wanted = ir.val(value)
        offset = 0
        while value.op != "placeholder":
            if value.target is not aten.slice.Tensor or len(value.args) > 4:
                return False
            base, dim, start = value.args[0], value.args[1], value.args[2]
            assert isinstance(base, fx.Node)
            offset += int(start) * ir.val(base).stride(int(dim))  # type: ignore[arg-type]
            value = base
        if self.operand_of[value] != into or tuple(wanted.stride()) != tuple(strides):
            return False
        pitch = strides[axis.dim] * axis.inner
        return all(self._matches(step, k, into, offset, pitch, wanted, axis) for step in self.steps)

    def _matches(
        self, step: ir.Step, k: int, into: int, offset: int, pitch: int, wanted: torch.Tensor, axis: ir.Axis
    ) -> bool:
        read, write = step.reads[into], step.writes[k]
        assert write is not None
        start = 0 if read is None else read[0]
        same_shape = tuple(wanted.shape) == axis.narrowed_shape(self.loop.results[k].shape, write[1] - write[0])
        return same_shape and start * pitch + offset == write[0] * pitch


def _storage_size(root: fx.Node, k: int) -> int:
    if not ir.is_loop(root):
        return ir.nbytes(ir.val(root))
    spec = ir.loop_of(root).results[k]
    return max(torch.Size(spec.shape).numel() * spec.dtype.itemsize, spec.capacity)
