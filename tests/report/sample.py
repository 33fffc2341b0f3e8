"""An optimization's result made by hand: a decoder-like curve, one sliced loop, every field filled."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from vgcomp import infer, ir
from vgcomp.program import Program, Source
from vgcomp.result import CheckReport, Explanation, FrontPoint, LowerBound, Measures, PassReport, Report

aten = torch.ops.aten
MIB = 2**20


@dataclass(frozen=True)
class FakeEntry:
    node: str
    name: str
    op: str
    start_s: float
    duration_s: float
    bound: str
    live_bytes: int
    in_loop: str | None = None
    slices: int = 1


@dataclass(frozen=True)
class FakeTimeline:
    entries: list[FakeEntry]
    peak_activation_bytes: int = 0


@dataclass(frozen=True)
class FakeResult:
    program: Program
    report: Report
    timelines: tuple[Any, Any]
    explanations: list[Explanation] = field(default_factory=list)


def program(slices: int = 4) -> Program:
    """neg, then a loop over dim 0 that scales each slice in place."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = infer.fake_tensor((slices, 8, 16), torch.float32)
    neg = call(graph, aten.neg.default, (x,))
    body = fx.Graph()
    part = body.placeholder("part")
    part.meta["val"] = infer.fake_tensor((1, 8, 16), torch.float32)
    body.output((call(body, aten.mul.Tensor, (part, 2.0)),))
    axis = ir.Axis(0, slices)
    loop = ir.Loop(
        name="frames_0",
        bodies=(ir.Body(body, operands=(0,), results=(0,)),),
        steps=tuple(ir.Step(0, ((i, i + 1),), ((i, i + 1),)) for i in range(slices)),
        operand_axes=(axis,),
        results=(ir.Result((slices, 8, 16), torch.float32, axis, into=0),),
        note="frames <of> the last block",
    )
    out = call(graph, ir.sliced, (loop, (neg,)), name="frames_0")
    y = call(graph, operator.getitem, (out, 0))
    graph.output((y,))
    return Program("decoder", graph, {}, ("y",), Source("torch", "decoder"))


def call(graph: fx.Graph, target: Any, args: tuple[Any, ...], name: str | None = None) -> fx.Node:
    node = graph.create_node("call_function", target, args, {}, name)
    node.meta["val"] = infer.node_value(node)
    return node


def timeline(scale: float, ops: int = 480, seconds: float = 0.6) -> FakeTimeline:
    """Steps that rise towards the end, as a decoder's do."""
    entries, t = [], 0.0
    for i in range(ops):
        width = seconds / ops * (0.4 + 1.2 * ((i * 7) % 11) / 10)
        stage = min(3, i * 4 // ops)
        inside = ("frames_0", 14) if i == ops - 20 else (None, 1)
        live = int(scale * MIB * (220 * 2.9**stage) * (0.72 + 0.28 * abs(math.sin(i * 0.7))))
        name = "mul" if i == ops - 20 else f"up_blocks_{stage}_resnets_{i % 7}_conv{i % 2}_{i}"
        bound = ["compute", "memory"][i % 2]
        entries.append(FakeEntry(name, name, "aten.convolution.default", t, width, bound, live, *inside))
        t += width
    return FakeTimeline(entries, max(e.live_bytes for e in entries))


def report(**changes: Any) -> Report:
    before, after = timeline(2.2), timeline(0.77)
    weights = 194 * MIB
    fields: dict[str, Any] = {
        "model": "svd-vae-decoder",
        "target": "a100",
        "budget_bytes": 4_700 * MIB,
        "before": Measures(
            peak_bytes=before.peak_activation_bytes + weights,
            peak_activation_bytes=before.peak_activation_bytes,
            weight_bytes=weights,
            latency_s=0.601,
            flops=4.21e13,
            nodes=480,
        ),
        "after": Measures(
            peak_bytes=after.peak_activation_bytes + weights,
            peak_activation_bytes=after.peak_activation_bytes,
            weight_bytes=weights,
            latency_s=0.604,
            flops=4.21e13,
            nodes=190,
        ),
        "lower_bound_bytes": LowerBound(unsliced=10_400 * MIB, result=3_900 * MIB),
        "passes": (
            PassReport(name="canonicalize", equivalence="exact", changed=True, seconds=0.08),
            PassReport(name="slice-and-group", equivalence="reassociated", changed=True, seconds=3.4),
            PassReport(name="assign-buffers", equivalence="exact", changed=False, seconds=0.2),
        ),
        "front": (),
        "check": CheckReport(status="passed", max_abs_error=3.1e-6, shape="frames=4, height=128, width=128"),
        "artifacts": ("out/optimized.onnx",),
        "seconds": 5.2,
    }
    return Report(**{**fields, **changes})


def front() -> tuple[FrontPoint, ...]:
    return tuple(
        FrontPoint(peak_bytes=(b + 194) * MIB, peak_activation_bytes=b * MIB, latency_s=s)
        for b, s in ((12_000, 0.601), (6_040, 0.602), (4_230, 0.604), (3_620, 0.79), (2_600, 0.91))
    )


def dear_front() -> tuple[FrontPoint, ...]:
    """The same with three points at which hardly anybody looks, the last of least memory."""
    dear = ((2_000, 7.5), (1_500, 12.0), (1_100, 25.0))
    more = (FrontPoint(peak_bytes=(b + 194) * MIB, peak_activation_bytes=b * MIB, latency_s=s) for b, s in dear)
    return (*front(), *more)


def result(**changes: Any) -> FakeResult:
    return FakeResult(
        program(14),
        report(**changes),
        (timeline(2.2, seconds=0.601), timeline(0.77, seconds=0.604)),
        [
            Explanation(
                "mid_block_attention", "slice-and-group", "sliced by query already; keys would cost 1.9 × time"
            ),
            Explanation("</script><b>x", "slice-and-group", "its result is read by two regions"),
        ],
    )
