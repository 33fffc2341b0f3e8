"""``half-precision``: fp16 throughout, for devices that compute in nothing else.

Given::

    %t : f32[] = input                     %x : f32[1, 4, 8, 8] = input
    %s = sin(mul(%t, %freqs))              # an angle of up to 1000 radians: fp16 would be half a radian off
    %y = linear(%s, %w)

results fp16 inputs, weights and values, but for the angles: sines, cosines, comparisons and the pointwise arithmetic
before them keep their 32 bits, and a sine is rounded once, afterwards. Conversions that no longer change anything go.
Wider weights are converted when they are loaded. The result differs by fp16's rounding of every value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from vgcomp import infer, ir
from vgcomp.passes.base import PassContext, PassResult
from vgcomp.program import Program
from vgcomp.result import Equivalence, Explanation
from vgcomp.weights import Weight

aten, prims, own = ir.aten, ir.prims, ir.own

#: What is wrong by more than rounding where its operand is rounded.
_ANGLES = frozenset(
    {aten.sin.default, aten.cos.default, aten.eq.Scalar, aten.gt.Scalar, aten.lt.Scalar, aten.floor.default}
)
#: What computes an angle: pointwise arithmetic, views, and constants.
_BEFORE = ir.POINTWISE_OPS | ir.VIEW_OPS | {aten.full.default, aten.cat.default}
#: Statistics of slices are fp32 by definition.
_STATISTICS = frozenset({own.group_moments.default, own.attention_partial.default})

_LARGEST = torch.finfo(torch.float16).max
_SMALLEST = torch.finfo(torch.float16).smallest_normal


@dataclass(frozen=True)
class HalfPrecision:
    """See the module's text. Sliced programs are left alone: unroll them first."""

    name: ClassVar[str] = "half-precision"
    equivalence: ClassVar[Equivalence] = "approximate"

    def run(self, program: Program, context: PassContext) -> PassResult:
        if any(ir.is_loop(node) for node in program.graph.nodes):
            reason = "it is sliced: put unroll-loops before this pass"
            return PassResult(program, False, {}, (Explanation(program.name, self.name, reason),))
        wide = _angles(program.graph)
        if not any(_narrows(node, wide) for node in program.graph.nodes):
            return PassResult(program, changed=False, stats={"wide": len(wide)})
        graph, weights = _Narrower(program, wide).run()
        halved = Program(
            program.name, graph, weights, program.output_names, program.source, program.history, program.fake_mode
        )
        return PassResult(halved, True, {"wide": sum(node.op == "call_function" for node in wide)})


def _angles(graph: fx.Graph) -> set[fx.Node]:
    """Sines and cosines (and comparisons) of wide values with what they are computed from; statistics of slices."""
    found = _from_statistics(graph)
    queue = [node for node in graph.nodes if node.target in _ANGLES and _wide(node.args[0])]
    while queue:
        node = queue.pop()
        if node in found:
            continue
        found.add(node)
        cheap = node.target in _BEFORE or node.target in _ANGLES
        queue += [x for x in node.all_input_nodes if cheap and (x.op != "call_function" or x.target in _BEFORE)]
    return found


