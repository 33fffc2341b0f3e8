"""``decouple-vae``: a decoder's convolutions as pairs of smaller ones.

Given (a 3×3×3 convolution from 512 to 512 channels, 7.1 M parameters)::

    %y = convolution(%x, %w, %b, padding [0, 1, 1])                      # w (512, 512, 3, 3, 3)

results, for ``form=depthwise`` (a kernel a channel, then 1×1: 0.28 M)::

    %d = convolution(%x, %w_depthwise, None, padding [0, 1, 1], groups 512)   # (512, 1, 3, 3, 3)
    %y = convolution(%d, %w_pointwise, %b)                                    # (512, 512, 1, 1, 1)

and for ``form=split`` (space, then time: 3.1 M)::

    %s = convolution(%x, %w_spatial, None, padding [0, 1, 1])                 # (512, 512, 1, 3, 3)
    %y = convolution(%s, %w_temporal, %b)                                     # (512, 512, 3, 1, 1)

The compression of SnapGen-V's decoder (appendix B). Where there are weights the new ones are the best of their rank
(:mod:`vgcomp.temporal.factors`), and the stats say what each layer loses; training with a distillation loss
(:mod:`vgcomp.training.distillation`) brings the quality back. Approximate: by that distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import fx

from vgcomp import infer, ir
from vgcomp.axes import conv_args
from vgcomp.ir import aten
from vgcomp.legalize.editor import Editor
from vgcomp.passes.base import PassContext, PassResult, Stat
from vgcomp.program import Program
from vgcomp.result import Equivalence, Explanation
from vgcomp.step_cuts.emit import remove_dead
from vgcomp.step_cuts.reach import node_flops
from vgcomp.temporal.factors import Form, Shapes, factored, full_rank, shapes_of
from vgcomp.weights import Weight, from_tensor, without_data

_PARTS = {"depthwise": ("depthwise", "pointwise"), "split": ("spatial", "temporal")}


@dataclass(frozen=True)
class DecoupleVae:
    """See the module's text.

    ``form``: of the pairs. ``dims``: spatial dimensions of the convolutions meant, 3, 2 or either (a split needs 3).
    ``rank``: of depthwise kernels, how many a channel; of a split, channels between the two as a share of those put
    out. ``layers``: only those whose weight's name contains one of these texts. A pair with as many weights as the
    convolution is not made.
    """

    name: ClassVar[str] = "decouple-vae"
    equivalence: ClassVar[Equivalence] = "approximate"
    #: What ``approximate`` means here: the metric; training brings it down, so it has no bound.
    metric: ClassVar[str] = "distance of the outputs to the original decoder's, brought down by distillation"

    form: Form = "depthwise"
    dims: Literal["3", "2", "any"] = "any"
    rank: float = 1.0
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.rank > 0:
            raise ValueError(
                "rank is more than 0: 1 for one depthwise kernel a channel, or as many channels as come out"
            )
        if self.form == "split" and self.dims == "2":
            raise ValueError("form=split parts space and time: dims is 3")

    def run(self, program: Program, context: PassContext) -> PassResult:
        work = _Decoupling(program, self)
        for node in program.graph.nodes:
            if node.target is aten.convolution.default and self._meant(node):
                work.take(node)
        if not work.errors:
            return PassResult(program, False, {"replaced": 0}, (*work.explanations, *self._nothing(program, work)))
        new = work.finish()
        before, after = (sum(map(node_flops, p.graph.nodes)) for p in (program, new))
        known = {name: error for name, error in work.errors.items() if error is not None}
        stats: dict[str, Stat] = {
            "replaced": len(work.errors),
            "flops_before": before,
            "flops_after": after,
            "weight_bytes_before": program.weight_bytes(),
            "weight_bytes_after": new.weight_bytes(),
            **({"worst_error": max(known.values())} if known else {}),
            **{f"error {name}": error for name, error in known.items()},
        }
        return PassResult(new, True, stats, tuple(work.explanations))

    def _meant(self, node: fx.Node) -> bool:
        """A kernel that the form can part, of the dimensions and names asked for."""
        kernel = conv_args(node).kernel
        if self.dims != "any" and len(kernel) != int(self.dims):
            return False
        parts = len(kernel) == 3 and kernel[0] > 1 and max(kernel[1:]) > 1 if self.form == "split" else max(kernel) > 1
        name = str(node.args[1].target)  # type: ignore[union-attr]
        return parts and (not self.layers or any(text in name for text in self.layers))

    def ranked(self, kernel: tuple[int, ...]) -> int:
        """The rank for a kernel (O, I, *sizes)."""
        wanted = self.rank if self.form == "depthwise" else self.rank * kernel[0]
        return max(1, min(round(wanted), full_rank(self.form, kernel)))

    def _nothing(self, program: Program, work: _Decoupling) -> tuple[Explanation, ...]:
        reason = f"no convolution that form={self.form}, dims={self.dims} could part"
        return () if work.explanations else (Explanation(program.name, self.name, reason),)


class _Decoupling:
    """The new graph: a copy of the old one, changed convolution by convolution. ``errors``: by layer, None unknown."""

    def __init__(self, program: Program, options: DecoupleVae) -> None:
        self.program, self.options = program, options
        self.graph = program.copy().graph
        self.new = {node.name: node for node in self.graph.nodes}
        self.errors: dict[str, float | None] = {}
        self.explanations: list[Explanation] = []
        self.weights: dict[str, Weight] = {}

    def take(self, node: fx.Node) -> None:
        """Puts a pair in the place of one convolution, or says why not."""
        weight = node.args[1]
        assert isinstance(weight, fx.Node)
        reason = _refused(node, weight)
        kernel = tuple(int(n) for n in ir.val(weight).shape)
        shapes = None if reason else shapes_of(self.options.form, kernel, self.options.ranked(kernel))
        if shapes is not None and not _saves(node, shapes):
            reason = "a pair would have as many weights as the convolution"
        if reason or shapes is None:
            self.explanations.append(Explanation(node.name, DecoupleVae.name, str(reason)))
            return
        self._put(self.new[node.name], str(weight.target), shapes)

    def _put(self, node: fx.Node, name: str, shapes: Shapes) -> None:
        base = name.removesuffix(".weight")
        pair = [f"{base}.{part}.weight" for part in _PARTS[self.options.form]]
        if pair[0] not in self.weights:  # a weight may be read by several convolutions
            self._factor(base, self.program.weights[name], pair, shapes)
        first, second = (self._weight_node(part) for part in pair)
        x, _, bias, stride, padding, dilation, *_ = node.args
        per_dim = [list(_each(value, len(shapes.first) - 2)) for value in (stride, padding, dilation)]
        ahead, behind = _shared_out(self.options.form, per_dim)
        at, zeros = Editor(self.graph, node), [0] * (len(shapes.first) - 2)
        inner = at.call(aten.convolution.default, x, first, None, *ahead, False, zeros, shapes.groups)
        outer = at.call(aten.convolution.default, inner, second, bias, *behind, False, zeros, 1)
        node.replace_all_uses_with(outer)

    def _factor(self, base: str, weight: Weight, pair: Sequence[str], shapes: Shapes) -> None:
        if not weight.present:
            made = zip(pair, (shapes.first, shapes.second), strict=True)
            self.weights |= {name: without_data(name, shape, weight.dtype) for name, shape in made}
            self.errors[base] = None
            return
        found = factored(self.options.form, weight.load(), self.options.ranked(weight.shape))
        self.weights |= {
            name: from_tensor(name, data) for name, data in zip(pair, (found.first, found.second), strict=True)
        }
        self.errors[base] = found.error

    def _weight_node(self, name: str) -> fx.Node:
        found = next((n for n in self.graph.nodes if n.op == "get_attr" and n.target == name), None)
        if found is not None:
            return found
        weight = self.weights[name]
        first = next(node for node in self.graph.nodes if node.op not in ("placeholder", "get_attr"))
        with self.graph.inserting_before(first):
            node = self.graph.get_attr(name)
        node.meta["val"] = infer.fake_tensor(weight.shape, weight.dtype)
        return node

    def finish(self) -> Program:
        """The new program, without what nothing reads any more."""
        remove_dead(self.graph)
        infer.propagate(self.graph)
        return replace(self.program, weights={**self.program.weights, **self.weights}).with_graph(self.graph)


def _refused(node: fx.Node, weight: fx.Node) -> str | None:
    if conv_args(node).transposed or node.args[8] != 1:
        return "it is transposed or has groups already"
    return None if weight.op == "get_attr" else "its kernel is computed, and no weight"


def _saves(node: fx.Node, shapes: Shapes) -> bool:
    """Fewer weights: as many products a place of the output, where nothing is strided."""
    weight: fx.Node = node.args[1]  # type: ignore[assignment]
    return math.prod(shapes.first) + math.prod(shapes.second) < ir.val(weight).numel()


def _each(value: object, count: int) -> Sequence[int]:
    items = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return items * count if len(items) == 1 else items  # type: ignore[return-value]


def _shared_out(form: Form, per_dim: Sequence[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """(stride, padding, dilation) of the first kernel and of the second: each dimension goes where its kernel is."""
    idle = (1, 0, 1)
    if form == "depthwise":
        return [list(v) for v in per_dim], [[none] * len(v) for none, v in zip(idle, per_dim, strict=True)]
    space = [[none, *v[1:]] for none, v in zip(idle, per_dim, strict=True)]
    time = [[v[0], *([none] * (len(v) - 1))] for none, v in zip(idle, per_dim, strict=True)]
    return space, time
