"""What one op allocates on the CPU, found by running it once on fake tensors under a tracker.

Eager CPU kernels of composite ops make temporaries that no graph shows: ``linear`` copies a
non-contiguous input, a norm returns its statistics too, attention without a fused kernel makes its whole
score matrix. Each structure (op, shapes, strides, dtypes, scalars) is run once and remembered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses import FakeTensor

from vgcomp import ir
from vgcomp.inplace import call_into, write_to
from vgcomp.track import LiveTracker

_measured: dict[object, tuple[int, int]] = {}


def workspace_bytes(node: fx.Node, *, merge: Any = None, direct: bool = False) -> int:
    """Most bytes that a node's op holds on the CPU beside its inputs and its output.

    With ``merge``: those of merging two values like the node's by that op. With ``direct``: those of writing into
    a tensor that is there before.
    """
    if direct:
        into = _Into(node.target, tuple(ir.val(node).shape), ir.val(node).dtype)
        return _measure(into, fx.map_arg(node.args, ir.val), fx.map_arg(node.kwargs, ir.val))[1]  # type: ignore[arg-type]
    if merge is not None:
        return _measure(merge, (ir.val(node), ir.val(node)), {})[1]
    return _of_node(node)[1]


def storage_bytes(node: fx.Node) -> int:
    """Bytes of the storage that a node's op makes for its output on the CPU."""
    return _of_node(node)[0]


def _of_node(node: fx.Node) -> tuple[int, int]:
    if node.target in ir.VIEW_OPS or not node.all_input_nodes:
        return ir.nbytes(ir.val(node)), 0
    args = fx.map_arg(node.args, ir.val)
    kwargs = fx.map_arg(node.kwargs, ir.val)
    if "reuse" in node.meta:
        return _measure(_InPlace(node.target, node.meta["reuse"]), args, kwargs)  # type: ignore[arg-type]
    return _measure(node.target, args, kwargs)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _InPlace:
    """An op that writes over one of its arguments, as a callable that can be a key."""

    target: Any
    index: int

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return call_into(self.target)(args[self.index], self.index, list(args), kwargs)


@dataclass(frozen=True)
class _Into:
    """An op that writes into a given tensor, as a callable that can be a key."""

    target: Any
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        out = torch.empty(self.shape, dtype=self.dtype)
        write_to(self.target)(out, list(args), kwargs)
        return out


def _measure(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int]:
    """(storage of the output, most live inside beside it)."""
    key = (target, _key(args), _key(kwargs))
    if key not in _measured:
        _measured[key] = _run(target, args, kwargs)
    return _measured[key]


def _run(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int]:
    mode = _fake_mode(args)
    if mode is None:
        return 0, 0
    tracker = LiveTracker()
    with torch.no_grad(), mode, tracker:
        out = target(*args, **kwargs)
        size = tracker.current
    del out
    return size, tracker.peak - size


def _fake_mode(args: Any) -> Any:
    for value in args:
        if isinstance(value, FakeTensor):
            return value.fake_mode
        found = _fake_mode(value) if isinstance(value, (list, tuple)) else None
        if found is not None:
            return found
    return None


def _key(value: Any) -> object:
    if isinstance(value, Tensor):
        return (tuple(value.shape), tuple(value.stride()), value.dtype)
    if isinstance(value, (list, tuple)):
        return tuple(_key(entry) for entry in value)
    if isinstance(value, dict):
        return tuple((name, _key(entry)) for name, entry in sorted(value.items()))
    return (type(value), value)