def _from_statistics(graph: fx.Graph) -> set[fx.Node]:
    """What merges the statistics of slices, whose counts and sums fp16 does not hold."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        cheap = node.target in _BEFORE and not _is_ours(node)
        if cheap and any(x in found or x.target in _STATISTICS for x in node.all_input_nodes):
            found.add(node)
    return found


def _wide(node: Any) -> bool:
    dtype = ir.val(node).dtype
    return bool(dtype.is_floating_point and dtype.itemsize >= 4)


def _narrows(node: fx.Node, wide: set[fx.Node]) -> bool:
    """True for a node that fp16 changes; a conversion to what the value is anyway is one."""
    if node.op == "output":
        return False
    value = node.meta["val"]
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return False
    wanted = torch.float32 if node in wide else torch.float16
    return value.dtype != wanted and node.target not in _STATISTICS and not _is_ours(node)


def _is_ours(node: fx.Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "namespace", "") == "vgcomp"


class _Narrower:
    """Copies a graph, each floating value as fp16, or fp32 where it is wide."""

    def __init__(self, program: Program, wide: set[fx.Node]) -> None:
        self.program = program
        self.wide = wide
        self.graph = fx.Graph()
        self.weights: dict[str, Weight] = {}
        self.env: dict[fx.Node, fx.Node] = {}
        self.cast: dict[tuple[fx.Node, torch.dtype], fx.Node] = {}

    def run(self) -> tuple[fx.Graph, dict[str, Weight]]:
        for node in self.program.graph.nodes:
            if node.op == "output":
                results: Any = node.args[0]
                self.graph.output(tuple(self._as(x, self._dtype(x)) for x in results))
            elif node.op == "call_function":
                self.env[node] = self._call(node)
            else:
                self.env[node] = self._source(node)
        used = {str(node.target) for node in self.graph.nodes if node.op == "get_attr"}
        return self.graph, {name: weight for name, weight in self.weights.items() if name in used}

    def _dtype(self, node: fx.Node) -> torch.dtype:
        value = ir.val(node)
        if not value.is_floating_point():
            return value.dtype
        return torch.float32 if node in self.wide else torch.float16

    def _source(self, node: fx.Node) -> fx.Node:
        """An input or a weight."""
        made = self.graph.create_node(node.op, node.target, (), {}, node.name, node.type)
        value, dtype = ir.val(node), self._dtype(node)
        made.meta = {**node.meta, "val": infer.fake_tensor(value.shape, dtype, value.stride())}
        if node.op == "get_attr":
            weight = self.program.weights[str(node.target)]
            self.weights[weight.name] = weight if weight.dtype == dtype else weight.converted(dtype)
        return made

    def _call(self, node: fx.Node) -> fx.Node:
        wanted = self._dtype(node)
        if node.target is prims.convert_element_type.default and ir.val(node).is_floating_point():
            return self._as(node.args[0], wanted)  # type: ignore[arg-type]
        inside = wanted if wanted.is_floating_point else torch.float16
        inside = torch.float32 if node in self.wide else inside
        ours = _is_ours(node)
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda x: self._operand(x, inside, ours))  # type: ignore[misc]
        args, kwargs = fx.node.map_aggregate((args, kwargs), lambda x: _dtype_argument(x, inside))  # type: ignore[misc]
        made = self.graph.create_node("call_function", node.target, _held(node, args), kwargs, node.name)
        made.meta = dict(node.meta)
        made.meta["val"] = infer.node_value(made)
        return made

    def _operand(self, node: fx.Node, dtype: torch.dtype, ours: bool) -> fx.Node:
        """``ours``: for an op of ours, which takes statistics as they are."""
        value = ir.val(self.env[node])
        statistics = node.target in _STATISTICS or (node in self.wide and node.op == "call_function")
        if not value.is_floating_point() or (ours and statistics):
            return self.env[node]
        return self._as(node, dtype)

    def _as(self, node: fx.Node, dtype: torch.dtype) -> fx.Node:
        made = self.env[node]
        if ir.val(made).dtype == dtype:
            return made
        key = (made, dtype)
        if key not in self.cast:
            converted = self.graph.call_function(prims.convert_element_type.default, (made, dtype))
            converted.meta["val"] = infer.node_value(converted)
            self.cast[key] = converted
        return self.cast[key]


def _dtype_argument(value: Any, dtype: torch.dtype) -> Any:
    return dtype if isinstance(value, torch.dtype) and value.is_floating_point else value


def _held(node: fx.Node, args: Any) -> Any:
    """Bounds and fills that fp16 does not hold, at the nearest that it does."""
    if node.target not in (aten.clamp.default, aten.full.default, aten.hardtanh.default):
        return args
    return fx.node.map_aggregate(args, _in_range)


def _in_range(value: Any) -> Any:
    if not isinstance(value, float) or value == 0.0 or math.isnan(value) or math.isinf(value):
        return value
    size = min(max(abs(value), _SMALLEST), _LARGEST)
    return math.copysign(size, value)
