"""Measures live tensor storage: the independent check of every memory prediction.

    with LiveTracker(inputs=inputs) as tracker, torch.no_grad():
        module(*inputs)
    tracker.peak          # bytes

It watches storages, not values, and knows nothing of graphs, schedules or plans.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vgcomp import ops


def _own_implementations() -> dict[str, Callable[..., Tensor]]:
    """Python bodies of the ops of our own, so that what they allocate inside is seen too."""
    found = (value for value in vars(ops).values() if isinstance(value, CustomOpDef))
    return {f"{op._namespace}::{op._name}": op._init_fn for op in found}


class LiveTracker(TorchDispatchMode):
    """Counts bytes of tensor storages created while it is active, from creation to release.

    ``inputs`` count from the start to the end; storages that existed before and are not among them
    (weights) do not count. ``current`` and ``peak`` are bytes. Use it under ``torch.no_grad()``:
    composite ops (``linear``, attention) are then seen as the ops they consist of, with their
    temporaries; under ``inference_mode`` they are seen whole. What a kernel allocates within itself is
    not a tensor and is not seen. Works on real and on fake tensors.
    """

    def __init__(self, inputs: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.current = 0
        self.peak = 0
        #: The op that was running when the peak was reached.
        self.peak_op: str = ""
        self._own = _own_implementations()
        self._live: dict[int, tuple[int, weakref.ref[Any]]] = {}
        self._inputs = list(inputs)
        for tensor in self._inputs:
            self._count(tensor, "input")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inputs.clear()
        super().__exit__(kind, error, trace)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        inner = self._own.get(func.name())
        if inner is not None:
            with self:
                return inner(*args, **kwargs)
        out = func(*args, **kwargs)
        fresh = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        known = {key for leaf in tree_leaves((args, kwargs)) for key in _keys(leaf)}
        for tensor in fresh:
            if tensor.untyped_storage()._cdata not in known:
                self._count(tensor, str(func))
        return out

    def live_sizes(self) -> list[int]:
        """Bytes of every storage alive now, largest first."""
        return sorted((size for size, _ in self._live.values()), reverse=True)

    def _count(self, tensor: Tensor, op: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return
        size = storage.nbytes()
        self._live[key] = (size, weakref.ref(storage, partial(self._released, key)))
        self.current += size
        if self.current > self.peak:
            self.peak, self.peak_op = self.current, op

    def _released(self, key: int, _: object) -> None:
        size, _ = self._live.pop(key)
        self.current -= size


def _keys(value: object) -> tuple[int, ...]:
    """Identity of the storage that a value refers to, if it refers to one."""
    if isinstance(value, Tensor):
        return (value.untyped_storage()._cdata,)
    if isinstance(value, torch.UntypedStorage):
        return (value._cdata,)
    return ()
