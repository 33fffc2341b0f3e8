"""Ops of our own, under ``torch.ops.vgcomp``: the halves of ops whose reduction crosses a slice.

``group_norm`` is ``group_moments`` (the statistics, mergeable) followed by ``group_norm_apply``
(pointwise given them). Attention over blocks of keys is ``attention_partial`` a block,
``merge_softmax`` between blocks and ``attention_finish`` once. All accumulate in fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor

_NS = "vgcomp"


@torch.library.custom_op(f"{_NS}::group_moments", mutates_args=())
def group_moments(x: Tensor, groups: int) -> Tensor:
    """(N, C, *) -> fp32 (3, N, groups): count, mean and sum of squared deviations of each group."""
    parts = x.unflatten(1, (groups, -1))
    parts = parts.float() if parts.dtype in (torch.float16, torch.bfloat16) else parts
    # Over the dimensions as they lie: merging them first would copy a tensor that is not contiguous.
    var, mean = torch.var_mean(parts, dim=list(range(2, parts.dim())), correction=0)
    size = float(parts[0, 0].numel())
    return torch.stack((torch.full_like(mean, size), mean, var * size)).float()


@group_moments.register_fake
def _(x: Tensor, groups: int) -> Tensor:
    return x.new_empty((3, x.shape[0], groups), dtype=torch.float32)


@torch.library.custom_op(f"{_NS}::merge_moments", mutates_args=())
def merge_moments(a: Tensor, b: Tensor) -> Tensor:
    """Moments of the union of two sets (Chan, Golub and LeVeque 1979, eq. 2.1)."""
    count = a[0] + b[0]
    delta = b[1] - a[1]
    mean = a[1] + delta * (b[0] / count)
    m2 = a[2] + b[2] + delta * delta * (a[0] * b[0] / count)
    return torch.stack((count, mean, m2))


@merge_moments.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return torch.empty_like(a)


@torch.library.custom_op(f"{_NS}::group_norm_apply", mutates_args=())
def group_norm_apply(
    x: Tensor, moments: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """``group_norm`` of (N, C, *) with the statistics given, as y = x * scale + shift per channel."""
    scale, shift = _scale_shift(x, moments, groups, weight, bias, eps)
    return torch.addcmul(shift, x, scale, out=_like_group_norm(x))


@group_norm_apply.register_fake
def _(x: Tensor, moments: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    return _like_group_norm(x)


def _like_group_norm(x: Tensor) -> Tensor:
    """An empty result laid out as ``group_norm`` lays its own out: channels last if ``x`` is, else row-major."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    last = x.dim() in formats and not x.is_contiguous() and x.is_contiguous(memory_format=formats[x.dim()])
    return torch.empty_like(x, memory_format=formats[x.dim()] if last else torch.contiguous_format)


def _scale_shift(
    x: Tensor, moments: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    n, c = x.shape[0], x.shape[1]
    rstd = torch.rsqrt(moments[2] / moments[0] + eps)
    scale = rstd.repeat_interleave(c // groups, dim=1)
    mean = moments[1].repeat_interleave(c // groups, dim=1)
    if weight is not None:
        scale = scale * weight.float()
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias.float()
    shape = (n, c) + (1,) * (x.dim() - 2)
    return scale.reshape(shape).to(x.dtype), shift.reshape(shape).to(x.dtype)


@torch.library.custom_op(f"{_NS}::attention_partial", mutates_args=())
def attention_partial(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Un-normalised attention over one block of keys.

    q (*, S, D), k (*, K, D), v (*, K, E) -> fp32 (*, S, E + 2): weighted values, then the row's
    maximum score and the sum of exp(score - maximum).
    """
    scores = torch.matmul(q.float(), k.float().transpose(-1, -2)) * scale
    top = scores.amax(dim=-1, keepdim=True)
    weights = torch.exp(scores - top)
    return torch.cat((torch.matmul(weights, v.float()), top, weights.sum(dim=-1, keepdim=True)), dim=-1)


@attention_partial.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return q.new_empty((*q.shape[:-1], v.shape[-1] + 2), dtype=torch.float32)


@torch.library.custom_op(f"{_NS}::merge_softmax", mutates_args=())
def merge_softmax(a: Tensor, b: Tensor) -> Tensor:
    """Partial attention over the union of two blocks of keys (online softmax)."""
    top = torch.maximum(a[..., -2:-1], b[..., -2:-1])
    wa, wb = torch.exp(a[..., -2:-1] - top), torch.exp(b[..., -2:-1] - top)
    values = a[..., :-2] * wa + b[..., :-2] * wb
    return torch.cat((values, top, a[..., -1:] * wa + b[..., -1:] * wb), dim=-1)


@merge_softmax.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return torch.empty_like(a)


@torch.library.custom_op(f"{_NS}::attention_finish", mutates_args=())
def attention_finish(partial: Tensor, dtype: torch.dtype) -> Tensor:
    """Normalises the merged partial of every block of keys: (*, S, E + 2) -> (*, S, E)."""
    return (partial[..., :-2] / partial[..., -1:]).to(dtype)


@attention_finish.register_fake
def _(partial: Tensor, dtype: torch.dtype) -> Tensor:
    return partial.new_empty((*partial.shape[:-1], partial.shape[-1] - 2), dtype=dtype)
