"""What each MIL op means, on torch tensors: arguments by MIL's names, defaults as MIL documents them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: Scores of attention held at once, in elements.
_SCORES = 1 << 26


def _ints(value: Any) -> list[int]:
    return [int(v) for v in (value.reshape(-1).tolist() if isinstance(value, Tensor) else value)]


def _sizes(value: Any, n: int) -> list[int]:
    """One a dimension; 1 where nothing is said."""
    return [1] * n if value is None else _ints(value)


def _flag(value: Any) -> bool:
    return bool(value.item() if isinstance(value, Tensor) else value)


def _number(value: Any) -> float:
    return float(value.item() if isinstance(value, Tensor) else value)


def _reduced(torch_op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(x: Tensor, axes: Any = None, keep_dims: Any = False) -> Tensor:
        dims = list(range(x.dim())) if axes is None else _ints(axes)
        return torch_op(x, dim=dims, keepdim=_flag(keep_dims))

    return run


def _binary(torch_op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, y: torch_op(x, y)  # noqa: PLW0108 (called by MIL's names)


def _unary(torch_op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x: torch_op(x)  # noqa: PLW0108


def _spatial_pad(x: Tensor, pad_type: Any, pad: Any, n: int, fill: float = 0.0) -> Tensor:
    """(before, after) of each spatial dimension, the first one first."""
    if pad_type == "valid" or pad is None:
        return x
    assert pad_type == "custom", f"pad_type {pad_type!r}"
    sides = _ints(pad)
    flat = [side for d in reversed(range(n)) for side in sides[2 * d : 2 * d + 2]]
    return F.pad(x, flat, value=fill) if any(flat) else x


def conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, strides: Any = None, pad_type: Any = "valid",
    pad: Any = None, dilations: Any = None, groups: Any = 1,
) -> Tensor:  # fmt: skip
    n = weight.dim() - 2
    run = (F.conv1d, F.conv2d, F.conv3d)[n - 1]
    step, spread = _sizes(strides, n), _sizes(dilations, n)
    return run(_spatial_pad(x, pad_type, pad, n), weight, bias, step, 0, spread, int(_number(groups)))


def conv_transpose(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, strides: Any = None, pad_type: Any = "valid",
    pad: Any = None, output_shape: Any = None, dilations: Any = None, groups: Any = 1,
) -> Tensor:  # fmt: skip
    n = weight.dim() - 2
    run = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[n - 1]
    step, spread = _sizes(strides, n), _sizes(dilations, n)
    whole = run(x, weight, bias, step, 0, 0, int(_number(groups)), spread)
    sides = _ints(pad) if pad_type == "custom" else [0] * (2 * n)
    for d in range(n):
        size = whole.shape[2 + d] - sides[2 * d] - sides[2 * d + 1]
        wanted = size if output_shape is None else _ints(output_shape)[2 + d]
        missing = max(0, sides[2 * d] + wanted - whole.shape[2 + d])
        if missing:
            widths = [0] * (2 * (n - 1 - d)) + [0, missing]
            tail = F.pad(whole, widths)
            if bias is not None:
                tail.narrow(2 + d, whole.shape[2 + d], missing).add_(bias.reshape([1, -1] + [1] * n))
            whole = tail
        whole = whole.narrow(2 + d, sides[2 * d], wanted)
    return whole


def _pool(kernel_sizes: Any, strides: Any, pad_type: Any, pad: Any) -> tuple[list[int], list[int], list[int]]:
    kernel = _ints(kernel_sizes)
    step = _sizes(strides, len(kernel))
    sides = _ints(pad) if pad_type == "custom" and pad is not None else [0] * (2 * len(kernel))
    assert sides[::2] == sides[1::2], "padding that differs before and after"
    return kernel, step, sides[::2]


def avg_pool(
    x: Tensor, kernel_sizes: Any, strides: Any = None, pad_type: Any = "valid", pad: Any = None,
    exclude_padding_from_average: Any = False, ceil_mode: Any = False,
) -> Tensor:  # fmt: skip
    kernel, step, padding = _pool(kernel_sizes, strides, pad_type, pad)
    counted = not _flag(exclude_padding_from_average)
    run = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel) - 1]
    return run(x, kernel, step, padding, _flag(ceil_mode), counted)  # type: ignore[arg-type]


def max_pool(
    x: Tensor, kernel_sizes: Any, strides: Any = None, pad_type: Any = "valid", pad: Any = None, ceil_mode: Any = False
) -> Tensor:
    kernel, step, padding = _pool(kernel_sizes, strides, pad_type, pad)
    run = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1]
    return run(x, kernel, step, padding, 1, _flag(ceil_mode))  # type: ignore[arg-type]


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """A block of queries at a time."""
    lead, width = query.shape[:-2], query.shape[-1]
    rows = max(1, _SCORES // max(1, math.prod(lead) * key.shape[-2]))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros(attn_mask.shape).masked_fill(~attn_mask, -math.inf)
    parts = []
    for start in range(0, query.shape[-2], rows):
        block = query[..., start : start + rows, :]
        scores = torch.matmul(block, key.transpose(-1, -2)) / math.sqrt(width)
        if attn_mask is not None:
            one = attn_mask.dim() < 2 or attn_mask.shape[-2] == 1
            scores = scores + (attn_mask if one else attn_mask[..., start : start + rows, :])
        parts.append(torch.matmul(torch.softmax(scores, dim=-1), value))
    return torch.cat(parts, dim=-2)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


def matmul(x: Tensor, y: Tensor, transpose_x: Any = False, transpose_y: Any = False) -> Tensor:
    x = x.transpose(-1, -2) if _flag(transpose_x) else x
    y = y.transpose(-1, -2) if _flag(transpose_y) else y
    return torch.matmul(x, y)


def layer_norm(
    x: Tensor, axes: Any = None, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: Any = 1e-5
) -> Tensor:
    dims = sorted(d % x.dim() for d in (_ints(axes) if axes is not None else range(x.dim())))
    var, mean = torch.var_mean(x, dim=dims, correction=0, keepdim=True)
    normal = (x - mean) / torch.sqrt(var + _number(epsilon))
    shape = [x.shape[d] if d in dims else 1 for d in range(x.dim())]
    normal = normal if gamma is None else normal * gamma.reshape(shape)
    return normal if beta is None else normal + beta.reshape(shape)


def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: Any = 1e-5) -> Tensor:
    var, mean = torch.var_mean(x, dim=list(range(2, x.dim())), correction=0, keepdim=True)
    normal = (x - mean) / torch.sqrt(var + _number(epsilon))
    shape = [1, -1] + [1] * (x.dim() - 2)
    normal = normal if gamma is None else normal * gamma.reshape(shape)
    return normal if beta is None else normal + beta.reshape(shape)


def slice_by_index(
    x: Tensor, begin: Any, end: Any, stride: Any = None, begin_mask: Any = None, end_mask: Any = None,
    squeeze_mask: Any = None,
) -> Tensor:  # fmt: skip
    n = x.dim()
    masks = [[False] * n if mask is None else [bool(v) for v in mask.tolist()] for mask in (begin_mask, end_mask)]
    steps = _ints(stride) if stride is not None else [1] * n
    index = [
        slice(None if masks[0][d] else lo, None if masks[1][d] else hi, steps[d])
        for d, (lo, hi) in enumerate(zip(_ints(begin), _ints(end), strict=True))
    ]
    assert squeeze_mask is None or not squeeze_mask.any()
    return x[tuple(index)]


def concat(values: Any, axis: Any, interleave: Any = False) -> Tensor:
    assert not _flag(interleave)
    return torch.cat(values if isinstance(values, list) else [values], dim=int(_number(axis)))


def gather(x: Tensor, indices: Tensor, axis: Any = 0, batch_dims: Any = 0, validate_indices: Any = False) -> Tensor:
    assert int(_number(batch_dims)) == 0
    at = int(_number(axis)) % x.dim()
    found = torch.index_select(x, at, indices.reshape(-1).long())
    return found.reshape([*x.shape[:at], *indices.shape, *x.shape[at + 1 :]])


def pad(x: Tensor, pad: Any, mode: Any = "constant", constant_val: Any = 0.0) -> Tensor:
    sides = _ints(pad)
    n = len(sides) // 2
    flat = [side for d in reversed(range(n)) for side in sides[2 * d : 2 * d + 2]]
    assert mode == "constant", f"padding mode {mode!r}"
    return F.pad(x, flat, value=_number(constant_val))


def upsample_nearest_neighbor(x: Tensor, scale_factor_height: Any = 1, scale_factor_width: Any = 1) -> Tensor:
    height, width = (int(_number(v)) for v in (scale_factor_height, scale_factor_width))
    return x.repeat_interleave(height, dim=-2).repeat_interleave(width, dim=-1)


def cast(x: Tensor, dtype: Any) -> Tensor:
    kinds = {"fp16": torch.float16, "fp32": torch.float32, "int32": torch.int32, "bool": torch.bool}
    return x.to(kinds[dtype])


def gelu(x: Tensor, mode: Any = "EXACT") -> Tensor:
    return F.gelu(x, approximate="none" if mode == "EXACT" else "tanh")


def constexpr_lut_to_dense(indices: Tensor, lut: Tensor, vector_axis: Any = None) -> Tensor:
    """``lut`` has the rank of ``indices`` and two dimensions more: a table for each block of indices, and a vector."""
    assert vector_axis is None and lut.shape[-1] == 1
    tables = lut[..., 0]
    for d, size in enumerate(indices.shape):
        tables = tables.repeat_interleave(size // tables.shape[d], dim=d)
    return torch.gather(tables, -1, indices.long().unsqueeze(-1)).squeeze(-1)


def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    def spread(x: Tensor) -> Tensor:
        for d, size in enumerate(data.shape):
            x = x.repeat_interleave(size // x.shape[d], dim=d)
        return x

    shifted = data.float() if offset is None else data.float() - spread(offset.float())
    return spread(scale.float()) * shifted


OPS: dict[str, Callable[..., Tensor]] = {
    "add": _binary(torch.add),
    "sub": _binary(torch.sub),
    "mul": _binary(torch.mul),
    "real_div": _binary(torch.true_divide),
    "maximum": _binary(torch.maximum),
    "minimum": _binary(torch.minimum),
    "pow": _binary(torch.pow),
    "equal": _binary(torch.eq),
    "greater": _binary(torch.gt),
    "less": _binary(torch.lt),
    "abs": _unary(torch.abs),
    "exp": _unary(torch.exp),
    "sin": _unary(torch.sin),
    "cos": _unary(torch.cos),
    "sqrt": _unary(torch.sqrt),
    "erf": _unary(torch.erf),
    "tanh": _unary(torch.tanh),
    "sigmoid": _unary(torch.sigmoid),
    "relu": _unary(torch.relu),
    "silu": _unary(F.silu),
    "softplus": _unary(F.softplus),
    "floor": _unary(torch.floor),
    "round": _unary(torch.round),
    "identity": _unary(torch.clone),
    "log": lambda x, epsilon=1e-45: torch.log(x + _number(epsilon)),
    "rsqrt": lambda x, epsilon=1e-12: torch.rsqrt(x + _number(epsilon)),
    "leaky_relu": lambda x, alpha: F.leaky_relu(x, _number(alpha)),
    "gelu": gelu,
    "select": lambda cond, a, b: torch.where(cond.bool(), a, b),
    "cast": cast,
    "reshape": lambda x, shape: x.reshape(_ints(shape)),
    "squeeze": lambda x, axes: x.squeeze(tuple(_ints(axes))),
    "expand_dims": lambda x, axes: x.reshape(_expanded(x, _ints(axes))),
    "transpose": lambda x, perm: x.permute(_ints(perm)),
    "tile": lambda x, reps: x.repeat(_ints(reps)),
    "fill": lambda shape, value: torch.full(_ints(shape), _number(value)),
    "slice_by_index": slice_by_index,
    "concat": concat,
    "gather": gather,
    "pad": pad,
    "upsample_nearest_neighbor": upsample_nearest_neighbor,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "avg_pool": avg_pool,
    "max_pool": max_pool,
    "linear": linear,
    "matmul": matmul,
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "softmax": lambda x, axis=-1: torch.softmax(x, dim=int(_number(axis))),
    "reduce_sum": _reduced(torch.sum),
    "reduce_mean": _reduced(torch.mean),
    "reduce_max": _reduced(torch.amax),
    "reduce_min": _reduced(torch.amin),
    "reduce_l1_norm": _reduced(lambda x, dim, keepdim: x.abs().sum(dim=dim, keepdim=keepdim)),
    "reduce_l2_norm": _reduced(lambda x, dim, keepdim: (x * x).sum(dim=dim, keepdim=keepdim).sqrt()),
    "layer_norm": layer_norm,
    "instance_norm": instance_norm,
    "constexpr_lut_to_dense": constexpr_lut_to_dense,
    "constexpr_blockwise_shift_scale": constexpr_blockwise_shift_scale,
}


def _expanded(x: Tensor, axes: list[int]) -> list[int]:
    rank = x.dim() + len(axes)
    at = {axis % rank for axis in axes}
    sizes = iter(x.shape)
    return [1 if d in at else next(sizes) for d in range(rank)]
