"""Networks with temporal layers, small and of few places, built once a process; runs of them in double precision."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, fx, nn

from vgcomp.capture import capture
from vgcomp.check import random_inputs
from vgcomp.models import build_module, find
from vgcomp.program import Program

#: Settings that keep each network's structure and make it run in a moment.
TINY = {
    "svd-unet-small": {"frames": 3, "height": 64, "width": 64},
    "animatediff-unet-small": {"frames": 3, "height": 64, "width": 64},
    "snapgen-v-small": {"frames": 3, "height": 32, "width": 64},
}


@cache
def tiny_module(name: str) -> nn.Module:
    return build_module(name, **TINY[name])[0]


@cache
def tiny(name: str) -> Program:
    """The network of :func:`tiny_module`, captured."""
    network = find(name)
    settings = network.settings(TINY[name])
    inputs, names = network.example_inputs(settings), [spec.name for spec in network.inputs(settings)]
    return capture(tiny_module(name), inputs, name=name, input_names=names, output_names=[network.output])


def run_double(program: Program) -> tuple[Tensor, ...]:
    """Outputs on random inputs, every number in double precision: other orders of sums do not show."""
    env: dict[fx.Node, Tensor] = {}
    inputs = iter(random_inputs(program))
    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op == "placeholder":
                env[node] = next(inputs).double()
            elif node.op == "get_attr":
                env[node] = program.weights[str(node.target)].load().double()
            elif node.op == "call_function":
                args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)  # type: ignore[misc,arg-type]
                env[node] = node.target(*args, **kwargs)  # type: ignore[operator,misc]
    return tuple(env[node] for node in program.outputs)


def largest_difference(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Over the largest value."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(got, wanted, strict=True))
