"""The Attention operator (operator set 23 on)."""

from __future__ import annotations

import math

import torch

from vgcomp.errors import ModelError
from vgcomp.onnx_import.op import Op, Table
from vgcomp.onnx_import.values import Value

aten = torch.ops.aten

TABLE = Table()

#: Inputs 4 and 5 are a key/value cache, 6 a length of unpadded keys; outputs 1.. are caches and scores.
_CACHE_INPUTS = (4, 5, 6)


@TABLE("Attention")
def _attention(op: Op) -> Value:
    if any(op.has(i) for i in _CACHE_INPUTS):
        raise ModelError("its key/value cache inputs are not supported")
    if any(out.uses() or out.is_graph_output() for out in op.node.outputs[1:]):
        raise ModelError("its outputs other than the first are not supported")
    if op.attr_float("softcap"):
        raise ModelError("its softcap is not supported")
    query = _heads(op, op[0], op.attr_int("q_num_heads"))
    key = _heads(op, op[1], op.attr_int("kv_num_heads"))
    value = _heads(op, op[2], op.attr_int("kv_num_heads"))
    key, value = (_shared(op, x, query.shape[1]) for x in (key, value))
    scale = op.attr_float("scale") if op.has_attr("scale") else None
    out = attend(op, query, key, value, op.get(3), bool(op.attr_int("is_causal")), scale)
    if len(op[0].shape) == 4:
        return out
    merged = op.b.permute(out, [0, 2, 1, 3])
    return op.b.reshape(merged, [*merged.shape[:2], merged.shape[2] * merged.shape[3]])


def attend(
    op: Op, query: Value, key: Value, value: Value, mask: Value | None, causal: bool, scale: float | None
) -> Value:
    """scaled_dot_product_attention in the canonical spelling: what is at its default is left out."""
    if mask is not None and causal:
        raise ModelError("a mask together with is_causal is not supported")
    width = query.shape[-1]
    plain = scale is None or math.isclose(scale, width**-0.5, rel_tol=1e-6)
    extra: tuple[object, ...] = ()
    if mask is not None or causal:
        extra = (mask, 0.0, causal) if causal else (mask,)
    target = aten.scaled_dot_product_attention.default
    if plain:
        return op.b.call(target, query, key, value, *extra)
    return op.b.call(target, query, key, value, *extra, scale=scale)


def _heads(op: Op, x: Value, count: int) -> Value:
    """(B, S, H*D) -> (B, H, S, D); four dims are left as they are."""
    if len(x.shape) == 4:
        return x
    batch, length, width = x.shape
    return op.b.permute(op.b.reshape(x, [batch, length, count, width // count]), [0, 2, 1, 3])


def _shared(op: Op, x: Value, heads: int) -> Value:
    """Keys or values that several query heads share, one a head."""
    batch, own, length, width = x.shape
    if own == heads:
        return x
    spread = op.b.expand(op.b.reshape(x, [batch, own, 1, length, width]), [batch, own, heads // own, length, width])
    return op.b.reshape(spread, [batch, heads, length, width])
