"""One call of an exported graph, its arguments by the names of the op's schema."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from vgcomp.errors import ModelError
from vgcomp.normalize.builder import Builder, Value


@dataclass(frozen=True)
class Call:
    """``target(*args, **kwargs)``; arguments are Values, scalars or lists. ``out``: its fake value(s)."""

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    name: str

    def __getitem__(self, name: str) -> Any:
        """The argument called ``name``, or its default."""
        if name in self.kwargs:
            return self.kwargs[name]
        position, default = _parameters(self.target)[name]
        return self.args[position] if position < len(self.args) else default

    @property
    def x(self) -> Any:
        """The first argument."""
        return self.args[0]

    @property
    def shape(self) -> list[int]:
        """Shape of the (first) output."""
        out = self.out if isinstance(self.out, Tensor) else self.out[0]
        return [int(size) for size in out.shape]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the (first) output."""
        out = self.out if isinstance(self.out, Tensor) else self.out[0]
        dtype: torch.dtype = out.dtype
        return dtype

    def refuse(self, why: str) -> ModelError:
        """The error for a form of the op that has no canonical spelling."""
        return ModelError(f"{self.target} at node {self.name!r} {why}")


#: Rewrites one call into canonical nodes.
Handler = Callable[[Builder, Call], Value]

#: An op family's part of the table.
Table = dict[Any, Handler]


@cache
def _parameters(target: Any) -> dict[str, tuple[int, Any]]:
    """Name -> (position, default) of an overload's parameters."""
    return {
        argument.name: (position, argument.default_value if argument.has_default_value() else None)
        for position, argument in enumerate(target._schema.arguments)
    }


def shape_of(value: Any) -> list[int]:
    """Shape of a node or a constant."""
    tensor = value if isinstance(value, Tensor) else value.meta["val"]
    return list(tensor.shape)


def dtype_of(value: Any) -> torch.dtype:
    """Dtype of a node or a constant."""
    tensor = value if isinstance(value, Tensor) else value.meta["val"]
    return tensor.dtype  # type: ignore[no-any-return]


def per_dim(value: Any, rank: int) -> list[int]:
    """An int or a list of one or ``rank`` ints as ``rank`` ints."""
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values


def sorted_dims(dims: Any, rank: int) -> list[int]:
    """Non-negative dims in ascending order; None or none means all."""
    if dims is None or dims == []:
        return list(range(rank))
    listed = [dims] if isinstance(dims, int) else dims
    return sorted(dim % rank for dim in listed)
