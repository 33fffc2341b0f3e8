"""Sliced graphs with slices in flight, for tests: every legal cut of the examples, and a network that gains."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import fx

from tests.graph_builder import Builder, slice_of, spans
from vgcomp import ir
from vgcomp.program import copy_graph
from vgcomp.stages import pipeline_complaints

aten = torch.ops.aten


def cut(graph: fx.Graph, index: int, cuts: tuple[tuple[int, ...], ...], engines: tuple[int, ...]) -> fx.Graph:
    """A copy of a graph with the loop at a position of its nodes cut into stages."""
    made = copy_graph(graph)
    node = list(made.nodes)[index]
    node.args = (replace(ir.loop_of(node), pipeline=ir.Pipeline(cuts, engines)), *node.args[1:])
    return made


def pipelined_graphs(graph: fx.Graph, stages: int, seed: int = 0, most: int = 6) -> Iterator[tuple[fx.Graph, bool]]:
    """Copies of a graph, each with random cuts of one of its loops; and whether the rules allow them."""
    draw = random.Random(seed)
    for index, node in enumerate(graph.nodes):
        if not ir.is_loop(node):
            continue
        for _ in range(most):
            cuts = tuple(tuple(sorted(draw.choices(_places(body), k=stages - 1))) for body in ir.loop_of(node).bodies)
            engines = draw.choice([tuple(range(stages)), tuple(reversed(range(stages)))])
            made = cut(graph, index, cuts, engines)
            yield made, not list(pipeline_complaints(list(made.nodes)[index]))


def _places(body: ir.Body) -> range:
    ops = [node.op for node in body.graph.nodes]
    return range(ops.count("placeholder"), len(ops))


def normed_frames(frames: int = 8, channels: int = 64, size: int = 96) -> fx.Graph:
    """Norm and convolution, a frame at a time: the norm has four groups a frame, which keep few units busy."""
    shape = (frames, channels, size, size)
    b = Builder()
    x, w = b.input("x", shape, torch.float16), b.weight("w", (channels, channels, 3, 3), torch.float16)
    axis = ir.Axis(0, frames)
    inner = Builder()
    part, v = inner.value("part", slice_of(x, axis, (0, 1))), inner.value("v", ir.val(w))
    y = inner.call(aten.group_norm.default, part, 4)
    body = ir.Body(inner.done(inner.conv(inner.call(aten.silu.default, y), v, (1, 1))), (0, 1), (0,))
    steps = tuple(ir.Step(0, (span, None), (span,)) for span in spans(frames, 1))
    result = ir.Result(shape, torch.float16, axis)
    return b.done(*b.loop(ir.Loop("frames", (body,), steps, (axis, None), (result,)), [x, w]))
