"""``legalize-coreml``: what Core ML refuses, or its Neural Engine leaves to the CPU, in another form.

Given (a temporal convolution, and a pixel shuffle over three dimensions)::

    %a = convolution(%x, %w [o, i, 3, 1, 1])
    %b = reshape(%a, [1, 32, 2, 2, 2, 3, 4, 5])
    %c = permute(%b, [0, 1, 5, 2, 6, 3, 7, 4])

results::

    %p = reshape(%x, [n, i, t, h·w])              # nothing moves
    %q = convolution(%p, %w' [o, i, 3, 1])        # on the engine, which has no 3-D convolutions
    %d = permute(reshape(%a, ...), ...)           # two transpositions of five dimensions instead of one of eight

* more than ``max-rank`` dimensions: merged where they stay neighbours, transpositions taken apart
  (:mod:`vgcomp.legalize.ranks`);
* 3-D convolutions: frames as a batch, a plane of time by place, or a sum over the window's frames
  (:mod:`vgcomp.legalize.convolutions`); 1-D ones over a row, (N, C, 1, S), which the engine prefers;
* 3-D upsampling and average pooling (:mod:`vgcomp.legalize.resample`).

Linear layers stay what they are: Core ML has them as an op, and a 1×1 convolution would need a transposition on either
side of each. What goes to the CPU all the same (look-ups, integers, ragged resampling) is explained, op by op.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from vgcomp import infer, ir
from vgcomp.cost_models.neural_engine import refuses
from vgcomp.legalize.convolutions import flatten_3d, is_spatial, widen_1d
from vgcomp.legalize.editor import Editor
from vgcomp.legalize.ranks import HighRank
from vgcomp.legalize.resample import flatten_pool, flatten_upsample
from vgcomp.passes.base import PassContext, PassResult
from vgcomp.program import Program
from vgcomp.result import Equivalence, Explanation
from vgcomp.simulate import node_work
from vgcomp.targets import Target

aten = ir.aten

#: Core ML's own limit, whatever the device.
MAX_RANK = 5


@dataclass(frozen=True)
class LegalizeCoreml:
    """See the module's text. ``max_rank``: None for the target's, or Core ML's where it names none.

    Sliced programs are unrolled first (``unroll-loops``): loops are left alone. Raises ModelError for an input, output
    or op of too many dimensions that has no other form.
    """

    name: ClassVar[str] = "legalize-coreml"
    equivalence: ClassVar[Equivalence] = "reassociated"

    max_rank: int | None = None

    def run(self, program: Program, context: PassContext) -> PassResult:
        new = program.copy()
        limits = context.target.limits
        counts = {"convolutions": 0, "resampled": 0}
        for node in list(new.graph.nodes):
            kind = _flatten(new.graph, node, limits.max_dim)
            if kind:
                counts[kind] += 1
        ranks = HighRank(new.graph, self.max_rank or limits.max_rank or MAX_RANK).run()
        told = tuple(self._told(node, context.target) for node in new.graph.nodes if _refused(node, context.target))
        stats = {**counts, "high_rank": ranks, "left_to_cpu": len(told)}
        if not ranks and not any(counts.values()):
            return PassResult(program, False, stats, told)
        # Other forms have other strides, which later values follow.
        infer.propagate(new.graph)
        return PassResult(program.with_graph(new.graph), True, stats, told)

    def _told(self, node: fx.Node, target: Target) -> Explanation:
        what = str(node.target).removesuffix(".default")
        return Explanation(node.name, self.name, f"{what} runs on the CPU: {target.title} has no such op")


def _flatten(graph: fx.Graph, node: fx.Node, max_dim: int | None) -> str:
    """Rewrites one node over three or one spatial dimensions; says which kind it was, or nothing."""
    at = Editor(graph, node)
    made: fx.Node | None
    if is_spatial(node, 3):
        kind, made = "convolutions", flatten_3d(at, node, max_dim)
    elif is_spatial(node, 1):
        kind, made = "convolutions", widen_1d(at, node)
    elif node.target is aten.upsample_nearest3d.vec:
        kind, made = "resampled", flatten_upsample(at, node)
    elif node.target is aten.avg_pool3d.default:
        kind, made = "resampled", flatten_pool(at, node)
    else:
        return ""
    if made is None:
        return ""
    node.replace_all_uses_with(made)
    graph.erase_node(node)
    return kind


def _refused(node: fx.Node, target: Target) -> bool:
    work = node_work(node)
    return work is not None and target.fallback is not None and refuses(work, target)
