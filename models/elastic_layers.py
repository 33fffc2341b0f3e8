"""Layers of a supernet: each runs with as many of its channels as the choices made leave it, by slices of its weights.

A subnet's weights are the first channels of the supernet's. Where an axis is a concatenation, or the halves of a gated
layer, they are the first of each part. Norms take their statistics over the active channels, in as many groups as ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vgcomp.space import Option


@dataclass(frozen=True)
class Segment:
    """Part of an axis. ``full``: elements in the supernet; ``choice`` None: always all of them.

    A chosen width of n leaves n · ``factor`` of them. ``repeat``: so many such segments follow each other.
    """

    full: int
    choice: str | None = None
    factor: int = 1
    repeat: int = 1


#: An axis of a weight or an activation: its segments in order.
Width = tuple[Segment, ...]


def fixed(size: int) -> Width:
    """A width that no choice changes."""
    return (Segment(size),)


def full_size(width: Width) -> int:
    """Elements in the supernet."""
    return sum(segment.full * segment.repeat for segment in width)


@dataclass
class Active:
    """The choices made, shared by all layers of a supernet; one that is not here is at its largest."""

    options: dict[str, Option] = field(default_factory=dict)

    def replace(self, options: Mapping[str, Option]) -> None:
        """Other choices from now on."""
        self.options = dict(options)

    def kept(self, segment: Segment) -> int:
        """Elements of one segment that are active."""
        chosen = None if segment.choice is None else self.options.get(segment.choice)
        return segment.full if chosen is None else int(chosen) * segment.factor

    def size(self, width: Width) -> int:
        """Elements of an axis that are active."""
        return sum(self.kept(segment) * segment.repeat for segment in width)

    def narrow(self, tensor: Tensor, dim: int, width: Width) -> Tensor:
        """The active part of a dimension; the tensor itself where that is all of it."""
        if self.size(width) == full_size(width):
            return tensor
        parts, start = [], 0
        for segment in width:
            for _ in range(segment.repeat):
                parts.append(tensor.narrow(dim, start, self.kept(segment)))
                start += segment.full
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


class Elastic(nn.Module):
    """What elastic layers share. ``axes``: the widths of the leading axes of each parameter, by its name."""

    active: Active
    axes: dict[str, tuple[Width, ...]]

    def part(self, name: str) -> Any:
        """The active part of a parameter, None where the layer has none of that name."""
        tensor = getattr(self, name)
        for dim, width in enumerate(self.axes[name] if tensor is not None else ()):
            tensor = self.active.narrow(tensor, dim, width)
        return tensor

    def active_elements(self) -> int:
        """Elements of the parameters that are active, by arithmetic."""
        return sum(self._elements(name, tensor) for name, tensor in self._parameters.items() if tensor is not None)

    def _elements(self, name: str, tensor: Tensor) -> int:
        sizes = [self.active.size(width) for width in self.axes[name]]
        return math.prod((*sizes, *tensor.shape[len(sizes) :]))


class Linear(nn.Linear, Elastic):
    """(…, before) -> (…, after)."""

    def __init__(self, active: Active, before: Width, after: Width, bias: bool = True) -> None:
        super().__init__(full_size(before), full_size(after), bias=bias)
        self.active, self.axes = active, {"weight": (after, before), "bias": (after,)}

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.part("weight"), self.part("bias"))


class Conv2d(nn.Conv2d, Elastic):
    """(N, before, H, W) -> (N, after, H', W'), padded by half its kernel."""

    def __init__(self, active: Active, before: Width, after: Width, kernel: int, stride: int = 1) -> None:
        super().__init__(full_size(before), full_size(after), kernel, stride, padding=kernel // 2)
        self.active, self.axes = active, {"weight": (after, before), "bias": (after,)}

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.part("weight"), self.part("bias"), self.stride, self.padding)


class GroupNorm(nn.GroupNorm, Elastic):
    """Over (N, width, …), in a fixed number of groups of the active channels."""

    def __init__(self, active: Active, groups: int, width: Width) -> None:
        super().__init__(groups, full_size(width))
        self.active, self.axes = active, {"weight": (width,), "bias": (width,)}

    def forward(self, input: Tensor) -> Tensor:
        return F.group_norm(input, self.num_groups, self.part("weight"), self.part("bias"), self.eps)


class LayerNorm(nn.LayerNorm, Elastic):
    """Over the last dimension."""

    def __init__(self, active: Active, width: Width) -> None:
        super().__init__(full_size(width))
        self.active, self.axes = active, {"weight": (width,), "bias": (width,)}

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, (self.active.size(self.axes["weight"][0]),), self.part("weight"), self.part("bias"))


class Positions(Elastic):
    """A learned vector a place, added: (N, places, width) -> the same."""

    def __init__(self, active: Active, places: int, width: Width) -> None:
        super().__init__()
        self.active, self.axes = active, {"table": (fixed(places), width)}
        self.table = nn.Parameter(torch.empty(places, full_size(width)))
        nn.init.normal_(self.table, std=0.02)

    def forward(self, input: Tensor) -> Tensor:
        return input + self.part("table")  # type: ignore[no-any-return]


class Residual(nn.Module):
    """``x + body(x, …)`` where the choice keeps it, else ``x``. ``kept_by``: the options that do; no choice: always."""

    def __init__(self, active: Active, body: nn.Module, choice: str | None, kept_by: tuple[str, ...]) -> None:
        super().__init__()
        self.active, self.body, self.choice, self.kept_by = active, body, choice, kept_by

    @property
    def kept(self) -> bool:
        """Whether the choices made keep it."""
        chosen = None if self.choice is None else self.active.options.get(self.choice)
        return chosen is None or chosen in self.kept_by

    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        return x + self.body(x, *rest) if self.kept else x  # type: ignore[no-any-return]


def active_parameters(module: nn.Module) -> int:
    """Elements of the parameters that a supernet runs with as it stands. Parameters of other layers count whole."""
    if isinstance(module, Residual) and not module.kept:
        return 0
    own = sum(tensor.numel() for tensor in module._parameters.values() if tensor is not None)
    mine = module.active_elements() if isinstance(module, Elastic) else own
    return mine + sum(active_parameters(child) for child in module.children())


def elastic_axes(module: nn.Module) -> Iterator[tuple[str, int, Segment]]:
    """(parameter's path, axis, segment) of each axis of the supernet's weights that is one segment of a choice's."""
    for path, layer in module.named_modules():
        if not isinstance(layer, Elastic):
            continue
        for name in (name for name, tensor in layer._parameters.items() if tensor is not None):
            for axis, width in enumerate(layer.axes[name]):
                if len(width) == 1 and width[0].choice is not None:
                    yield f"{path}.{name}", axis, width[0]
