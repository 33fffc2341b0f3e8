"""The dialect: which ops a Program may hold, and the one construct of our own, the sliced loop.

A Program's graph is a plain ``torch.fx.Graph`` over a small set of ATen overloads (norms,
attention and activations kept whole) plus the ops of :mod:`vgcomp.ops`. Every node carries its
fake-tensor value in ``meta["val"]``. Nothing mutates.

The one thing FX lacks is a loop over slices. It is spelled as a call of :func:`sliced`, whose first
argument is a :class:`Loop`::

    %out = sliced(Loop(...), (%x, %w))          # a tuple, one entry a result
    %y   = getitem(%out, 0)

A loop runs its *bodies*, ordinary graphs of static shape, once a :class:`Step`. Operands come
whole or as a slice of one :class:`Axis`; results are written slice by slice into one preallocated
tensor, or combined (a norm's moments). Few distinct bodies serve many steps (first, middle, last),
so code size does not grow with the number of slices.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import fx

from vgcomp import ops as _ops  # noqa: F401  (registers the vgcomp:: namespace)

aten = torch.ops.aten
prims = torch.ops.prims
own = torch.ops.vgcomp

#: May return an alias of their first input (``reshape`` copies when strides do not allow a view).
VIEW_OPS = frozenset(
    {
        aten.reshape.default,
        aten.permute.default,
        aten.expand.default,
        aten.slice.Tensor,
    }
)

#: Element (i) of the output reads element (i) of each (broadcast) input.
POINTWISE_OPS = frozenset(
    {
        aten.add.Tensor,
        aten.sub.Tensor,
        aten.mul.Tensor,
        aten.div.Tensor,
        aten.maximum.default,
        aten.minimum.default,
        aten.where.self,
        aten.pow.Tensor_Scalar,
        aten.neg.default,
        aten.abs.default,
        aten.exp.default,
        aten.log.default,
        aten.sin.default,
        aten.cos.default,
        aten.sqrt.default,
        aten.rsqrt.default,
        aten.reciprocal.default,
        aten.erf.default,
        aten.tanh.default,
        aten.sigmoid.default,
        aten.relu.default,
        aten.leaky_relu.default,
        aten.hardtanh.default,
        aten.silu.default,
        aten.gelu.default,
        aten.softplus.default,
        aten.clamp.default,
        aten.floor.default,
        aten.round.default,
        aten.eq.Scalar,
        aten.gt.Scalar,
        aten.lt.Scalar,
        aten.clone.default,
        prims.convert_element_type.default,
    }
)

#: Keep or drop the dims in their ``dim`` argument: (x, dims, keepdim).
REDUCE_OPS = frozenset(
    {
        aten.sum.dim_IntList,
        aten.mean.dim,
        aten.amax.default,
        aten.linalg_vector_norm.default,
    }
)

NORM_OPS = frozenset({aten.group_norm.default, aten.layer_norm.default, aten.rms_norm.default})

UPSAMPLE_OPS = frozenset(
    {
        aten.upsample_nearest1d.vec,
        aten.upsample_nearest2d.vec,
        aten.upsample_nearest3d.vec,
    }
)

#: The remaining ops, each with an axis rule of its own.
OTHER_OPS = frozenset(
    {
        aten.convolution.default,
        aten.linear.default,
        aten.matmul.default,
        aten.scaled_dot_product_attention.default,
        aten.softmax.int,
        aten.cat.default,
        aten.constant_pad_nd.default,
        aten.pad.default,
        aten.avg_pool2d.default,
        aten.avg_pool3d.default,
        aten.max_pool2d.default,
        aten.embedding.default,
        aten.index_select.default,
        aten.full.default,
        own.group_moments.default,
        own.group_norm_apply.default,
        own.attention_partial.default,
        own.attention_finish.default,
    }
)

DIALECT = VIEW_OPS | POINTWISE_OPS | REDUCE_OPS | NORM_OPS | UPSAMPLE_OPS | OTHER_OPS


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a tensor, possibly a factor of a merged dimension.

    Dimension ``dim`` has ``outer * extent * inner`` elements in row-major order; the axis is the
    middle factor. An unmerged dimension has ``outer == inner == 1``. In a tensor of shape
    ``(B*T, C, H, W)`` the frames are ``Axis(0, outer=B, extent=T, inner=1)``.
    """

    dim: int
    extent: int
    outer: int = 1
    inner: int = 1

    @property
    def size(self) -> int:
        """Elements of the whole dimension."""
        return self.outer * self.extent * self.inner

    @property
    def whole_dim(self) -> bool:
        """True when the axis is all of its dimension."""
        return self.outer == 1 and self.inner == 1

    def narrowed_shape(self, shape: Sequence[int], length: int) -> tuple[int, ...]:
        """``shape`` with ``length`` of this axis' elements kept."""
        out = list(shape)
        out[self.dim] = self.outer * length * self.inner
        return tuple(out)


