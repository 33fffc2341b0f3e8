"""Live bytes and predicted seconds of an eager run, op by op as they are dispatched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from vgcomp import ir
from vgcomp.cost_models import AnalyticModel, OpWork, work_of
from vgcomp.execution import Clock, issue
from vgcomp.targets import Target
from vgcomp.track import LiveTracker

aten = torch.ops.aten

_CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
_COPIES = (aten._to_copy.default, aten.contiguous.default, aten.copy_.default)


class Meter(LiveTracker):
    """A tracker of live storage that also times the run on ``target`` under the analytic model.

    Run the network under ``torch.inference_mode()``: linear layers, attention and norms are then seen whole.
    """

    def __init__(self, inputs: Sequence[Tensor], target: Target) -> None:
        super().__init__(inputs)
        self.ops = 0
        self._target = target
        self._model = AnalyticModel(target)
        self._clock, self._issue = Clock(), issue(target, "eager")

    @property
    def seconds(self) -> float:
        """From the first op to the end of the last, the device's waits for the host included."""
        return self._clock.now

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = super().__torch_dispatch__(func, types, args, kwargs)
        work = _work(func, args, kwargs, out)
        if work is None:
            self._clock.run([0.0], self._issue.view_s)
        else:
            self.ops += 1
            self._clock.run([self._model.op_seconds(work, self._target).seconds], self._issue.op_s)
        return out


def _work(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> OpWork | None:
    """The work of an op that eager PyTorch dispatched; None for views and for what is no op on tensors."""
    inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if not isinstance(out, Tensor) or (_is_view(inputs, out) and not func._schema.is_mutable):
        return None
    if func in _CONVOLUTIONS:
        return work_of(aten.convolution.default, _convolution_args(*args), {}, out)
    if func in _COPIES:
        return work_of(aten.clone.default, inputs[-1:], {}, out)
    if func in ir.DIALECT:
        return work_of(func, args, kwargs, out)
    if not inputs:
        return work_of(aten.full.default, (list(out.shape), 0.0), {}, out)
    # Whatever is left in these networks is elementwise.
    target = aten.neg.default if len(inputs) == 1 else aten.add.Tensor
    return work_of(target, inputs[:2], {}, out)


def _is_view(inputs: list[Tensor], out: Tensor) -> bool:
    storage = out.untyped_storage()._cdata
    return any(x.untyped_storage()._cdata == storage for x in inputs)


def _convolution_args(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Any, ...]:
    dims = weight.dim() - 2
    stride, padding, dilation = (
        list(value) if isinstance(value, (list, tuple)) else [value] * dims for value in (stride, padding, dilation)
    )
    return (x, weight, bias, stride, padding, dilation, False, [0] * dims, groups)
