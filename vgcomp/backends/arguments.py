"""Arguments of a call by the names of its op's schema, for the backends that write each op out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def bind(target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Every argument of the op's schema, defaults filled in."""
    bound: dict[str, Any] = {}
    for i, argument in enumerate(target._schema.arguments):
        if argument.kwarg_only or i >= len(args):
            default = argument.default_value if argument.has_default_value() else None
            bound[argument.name] = kwargs.get(argument.name, default)
            continue
        bound[argument.name] = args[i]
    return bound


def positive(dim: int, rank: int) -> int:
    """A dimension counted from the front."""
    return dim + rank if dim < 0 else dim


def spread(value: int | Sequence[int], n: int) -> list[int]:
    """An int or a list of one, as a list of ``n``."""
    values = [value] if isinstance(value, int) else list(value)
    return values * n if len(values) == 1 else values
