"""The table of emitters: one function an op of the dialect, filled by the ``emit_*`` modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from vgcomp.backends.arguments import bind
from vgcomp.backends.onnx_export.scope import Scope, Value

#: Emits one call into ``call.scope`` and returns the name of its value.
Emitter = Callable[["Call"], str]

EMITTERS: dict[Any, Emitter] = {}


def emits(*targets: Any) -> Callable[[Emitter], Emitter]:
    """Registers an emitter for some ops."""

    def register(emitter: Emitter) -> Emitter:
        for target in targets:
            EMITTERS[target] = emitter
        return emitter

    return register


class Call:
    """A call of an op with its arguments by the schema's names, defaults filled in.

    Tensors are :class:`Value`; everything else is as in the graph. ``out`` is the result's shape
    and dtype (its name is not given yet).
    """

    def __init__(self, scope: Scope, target: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Value) -> None:
        self.scope = scope
        self.target = target
        self.out = out
        self._arguments = bind(target, args, kwargs)

    def __getitem__(self, name: str) -> Any:
        return self._arguments[name]

    def value(self, name: str) -> Value:
        """A tensor argument."""
        found = self._arguments[name]
        assert isinstance(found, Value), f"{self.target}: argument {name!r} is {found!r}, not a tensor"
        return found

    def optional(self, name: str) -> Value | None:
        """A tensor argument that may be None."""
        return self.value(name) if self._arguments[name] is not None else None

    def operand(self, name: str, dtype: torch.dtype) -> str:
        """A tensor or Python scalar argument, as ``dtype``."""
        found = self._arguments[name]
        if isinstance(found, Value):
            return self.scope.as_dtype(found, dtype)
        return self.scope.scalar(found, dtype)
