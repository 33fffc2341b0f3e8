"""What an ONNX name stands for while a file is being imported.

A :class:`Constant` is known (shape arithmetic ends here), a :class:`Parameter` is a weight kept by
reference, a :class:`Live` value is a node of the graph under construction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import fx

from vgcomp.ir import val
from vgcomp.onnx_import.tensors import StoredTensor


@dataclass(frozen=True, eq=False, slots=True)
class Constant:
    """A value known at import. ``tensor`` may be an expanded fill that takes no memory."""

    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    @property
    def is_fill(self) -> bool:
        """True when all elements are known to be equal without looking at many of them."""
        if self.tensor.numel() == 0:
            return False
        return all(stride == 0 or size == 1 for stride, size in zip(self.tensor.stride(), self.shape))

    def item(self) -> float | int | bool:
        """The value of every element of a fill."""
        first: float | int | bool = self.tensor[(0,) * self.tensor.dim()].item()
        return first


@dataclass(frozen=True, eq=False, slots=True)
class Parameter:
    """A weight by reference: an initializer, perhaps seen under another shape (same bytes)."""

    stored: StoredTensor
    shape: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.stored.dtype

    def reshaped(self, shape: tuple[int, ...]) -> Parameter:
        return replace(self, shape=shape)

    def load(self) -> torch.Tensor:
        """The data. ModelError when its file is missing."""
        return self.stored.load().reshape(self.shape)


@dataclass(frozen=True, eq=False, slots=True)
class Live:
    """A node: its value depends on the inputs or on weights."""

    node: fx.Node

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(val(self.node).shape)

    @property
    def dtype(self) -> torch.dtype:
        return val(self.node).dtype


Value = Constant | Parameter | Live
