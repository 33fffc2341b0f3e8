"""Convolution, matrix products, attention, pooling."""

from __future__ import annotations

import math
from typing import Any

import torch

from vgcomp import ir
from vgcomp.backends.arguments import spread
from vgcomp.backends.coreml.registry import Call, emits
from vgcomp.errors import ModelError

aten = torch.ops.aten


@emits(aten.convolution.default)
def _convolution(call: Call) -> Any:
    n = len(call.shape_of("weight")) - 2
    bias = call.optional("bias")
    if not call.scope.is_constant(call.node_of("weight")) and any(d != 1 for d in spread(call["dilation"], n)):
        raise ModelError(f"{call.node.name}: Core ML has no convolution with dilation whose weights are computed")
    arguments: dict[str, Any] = {
        "x": call.var("input"),
        "weight": call.var("weight"),
        "strides": spread(call["stride"], n),
        "pad_type": "custom",
        "pad": [side for size in spread(call["padding"], n) for side in (size, size)],
        "dilations": spread(call["dilation"], n),
        "groups": call["groups"],
        **({"bias": bias} if bias is not None else {}),
    }
    if call["transposed"]:
        return call.mb.conv_transpose(**arguments, output_shape=list(call.shape))
    return call.mb.conv(**arguments)


@emits(aten.linear.default)
def _linear(call: Call) -> Any:
    """``linear`` takes three dimensions at most, and constant weights."""
    scope, mb, x = call.scope, call.mb, call.var("input")
    width = call.shape_of("weight")[1]
    rank = len(call.shape)
    if rank > 3:
        x = scope.reshape(x, [math.prod(call.shape[:-2]), call.shape[-2], width])
    bias = call.optional("bias")
    given = [call.node_of(name) for name in ("weight", "bias") if call[name] is not None]
    if all(scope.is_constant(node) for node in given):
        made = mb.linear(x=x, weight=call.var("weight"), **({"bias": bias} if bias is not None else {}))
    else:
        made = mb.matmul(x=x, y=call.var("weight"), transpose_y=True)
        made = made if bias is None else mb.add(x=made, y=bias)
    return scope.reshape(made, call.shape)


@emits(aten.matmul.default)
def _matmul(call: Call) -> Any:
    scope, x, y = call.scope, call.var("self"), call.var("other")
    a, b = call.shape_of("self"), call.shape_of("other")
    x = scope.reshape(x, [1, *a]) if len(a) == 1 else x
    y = scope.reshape(y, [*b, 1]) if len(b) == 1 else y
    return scope.reshape(call.mb.matmul(x=x, y=y), call.shape)


@emits(aten.scaled_dot_product_attention.default)
def _attention(call: Call) -> Any:
    """One op since iOS 18: what becomes of the scores is the device's affair."""
    scope, mb = call.scope, call.mb
    if call["enable_gqa"]:
        raise ModelError("attention with grouped queries has no Core ML form here; expand the keys' heads first")
    lead, width = call.shape[:-2], call.shape_of("query")[-1]
    parts = []
    for name in ("query", "key", "value"):
        rows = call.shape_of(name)[-2:]
        parts.append(_repeated(call, call.var(name), [*lead, *rows]))
    q, k, v = parts
    scale = call["scale"]
    if scale is not None and not math.isclose(scale, 1 / math.sqrt(width), rel_tol=1e-6):
        q = mb.mul(x=q, y=scope.scalar(scale * math.sqrt(width), call.dtype))
    masks = [] if call["attn_mask"] is None else [_mask(call)]
    if call["is_causal"]:
        masks.append(scope.constant(_causal(call.shape[-2], call.shape_of("key")[-2]).to(call.dtype)))
    if len(masks) == 2:
        masks = [mb.add(x=masks[0], y=masks[1])]
    if len(lead) == 0:
        q, k, v = (scope.reshape(x, [1, *map(int, x.shape)]) for x in (q, k, v))
    extra = {"attn_mask": masks[0]} if masks else {}
    return scope.reshape(mb.scaled_dot_product_attention(query=q, key=k, value=v, **extra), call.shape)


def _repeated(call: Call, var: Any, shape: list[int]) -> Any:
    sizes = list(map(int, var.shape))
    sizes = [1] * (len(shape) - len(sizes)) + sizes
    reps = [wanted if size != wanted else 1 for size, wanted in zip(sizes, shape, strict=True)]
    var = call.scope.reshape(var, sizes)
    return var if all(n == 1 for n in reps) else call.mb.tile(x=var, reps=reps)


def _mask(call: Call) -> Any:
    mask = call.node_of("attn_mask")
    if ir.val(mask).dtype != torch.bool:
        return call.scope.cast(call.var("attn_mask"), call.dtype)
    zero, low = (call.scope.scalar(value, call.dtype) for value in (0.0, -math.inf))
    return call.mb.select(cond=call.var("attn_mask"), a=zero, b=low)


def _causal(queries: int, keys: int) -> torch.Tensor:
    """0 up to the diagonal, minus infinity beyond."""
    return torch.full((queries, keys), -math.inf).triu(1)


@emits(aten.avg_pool2d.default)
def _avg_pool(call: Call) -> Any:
    kernel = spread(call["kernel_size"], 2)
    divisor = call["divisor_override"]
    whole = call["count_include_pad"] or divisor is not None
    x = _batched(call)
    made = call.mb.avg_pool(x=x, **_window(call, kernel), exclude_padding_from_average=not whole)
    if divisor is not None:
        made = call.mb.mul(x=made, y=call.scope.scalar(math.prod(kernel) / divisor, call.dtype))
    return call.scope.reshape(made, call.shape)


@emits(aten.max_pool2d.default)
def _max_pool(call: Call) -> Any:
    if any(n != 1 for n in spread(call["dilation"], 2)):
        raise ModelError(f"{call.node.name}: Core ML has no max pooling with dilation")
    kernel = spread(call["kernel_size"], 2)
    return call.scope.reshape(call.mb.max_pool(x=_batched(call), **_window(call, kernel)), call.shape)


def _window(call: Call, kernel: list[int]) -> dict[str, Any]:
    padding = spread(call["padding"], 2)
    return {
        "kernel_sizes": kernel,
        "strides": spread(call["stride"] or kernel, 2),
        "pad_type": "custom",
        "pad": [side for size in padding for side in (size, size)],
        "ceil_mode": bool(call["ceil_mode"]),
    }


def _batched(call: Call) -> Any:
    shape = call.shape_of("self")
    return call.scope.reshape(call.var("self"), shape if len(shape) == 4 else [1, *shape])
