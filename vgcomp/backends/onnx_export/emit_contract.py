"""Convolution, matrix products, attention, pooling."""

from __future__ import annotations

import math

import numpy as np
import torch

from vgcomp.backends.arguments import spread
from vgcomp.backends.onnx_export.registry import Call, emits
from vgcomp.backends.onnx_export.scope import Scope, Value
from vgcomp.errors import ModelError

aten = torch.ops.aten


@emits(aten.convolution.default)
def _convolution(call: Call) -> str:
    x, weight, bias = call.value("input"), call.value("weight"), call.optional("bias")
    n = x.rank - 2
    inputs = [x.name, weight.name] + ([bias.name] if bias else [])
    padding = spread(call["padding"], n)
    attributes = {
        "kernel_shape": list(weight.shape[2:]),
        "strides": spread(call["stride"], n),
        "pads": padding * 2,
        "dilations": spread(call["dilation"], n),
        "group": call["groups"],
    }
    if not call["transposed"]:
        return call.scope.op("Conv", *inputs, **attributes)
    return call.scope.op("ConvTranspose", *inputs, output_padding=spread(call["output_padding"], n), **attributes)


@emits(aten.linear.default)
def _linear(call: Call) -> str:
    """Gemm on rows: it takes the weight as torch stores it, so that no transposed copy ever exists."""
    scope, x, weight, bias = call.scope, call.value("input"), call.value("weight"), call.optional("bias")
    width, out_width = weight.shape[1], weight.shape[0]
    rows = x.name if x.rank == 2 else scope.reshape(x.name, [math.prod(x.shape[:-1]), width])
    inputs = [rows, weight.name] + ([bias.name] if bias else [])
    out = scope.op("Gemm", *inputs, transB=1)
    return out if x.rank == 2 else scope.reshape(out, [*x.shape[:-1], out_width])


@emits(aten.matmul.default)
def _matmul(call: Call) -> str:
    return call.scope.op("MatMul", call.value("self").name, call.value("other").name)


@emits(aten.scaled_dot_product_attention.default)
def _attention(call: Call) -> str:
    """MatMul, Softmax, MatMul; the scale goes to the queries, the smallest of the three tensors."""
    scope, q, k, v = call.scope, call.value("query"), call.value("key"), call.value("value")
    if call["enable_gqa"]:
        raise ModelError("attention with grouped queries has no ONNX form here; expand the keys' heads first")
    scale = 1 / math.sqrt(q.shape[-1]) if call["scale"] is None else call["scale"]
    queries = scope.op("Mul", q.name, scope.scalar(scale, q.dtype))
    scores = scope.op("MatMul", queries, transposed(scope, k))
    mask = call.optional("attn_mask")
    if mask is not None:
        scores = scope.op("Add", scores, _bias_of(scope, mask, q.dtype))
    if call["is_causal"]:
        scores = scope.op("Add", scores, _causal(scope, q.shape[-2], k.shape[-2], q.dtype))
    return scope.op("MatMul", scope.op("Softmax", scores, axis=-1), v.name)


def transposed(scope: Scope, x: Value) -> str:
    """``x`` with its last two dimensions swapped."""
    dims = list(range(x.rank))
    return scope.op("Transpose", x.name, perm=[*dims[:-2], dims[-1], dims[-2]])


def _bias_of(scope: Scope, mask: Value, dtype: torch.dtype) -> str:
    if mask.dtype != torch.bool:
        return scope.as_dtype(mask, dtype)
    return scope.op("Where", mask.name, scope.scalar(0.0, dtype), scope.scalar(-math.inf, dtype))


def _causal(scope: Scope, queries: int, keys: int, dtype: torch.dtype) -> str:
    """(queries, keys): 0 up to the diagonal, minus infinity beyond; from two ranges, so it is not stored."""
    rows = scope.constant(np.arange(queries, dtype=np.int64).reshape(-1, 1))
    columns = scope.constant(np.arange(keys, dtype=np.int64))
    return scope.op("Where", scope.op("Less", rows, columns), scope.scalar(-math.inf, dtype), scope.scalar(0.0, dtype))


@emits(aten.avg_pool2d.default, aten.avg_pool3d.default)
def _avg_pool(call: Call) -> str:
    scope, x = call.scope, call.value("self")
    n = 2 if call.target is aten.avg_pool2d.default else 3
    kernel = spread(call["kernel_size"], n)
    divisor = call["divisor_override"]
    whole = call["count_include_pad"] or divisor is not None
    pooled = scope.op(
        "AveragePool",
        _batched(scope, x, n),
        kernel_shape=kernel,
        strides=spread(call["stride"] or kernel, n),
        pads=spread(call["padding"], n) * 2,
        ceil_mode=int(call["ceil_mode"]),
        count_include_pad=int(whole),
    )
    if divisor is not None:
        pooled = scope.op("Mul", pooled, scope.scalar(math.prod(kernel) / divisor, x.dtype))
    return _unbatched(call, pooled, n)


@emits(aten.max_pool2d.default)
def _max_pool(call: Call) -> str:
    scope, x = call.scope, call.value("self")
    kernel = spread(call["kernel_size"], 2)
    pooled = scope.op(
        "MaxPool",
        _batched(scope, x, 2),
        kernel_shape=kernel,
        strides=spread(call["stride"] or kernel, 2),
        pads=spread(call["padding"], 2) * 2,
        dilations=spread(call["dilation"], 2),
        ceil_mode=int(call["ceil_mode"]),
    )
    return _unbatched(call, pooled, 2)


def _batched(scope: Scope, x: Value, n: int) -> str:
    return x.name if x.rank == n + 2 else scope.reshape(x.name, [1, *x.shape])


def _unbatched(call: Call, pooled: str, n: int) -> str:
    return pooled if call.out.rank == n + 2 else call.scope.reshape(pooled, call.out.shape)
