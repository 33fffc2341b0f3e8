"""Measures what the torch runtime itself takes: its calls, its loops' steps and slices, a run's start.

It times the very instructions of :mod:`vgcomp.backends.torch_runtime`; change both together. A call's
seconds are those of a graph of many short ops beyond what the ops take by themselves: closures, argument lists and
dispatch are as cold there as in a network, where a loop over one op would find them all in the nearest cache.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from vgcomp import infer, ir
from vgcomp.backends.torch_outputs import Frame
from vgcomp.backends.torch_runtime import Code, _BodyCode, _read, compile_graph
from vgcomp.cost_models.base import Overhead
from vgcomp.cost_models.calls import spell
from vgcomp.ir import aten
from vgcomp.profiling.runner import TorchRunner, clock_ns, keep_memory, use_threads
from vgcomp.simulate import node_work

#: Blocks of the graph of short ops; tokens, heads, channels of a head.
_BLOCKS, _TOKENS, _HEADS, _CHANNELS = 20, 24, 4, 16
_REPEATS = 31
#: Instructions that are timed together, and the slots of a small body.
_MANY, _SLOTS = 200, 16


def measure_overhead(runner: TorchRunner) -> Overhead:
    """The runtime's seconds on this machine's CPU, medians of many repeats."""
    keep_memory()
    clock = clock_ns(runner.device.threads)
    graph, weights = _short_ops()
    calls = [spell(work.call) for node in graph.nodes if (work := node_work(node)) is not None and work.call]
    with use_threads(runner.device.threads), torch.inference_mode():
        weight_s = _seconds(clock, _lookups(weights)) / len(weights)
        code, x = compile_graph(graph), torch.randn(1, _TOKENS, _HEADS * _CHANNELS)
        whole = _seconds(clock, lambda: code.run((x,), weights))
        run_s = _seconds(clock, lambda: Code(2, [0], [], [0]).run((x,), {}))
        step_s, slice_s = _seconds(clock, _steps()) / _MANY, _seconds(clock, _slices(x)) / _MANY
    busy = sum(timing.seconds for timing in runner.time(calls, _REPEATS))
    return Overhead(
        run_s=run_s,
        weight_s=weight_s,
        # Weights are loaded by instructions of their own: they are in it.
        call_s=max(0.0, whole - run_s - busy) / len(calls),
        step_s=step_s,
        slice_s=slice_s,
    )


def _seconds(clock: Callable[[], int], run: Callable[[], object]) -> float:
    for _ in range(3):
        run()
    times = []
    for _ in range(_REPEATS):
        begin = clock()
        run()
        times.append(clock() - begin)
    return statistics.median(times) * 1e-9


def _short_ops() -> tuple[fx.Graph, dict[str, Tensor]]:
    """Blocks of a norm, projections, heads, a softmax and a residual, on a few kilobytes."""
    graph, weights = fx.Graph(), dict[str, Tensor]()
    width = _HEADS * _CHANNELS
    heads = [1, _TOKENS, _HEADS, _CHANNELS]

    def weight(*shape: int) -> fx.Node:
        name = f"weight_{len(weights)}"
        weights[name] = torch.randn(shape)
        node = graph.get_attr(name)
        node.meta["val"] = infer.fake_tensor(shape, torch.float32)
        return node

    def call(target: Any, *args: Any) -> fx.Node:
        node = graph.call_function(target, args)
        node.meta["val"] = infer.node_value(node)
        return node

    def project(x: fx.Node) -> fx.Node:
        return call(aten.linear.default, x, weight(width, width), weight(width))

    x = graph.placeholder("x")
    x.meta["val"] = infer.fake_tensor((1, _TOKENS, width), torch.float32)
    for _ in range(_BLOCKS):
        h = call(aten.layer_norm.default, x, [width], weight(width), weight(width), 1e-5)
        q, k = (call(aten.permute.default, call(aten.reshape.default, project(h), heads), [0, 2, 1, 3]) for _ in "qk")
        scores = call(aten.matmul.default, q, call(aten.permute.default, k, [0, 1, 3, 2]))
        scores = call(aten.softmax.int, call(aten.mul.Tensor, scores, 0.25), -1)
        mixed = call(aten.permute.default, call(aten.matmul.default, scores, k), [0, 2, 1, 3])
        out = call(aten.silu.default, project(call(aten.reshape.default, mixed, [1, _TOKENS, width])))
        x = call(aten.add.Tensor, x, out)
    graph.output((x,))
    return graph, weights


def _lookups(weights: dict[str, Tensor]) -> Callable[[], object]:
    """What a module does for its weights when it is called."""
    module = nn.Module()
    for name, value in weights.items():
        module.register_buffer(name, value)
    return lambda: {name: module.get_buffer(name) for name in weights}


def _steps() -> Callable[[], object]:
    """Bodies without instructions, with as many slots as a small one has."""
    body, frame = _BodyCode(_SLOTS, []), Frame([], {}, torch.device("cpu"))

    def run() -> None:
        for _ in range(_MANY):
            body.run(frame)

    return run


def _slices(x: Tensor) -> Callable[[], object]:
    """Slices of an operand, as a step reads them."""
    frame = Frame([None], {}, torch.device("cpu"), [x], ir.Step(0, ((1, 2),), ()))
    read = _read(ir.Axis(1, _TOKENS), 0, 0)

    def run() -> None:
        for _ in range(_MANY):
            read(frame)

    return run
