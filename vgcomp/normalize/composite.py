"""Ops that ATen itself defines by other ops (``einsum`` and the like): their definition as a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from vgcomp import infer


def is_composite(target: Any) -> bool:
    """True for an op with a definition by other ops that differentiate by themselves."""
    return isinstance(target, torch._ops.OpOverload) and target._can_decompose()


def decomposition(node: fx.Node, sources: Sequence[fx.Node]) -> fx.Graph:
    """The definition of one call; a placeholder for each of its distinct input nodes, in their order.

    ``sources``: canonical nodes whose values the inputs have.
    """
    inputs = list(node.all_input_nodes)

    def call(*tensors: Tensor) -> Any:
        given = dict(zip(inputs, tensors, strict=True))
        args = fx.node.map_arg(node.args, given.__getitem__)
        kwargs = fx.node.map_arg(dict(node.kwargs), given.__getitem__)
        return node.target.decompose(*args, **kwargs)  # type: ignore[union-attr]

    values = [source.meta["val"] for source in sources]
    with torch.no_grad(), infer.shared_fake_mode():
        return make_fx(call, tracing_mode="fake")(*values).graph
