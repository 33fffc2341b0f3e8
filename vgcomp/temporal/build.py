"""Temporal layers as graphs: a module of :mod:`vgcomp.models.temporal`, captured, and copied into another graph."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import fx, nn

from vgcomp import infer
from vgcomp.capture import capture
from vgcomp.models.initialise import build_untouched
from vgcomp.models.temporal import TEMPORAL, heads_for, start_as_identity
from vgcomp.program import Program
from vgcomp.weights import Weight, from_tensor


@dataclass(frozen=True)
class LayerSpec:
    """What a layer is made for. ``context``: tokens of the prompt and their width; None for kinds without one."""

    kind: str
    batch: int
    frames: int
    channels: int
    height: int
    width: int
    dtype: torch.dtype
    context: tuple[int, int] | None
    head: int

    def module(self) -> nn.Module:
        """The layer, its parameters as torch makes them."""
        context = self.context[1] if self.context is not None else 0
        size, heads = (self.height, self.width), heads_for(self.channels, self.head)
        return TEMPORAL[self.kind](self.channels, self.frames, size, context, heads)

    @property
    def grid(self) -> str:
        """A name for what constants (rotary positions) depend on."""
        sizes = (self.frames, self.height, self.width, self.channels // heads_for(self.channels, self.head))
        return "x".join(map(str, sizes)) + f"_{self.dtype}".replace("torch.", "")


@lru_cache(maxsize=256)
def layer_program(spec: LayerSpec) -> Program:
    """From (B·T, C, H, W), and (B, S, D) for a kind that reads a prompt, to (B·T, C, H, W); parameters have no data."""
    module = build_untouched(spec.module, spec.dtype)
    images = (spec.batch * spec.frames, spec.channels, spec.height, spec.width)
    context = (spec.batch, *(spec.context or (1, 1)))
    inputs = [torch.empty(shape, dtype=spec.dtype) for shape in (images, context)]
    program = capture(module, inputs, name=spec.kind, input_names=("x", "context"))
    return program.without_data({name for name, _ in module.named_parameters()})


def seeded_parameters(spec: LayerSpec, name: str, seed: int) -> dict[str, torch.Tensor]:
    """Parameters of a layer that starts as the identity: torch's own initialisation, each branch's last product zero.

    They depend on the seed, the layer's ``name``, and its spec only; torch's random state stays as it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * 1_000_003 + zlib.crc32(name.encode()))
        module = spec.module()
    start_as_identity(module)
    return {key: value.detach().to(spec.dtype) for key, value in module.named_parameters()}


def layer_weights(spec: LayerSpec, name: str, seed: int | None) -> dict[str, Weight]:
    """Weights by their names in :func:`layer_program`, named for a network: parameters by the layer, tables shared.

    ``seed`` None: parameters have no data.
    """
    given = {} if seed is None else seeded_parameters(spec, name, seed)
    found: dict[str, Weight] = {}
    for key, weight in layer_program(spec).weights.items():
        if key in given:
            found[key] = from_tensor(f"{name}.{spec.kind}.{key}", given[key])
        elif weight.present:
            found[key] = from_tensor(f"temporal.{spec.kind}.{spec.grid}.{key}", weight.load())
        else:
            found[key] = Weight(f"{name}.{spec.kind}.{key}", weight.shape, weight.dtype, weight.data)
    return found


def splice(
    graph: fx.Graph,
    anchor: fx.Node,
    body: fx.Graph,
    operands: Sequence[fx.Node | None],
    names: Mapping[str, str],
    scope: str,
) -> fx.Node:
    """Copies ``body`` before ``anchor``; its first result. ``operands``: for its placeholders, None for one not read.

    ``names``: the targets that its weights get. A weight that the graph has already is read again.
    """
    weights = {str(node.target): node for node in graph.nodes if node.op == "get_attr"}
    placeholders = iter(operands)
    env: dict[fx.Node, fx.Node | None] = {}
    for node in body.nodes:
        if node.op == "placeholder":
            env[node] = next(placeholders)
        elif node.op == "get_attr":
            name = names[str(node.target)]
            env[node] = weights.get(name) or _weight(graph, name, node)
        elif node.op == "call_function":
            with graph.inserting_before(anchor):
                new = env[node] = graph.node_copy(node, lambda x: env[x])  # type: ignore[arg-type,return-value]
            new.meta = {**node.meta, "scope": ".".join(filter(None, (scope, str(node.meta.get("scope", "")))))}
    (results,) = body.output_node().args
    found = env[results[0]]  # type: ignore[index]
    assert found is not None
    return found


def _weight(graph: fx.Graph, name: str, like: fx.Node) -> fx.Node:
    """A new weight's node, after the inputs."""
    first = next(node for node in graph.nodes if node.op not in ("placeholder", "get_attr"))
    value = like.meta["val"]
    with graph.inserting_before(first):
        node = graph.get_attr(name)
    node.meta["val"] = infer.fake_tensor(value.shape, value.dtype)
    return node
