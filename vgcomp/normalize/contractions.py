"""Convolutions, linear layers, products and attention: one spelling each."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from vgcomp.normalize.builder import Builder, Value
from vgcomp.normalize.call import Call, Table, dtype_of, per_dim, shape_of

aten = torch.ops.aten


def convolution(b: Builder, call: Call) -> Value:
    """conv1d, conv2d, conv3d and the general op, forwards."""
    rank = len(shape_of(call["weight"])) - 2
    x, padding = call.x, call["padding"]
    if isinstance(padding, str):
        x, padding = _string_padding(b, call, padding, rank)
    return _convolution(b, x, call, per_dim(padding, rank), transposed=False, output_padding=[0] * rank)


def conv_transpose(b: Builder, call: Call) -> Value:
    rank = len(shape_of(call["weight"])) - 2
    padding, output_padding = per_dim(call["padding"], rank), per_dim(call["output_padding"], rank)
    return _convolution(b, call.x, call, padding, transposed=True, output_padding=output_padding)


def general_convolution(b: Builder, call: Call) -> Value:
    rank = len(shape_of(call["weight"])) - 2
    padding, output_padding = per_dim(call["padding"], rank), per_dim(call["output_padding"], rank)
    return _convolution(b, call.x, call, padding, transposed=call["transposed"], output_padding=output_padding)


def _convolution(
    b: Builder, x: Value, call: Call, padding: list[int], *, transposed: bool, output_padding: list[int]
) -> fx.Node:
    rank = len(padding)
    stride, dilation = per_dim(call["stride"], rank), per_dim(call["dilation"], rank)
    node = b.node(x)
    batched = len(shape_of(node)) == rank + 2
    node = node if batched else b.unsqueeze(node, 0)
    weight, bias = call["weight"], call["bias"]
    out = b.op(
        aten.convolution.default, node, weight, bias, stride, padding, dilation, transposed, output_padding,
        call["groups"],
    )  # fmt: skip
    return out if batched else b.reshape(out, shape_of(out)[1:])


def _string_padding(b: Builder, call: Call, padding: str, rank: int) -> tuple[Value, list[int]]:
    """'same' as numbers; an odd total is padded by an op of its own, more at the end."""
    if padding == "valid":
        return call.x, [0] * rank
    dilation = per_dim(call["dilation"], rank)
    kernel = shape_of(call["weight"])[2:]
    totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if all(total % 2 == 0 for total in totals):
        return call.x, [total // 2 for total in totals]
    pads = [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    return b.op(aten.constant_pad_nd.default, b.node(call.x), pads), [0] * rank


def linear(b: Builder, call: Call) -> Value:
    args = (call.x, call["weight"]) if call["bias"] is None else (call.x, call["weight"], call["bias"])
    return b.op(aten.linear.default, *args)


def addmm(b: Builder, call: Call) -> Value:
    """bias + x @ wᵀ is a linear layer when the bias is a row; otherwise a product and a sum."""
    bias, x, weight = call["self"], call["mat1"], call["mat2"]
    if call["beta"] == 1 and call["alpha"] == 1 and shape_of(bias) == [shape_of(weight)[1]]:
        return b.op(aten.linear.default, x, b.permute(weight, [1, 0]), bias)
    return _product_and_sum(b, call, x, weight)


def baddbmm(b: Builder, call: Call) -> Value:
    return _product_and_sum(b, call, call["batch1"], call["batch2"])


def _product_and_sum(b: Builder, call: Call, x: Value, y: Value) -> Value:
    product = _scaled(b, b.op(aten.matmul.default, x, y), call["alpha"])
    if call["beta"] == 0:
        return product
    return b.pointwise(aten.add.Tensor, _scaled(b, call["self"], call["beta"]), product)


def _scaled(b: Builder, x: Value, factor: Any) -> Value:
    return x if factor == 1 else b.pointwise(aten.mul.Tensor, x, factor)


def matmul(b: Builder, call: Call) -> Value:
    return b.op(aten.matmul.default, call.args[0], call.args[1])


def attention(b: Builder, call: Call) -> Value:
    """(q, k, v[, mask[, 0.0, is_causal]], scale=): defaults dropped; shared heads are expanded."""
    if call["dropout_p"]:
        raise call.refuse("has dropout: call module.eval() before the capture")
    q, k, v = b.node(call["query"]), b.node(call["key"]), b.node(call["value"])
    if call["enable_gqa"]:
        k, v = _shared_heads(b, q, k), _shared_heads(b, q, v)
    scale = call["scale"]
    width = shape_of(q)[-1]
    kwargs = {} if scale is None or math.isclose(scale, width**-0.5, rel_tol=1e-12) else {"scale": float(scale)}
    mask, causal = call["attn_mask"], call["is_causal"]
    rest: tuple[Any, ...] = (mask, 0.0, True) if causal else (() if mask is None else (mask,))
    return b.op(aten.scaled_dot_product_attention.default, q, k, v, *rest, **kwargs)


def _shared_heads(b: Builder, q: fx.Node, k: fx.Node) -> fx.Node:
    """Each key head repeated for the query heads that share it."""
    heads, shape = shape_of(q)[-3], shape_of(k)
    times = heads // shape[-3]
    if times == 1:
        return k
    grown = b.expand(b.unsqueeze(k, len(shape) - 2), [*shape[:-2], times, *shape[-2:]])
    return b.reshape(grown, [*shape[:-3], heads, *shape[-2:]])


def softmax(b: Builder, call: Call) -> Value:
    x = b.cast(call.x, call.dtype)
    return b.op(aten.softmax.int, x, call["dim"] % len(shape_of(x)))


def embedding(b: Builder, call: Call) -> Value:
    return b.op(aten.embedding.default, call["weight"], call["indices"])


def index(b: Builder, call: Call) -> Value:
    """Indexing by one vector of positions."""
    indices = call["indices"]
    dims = [dim for dim, chosen in enumerate(indices) if chosen is not None]
    if len(dims) != 1 or len(shape_of(indices[dims[0]])) != 1 or dtype_of(indices[dims[0]]) == torch.bool:
        raise call.refuse("indexes by more than one vector of positions")
    return b.op(aten.index_select.default, call.x, dims[0], indices[dims[0]])


def index_select(b: Builder, call: Call) -> Value:
    return b.op(aten.index_select.default, call.x, call["dim"] % len(shape_of(call.x)), call["index"])


TABLE: Table = {
    **dict.fromkeys(
        (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.conv1d.padding, aten.conv2d.padding,
         aten.conv3d.padding),
        convolution,
    ),
    **dict.fromkeys(
        (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input), conv_transpose
    ),
    aten.convolution.default: general_convolution,
    aten._convolution.default: general_convolution,
    aten.linear.default: linear,
    aten.addmm.default: addmm,
    aten.baddbmm.default: baddbmm,
    aten.bmm.default: matmul,
    aten.mm.default: matmul,
    aten.matmul.default: matmul,
    aten.scaled_dot_product_attention.default: attention,
    aten.softmax.int: softmax,
    aten._softmax.default: softmax,
    aten.embedding.default: embedding,
    aten.index.Tensor: index,
    aten.index_select.default: index_select,
}  # fmt: skip