#: Half-open range of elements of an axis.
Span = tuple[int, int]

Combine = Literal["moments", "softmax"]


@dataclass(frozen=True, slots=True)
class Result:
    """How one result of a loop comes together.

    With ``axis``: each step writes its slice into one tensor of ``shape``. With ``combine``: each
    step's value is merged into one of the same shape by ``torch.ops.vgcomp.merge_<combine>``.

    ``into``: index of the operand whose buffer the result takes (in place); that operand is dead
    after the loop and each of its slices is read no later than the result's slice that covers it
    is written. The buffer may be larger or smaller than the operand: when sizes differ the result
    is laid out from the start of the buffer, and the steps' order keeps unread input intact.

    ``stride``: element strides of the whole result, dense in some order of the dimensions; None
    means row-major. A network keeps frames outermost in memory under a channels-first shape, and
    so does its sliced form.

    ``capacity``: bytes to allocate for the result if more than its own (so that a later loop can
    grow in place); 0 means its own size.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    axis: Axis | None = None
    combine: Combine | None = None
    into: int | None = None
    capacity: int = 0
    stride: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of a loop.

    ``body``: index into ``Loop.bodies``. ``reads[k]``: the span of operand k's axis, or None for a
    whole operand. ``writes[k]``: the span of result k's axis, or None where this step
    does not write it or the result is combined.
    """

    body: int
    reads: tuple[Span | None, ...]
    writes: tuple[Span | None, ...]


@dataclass(frozen=True)
class Body:
    """A graph of static shape that one or more steps run.

    Its placeholders are, in order, the operands' slices listed in ``operands`` (indices into the
    loop's operands: a body need not read all) and then the carries in ``carries_in``. Its output is
    a flat tuple: the loop's results listed in ``results`` and then ``carries_out``.

    A *carry* is the line buffer of a window: a tail of an intermediate that the next step needs
    again. Carries are named by index; a step replaces those that its body puts out, drops
    those it reads and does not put out.
    """

    graph: fx.Graph
    operands: tuple[int, ...]
    results: tuple[int, ...]
    carries_in: tuple[int, ...] = ()
    carries_out: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Slices in flight: a body is cut into stages, and while a slice is in one the next slice is in the one before.

    Round r runs stage s of step r - s, for every s; the next round starts when all of that is done. What a loop
    means does not change: a backend may run its steps one after the other (:mod:`vgcomp.stages` has the rules).

    ``cuts[b]``: the positions in body b's nodes at which its stages 1, 2, ... begin; a stage may be empty.
    ``engines[s]``: the engine (a stream, on a GPU) that runs stage s: 0 is the one that runs the rest of the graph,
    and a higher one goes first where both want the same units.
    """

    cuts: tuple[tuple[int, ...], ...]
    engines: tuple[int, ...]

    @property
    def in_flight(self) -> int:
        """How many slices are worked on at once."""
        return len(self.engines)


@dataclass(frozen=True)
class Loop:
    """A sliced node: what runs, over which slices, and where the results go."""

    name: str
    bodies: tuple[Body, ...]
    steps: tuple[Step, ...]
    operand_axes: tuple[Axis | None, ...]
    results: tuple[Result, ...]
    #: For people: the axis' meaning and why the loop exists. Not semantic.
    note: str = field(default="", compare=False)
    #: Steps that overlap; None where each waits for the one before.
    pipeline: Pipeline | None = None

    @property
    def n_slices(self) -> int:
        """How many steps the loop takes."""
        return len(self.steps)


def sliced(loop: Loop, operands: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Marks a sliced loop in a graph; backends run it, nothing calls it."""
    raise RuntimeError(
        f"sliced loop {loop.name!r} was called outside a backend; run the Program through vgcomp.backends"
    )


def is_loop(node: fx.Node) -> bool:
    """True for a call of :func:`sliced`."""
    return node.op == "call_function" and node.target is sliced


def loop_of(node: fx.Node) -> Loop:
    """The Loop of a loop node."""
    loop: Any = node.args[0]
    assert isinstance(loop, Loop)
    return loop


def is_getitem(node: fx.Node) -> bool:
    """True for the projection of a multi-result node."""
    return node.op == "call_function" and node.target is operator.getitem


def val(node: fx.Node) -> torch.Tensor:
    """The fake tensor a node evaluates to."""
    value: torch.Tensor = node.meta["val"]
    return value


def nbytes(tensor: torch.Tensor) -> int:
    """Bytes of a dense tensor of this shape (not of its storage)."""
    return tensor.numel() * tensor.element_size()
