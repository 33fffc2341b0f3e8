"""Runs a Program's graph one node after the other on real tensors: the plainest meaning it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from vgcomp import ir
from vgcomp.program import Program


def run(program: Program, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The outputs. Asserts that each node's value has the shape, dtype and strides its fake value says."""
    env: dict[fx.Node, Any] = {}
    remaining = iter(inputs)
    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op == "output":
                break
            env[node] = _value(program, node, env, remaining)
            _check(node, env[node])
    return tuple(env[node] for node in program.outputs)


def _value(program: Program, node: fx.Node, env: dict[fx.Node, Any], inputs: Any) -> Any:
    if node.op == "placeholder":
        return next(inputs)
    if node.op == "get_attr":
        return program.weights[str(node.target)].load()
    args = fx.node.map_arg(node.args, env.__getitem__)
    kwargs = fx.node.map_arg(node.kwargs, env.__getitem__)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _check(node: fx.Node, real: Tensor) -> None:
    fake = ir.val(node)
    assert (fake.shape, fake.dtype) == (real.shape, real.dtype), node.format_node()
    strides = [(f, r) for size, f, r in zip(real.shape, fake.stride(), real.stride(), strict=True) if size > 1]
    assert all(f == r for f, r in strides), f"{node.format_node()}: strides {fake.stride()}, really {real.stride()}"


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((got - wanted).abs().max() / wanted.abs().max())
