"""Records what an eager run allocates and frees, in order, Python's own lifetimes included.

    with Recorder(weights) as recorder, torch.inference_mode():
        module(*inputs)
    recorder.events

Runs on tensors without data: the network's code, not a graph of it, decides when a tensor goes, so callers' variables
that keep tensors alive show. What CUDA ops allocate inside themselves comes from :mod:`vgcomp.cuda_temporaries`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from vgcomp.alloc_trace import Alloc, Event, Free, Kind
from vgcomp.cuda_temporaries import NONE, cuda_temporaries
from vgcomp.track import LiveTracker

aten = torch.ops.aten

#: Their CUDA kernels bring the input to row-major order first and leave the result in it; others follow their inputs.
_CONTIGUOUS_RESULT = (aten.group_norm.default, aten.layer_norm.default)


class Recorder(LiveTracker):
    """A tracker of live storage that also keeps the order of allocations and frees.

    ``inputs`` are allocated first and stay. Use it under ``torch.inference_mode()``, so that linear layers, attention
    and norms are seen whole, as the CUDA kernels are.
    """

    def __init__(self, inputs: Sequence[Tensor] = ()) -> None:
        self.events: list[Event] = []
        self._slots: dict[int, int] = {}
        self._made = 0
        super().__init__(inputs)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        at = len(self.events)
        inner_args = args
        if func in _CONTIGUOUS_RESULT:
            inner_args = (args[0].contiguous(), *args[1:])
        out = super().__torch_dispatch__(func, types, inner_args, kwargs)
        inner = cuda_temporaries(func, args, out)
        if inner is not NONE:
            self._wrap(at, inner.before, inner.after)
        return out

    def hold(self, sizes: Iterable[int], kind: Kind = "weight") -> list[int]:
        """Allocates storages that no tensor of the run stands for, such as weights; returns their slots."""
        made = [Alloc(self._new_slot(), size, kind) for size in sizes if size]
        self.events += made
        return [event.slot for event in made]

    def replace(self, slots: Sequence[int], sizes: Sequence[int], kind: Kind = "weight") -> list[int]:
        """Allocates each anew in another size and frees the old one, in turn, as ``module.to(dtype)`` does."""
        made = []
        for slot, size in zip(slots, sizes, strict=True):
            made += self.hold([size], kind)
            self.events.append(Free(slot))
        return made

    def _wrap(self, at: int, before: Sequence[int], after: Sequence[int]) -> None:
        """Puts temporaries around the events of the op that was just seen, which began at ``at``."""
        early = [Alloc(self._new_slot(), size, "workspace") for size in before if size]
        late = [Alloc(self._new_slot(), size, "workspace") for size in after if size]
        self.events[at:at] = early
        self.events += late
        self.events += [Free(event.slot) for event in (*reversed(late), *reversed(early))]

    def _new_slot(self) -> int:
        self._made += 1
        return self._made - 1

    def _count(self, tensor: Tensor, op: str) -> None:
        key, size = tensor.untyped_storage()._cdata, tensor.untyped_storage().nbytes()
        if key not in self._live and size:
            self._slots[key] = self._new_slot()
            self.events.append(Alloc(self._slots[key], size, "input" if op == "input" else "temporary"))
        super()._count(tensor, op)

    def _released(self, key: int, reference: object) -> None:
        if key in self._slots:
            self.events.append(Free(self._slots.pop(key)))
        super()._released(key, reference)
