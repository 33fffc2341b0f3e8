"""The table of emitters: one function an op of the dialect, filled by the ``emit_*`` modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from vgcomp import ir
from vgcomp.backends.arguments import bind
from vgcomp.backends.coreml.scope import Scope

#: Emits one call and returns its variable.
Emitter = Callable[["Call"], Any]

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

    Tensors are nodes; :meth:`var` gives their variables.
    """

    def __init__(self, scope: Scope, node: fx.Node) -> None:
        self.scope = scope
        self.mb = scope.mb
        self.node = node
        self.target = node.target
        self.shape = tuple(int(size) for size in ir.val(node).shape)
        self.dtype = ir.val(node).dtype
        self._arguments = bind(node.target, node.args, node.kwargs)  # type: ignore[arg-type]

    def __getitem__(self, name: str) -> Any:
        return self._arguments[name]

    def node_of(self, name: str) -> fx.Node:
        """A tensor argument."""
        found = self._arguments[name]
        assert isinstance(found, fx.Node), f"{self.target}: argument {name!r} is {found!r}, not a tensor"
        return found

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor argument."""
        return tuple(int(size) for size in ir.val(self.node_of(name)).shape)

    def var(self, name: str) -> Any:
        """The variable of a tensor argument."""
        return self.scope.var(self.node_of(name))

    def optional(self, name: str) -> Any:
        """The variable of a tensor argument that may be None."""
        return None if self._arguments[name] is None else self.var(name)

    def operand(self, name: str, dtype: torch.dtype) -> Any:
        """A tensor or Python scalar argument, as ``dtype``."""
        if isinstance(self._arguments[name], fx.Node):
            return self.scope.cast(self.var(name), dtype)
        return self.scope.scalar(self._arguments[name], dtype)
