"""Norms, reductions, softmax, and the halves of them that loops are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from vgcomp.backends.arguments import positive
from vgcomp.backends.tvm import vector_math
from vgcomp.backends.tvm.registry import DTYPES, Call, Element, Operand, cast, emits, opmath

aten = torch.ops.aten
own = torch.ops.vgcomp


def _tirx() -> Any:
    from tvm import tirx

    return tirx


def _dims(call: Call, rank: int) -> list[int]:
    dims = call["dim"]
    if dims is None or dims == []:
        return list(range(rank))
    return sorted(positive(d, rank) for d in ([dims] if isinstance(dims, int) else dims))


def _reduced(call: Call, kind: Any, value: Any) -> Operand:
    """Reduces ``value(*index of self)`` over the call's dims."""
    x = call.value("self")
    dims = _dims(call, x.rank)
    kept = [d for d in range(x.rank) if d not in dims]
    n = len(call.shape)

    def term(*index: Any) -> Any:
        out, over = list(index[: max(n, 1)]), list(index[max(n, 1) :])
        at: list[Any] = [0] * x.rank
        for d, i in zip(dims, over, strict=True):
            at[d] = i
        for place, d in enumerate(kept):
            at[d] = out[d if call["keepdim"] else place]
        return value(*at)

    return call.kernel.reduce(kind, call.shape, [x.shape[d] for d in dims], call.wide, term)


@emits(aten.sum.dim_IntList, aten.mean.dim)
def _sum(call: Call) -> Element:
    x = call.value("self")
    total = _reduced(call, "sum", lambda *i: cast(x(*i), x.dtype, call.wide))
    if call.target is aten.sum.dim_IntList:
        return lambda *i: total(*(i or (0,)))
    count = call.scalar(math.prod(x.shape[d] for d in _dims(call, x.rank)))
    return lambda *i: total(*(i or (0,))) / count


@emits(aten.amax.default)
def _amax(call: Call) -> Element:
    x = call.value("self")
    top = _reduced(call, "max", x.wide)
    return lambda *i: top(*(i or (0,)))


@emits(aten.linalg_vector_norm.default)
def _vector_norm(call: Call) -> Element:
    x, order = call.value("self"), float(call["ord"])

    def size(*i: Any) -> Any:
        return _tirx().abs(cast(x(*i), x.dtype, call.wide))

    if math.isinf(order):
        found = _reduced(call, "max" if order > 0 else "min", size)
        return lambda *i: found(*(i or (0,)))
    powers: Any = {
        1.0: size,
        2.0: lambda *i: size(*i) * size(*i),
    }.get(order, lambda *i: _tirx().power(size(*i), call.scalar(order)))
    total = _reduced(call, "sum", powers)
    if order == 1.0:
        return lambda *i: total(*(i or (0,)))
    if order == 2.0:
        return lambda *i: _tirx().sqrt(total(*(i or (0,))))
    return lambda *i: _tirx().power(total(*(i or (0,))), call.scalar(1 / order))


@emits(aten.softmax.int)
def _softmax(call: Call) -> Element:
    x = call.value("self")
    dim = positive(call["dim"], x.rank)
    call.kernel.row = (dim,)
    rows = [size for d, size in enumerate(x.shape) if d != dim]

    def row(i: Sequence[Any]) -> list[Any]:
        return [a for d, a in enumerate(i) if d != dim] or [0]

    def at(*index: Any) -> Any:
        *out, r = index
        out = out[: len(rows)]
        return cast(x(*out[:dim], r, *out[dim:]), x.dtype, call.wide)

    top = call.kernel.reduce("max", rows, [x.shape[dim]], call.wide, at, at="row")
    weights = call.kernel.stage(
        x.shape,
        call.wide,
        lambda *i: vector_math.exp(cast(x(*i), x.dtype, call.wide) - top(*row(i)), call.kernel.device),
        at="row",
    )

    def weight(*index: Any) -> Any:
        *out, r = index
        out = out[: len(rows)]
        return weights(*out[:dim], r, *out[dim:])

    total = call.total(rows, [x.shape[dim]], weight, at="row")
    return lambda *i: weights(*i) / total(*row(i))


@emits(aten.layer_norm.default)
def _layer_norm(call: Call) -> Element:
    x, n = call.value("input"), len(call["normalized_shape"])
    weight, bias = call.optional("weight"), call.optional("bias")
    lead, over = x.shape[: x.rank - n], x.shape[x.rank - n :]
    call.kernel.row = tuple(range(x.rank - n, x.rank))
    count = call.scalar(math.prod(over))

    def split(index: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        cut = max(len(lead), 1)
        return (index[:cut] if lead else ()), index[cut:]

    total = call.total(lead, over, lambda *i: x.wide(*split(i)[0], *split(i)[1]), at="row")

    def mean(i: Sequence[Any]) -> Any:
        return total(*(i or (0,))) / count

    def square(*i: Any) -> Any:
        out, inner = split(i)
        off = x.wide(*out, *inner) - mean(out)
        return off * off

    squares = call.total(lead, over, square, at="row")

    def element(*i: Any) -> Any:
        out, inner = i[: len(lead)], i[len(lead) :]
        variance = squares(*(out or (0,))) / count
        value = (x.wide(*i) - mean(out)) * (call.scalar(1) / _tirx().sqrt(variance + call.scalar(call["eps"])))
        value = value if weight is None else value * weight.wide(*inner)
        return value if bias is None else value + bias.wide(*inner)

    return element


@emits(aten.rms_norm.default)
def _rms_norm(call: Call) -> Element:
    x, n, weight = call.value("input"), len(call["normalized_shape"]), call.optional("weight")
    lead, over = x.shape[: x.rank - n], x.shape[x.rank - n :]
    eps = torch.finfo(opmath(x.dtype)).eps if call["eps"] is None else call["eps"]
    call.kernel.row = tuple(range(x.rank - n, x.rank))
    cut = max(len(lead), 1)

    def square(*i: Any) -> Any:
        value = x.wide(*(i[:cut] if lead else ()), *i[cut:])
        return value * value

    squares = call.total(lead, over, square, at="row")
    count = call.scalar(math.prod(over))

    def element(*i: Any) -> Any:
        mean = squares(*(i[: len(lead)] or (0,))) / count
        value = x.wide(*i) / _tirx().sqrt(mean + call.scalar(eps))
        return value if weight is None else value * weight.wide(*i[len(lead) :])

    return element


def _statistics(call: Call, x: Operand, groups: int) -> tuple[Any, Any, Any]:
    """(count, mean(n, g), squares(n, g)) of the groups of (N, C, *), in two sweeps as torch takes them."""
    per_group = x.shape[1] // groups
    over = [per_group, *x.shape[2:]]
    # Moments are fp32 whatever the input; a norm of fp64 is computed in fp64.
    dtype = opmath(x.dtype)
    count = call.scalar(math.prod(over), dtype)

    def at(n: Any, g: Any, c: Any, rest: Sequence[Any]) -> Any:
        return x.wide(n, g * per_group + c, *rest)

    total = call.total((x.shape[0], groups), over, lambda n, g, c, *r: at(n, g, c, r), at="whole", dtype=dtype)

    def mean(n: Any, g: Any) -> Any:
        return total(n, g) / count

    def square(n: Any, g: Any, c: Any, *rest: Any) -> Any:
        off = at(n, g, c, rest) - mean(n, g)
        return off * off

    squares = call.total((x.shape[0], groups), over, square, at="whole", dtype=dtype)
    return count, mean, squares


@emits(aten.group_norm.default)
def _group_norm(call: Call) -> Element:
    x, groups = call.value("input"), call["num_groups"]
    count, mean, squares = _statistics(call, x, groups)
    per_group = x.shape[1] // groups
    weight, bias = call.optional("weight"), call.optional("bias")

    def element(*i: Any) -> Any:
        n, g = i[0], i[1] // per_group
        rstd = call.scalar(1) / _tirx().sqrt(squares(n, g) / count + call.scalar(call["eps"]))
        value = (x.wide(*i) - mean(n, g)) * rstd
        value = value if weight is None else value * weight.wide(i[1])
        return value if bias is None else value + bias.wide(i[1])

    return element


@emits(own.group_moments.default)
def _group_moments(call: Call) -> Element:
    count, mean, squares = _statistics(call, call.value("x"), call["groups"])

    def element(part: Any, n: Any, g: Any) -> Any:
        rest = _tirx().if_then_else(part == 1, mean(n, g), squares(n, g))
        return _tirx().if_then_else(part == 0, count, rest)

    return element


@emits(own.group_norm_apply.default)
def _group_norm_apply(call: Call) -> Element:
    """y = x * scale + shift, both computed in fp32 and rounded to the input's dtype."""
    x, moments, groups = call.value("x"), call.value("moments"), call["groups"]
    per_group = x.shape[1] // groups
    weight, bias = call.optional("weight"), call.optional("bias")
    wide = opmath(moments.dtype)

    def element(*i: Any) -> Any:
        n, c, g = i[0], i[1], i[1] // per_group
        scale = call.scalar(1, wide) / _tirx().sqrt(
            moments(2, n, g) / moments(0, n, g) + call.scalar(call["eps"], wide)
        )
        scale = scale if weight is None else scale * weight(c).astype(DTYPES[wide])
        shift = -(moments(1, n, g) * scale)
        shift = shift if bias is None else shift + bias(c).astype(DTYPES[wide])
        return x.wide(*i) * scale.astype(DTYPES[call.wide]) + shift.astype(DTYPES[call.wide])

    return element


@emits(own.merge_moments.default)
def _merge_moments(call: Call) -> Element:
    a, b = call.value("a"), call.value("b")

    def element(part: Any, n: Any, g: Any) -> Any:
        count = a(0, n, g) + b(0, n, g)
        delta = b(1, n, g) - a(1, n, g)
        mean = a(1, n, g) + delta * (b(0, n, g) / count)
        squares = a(2, n, g) + b(2, n, g) + delta * delta * (a(0, n, g) * b(0, n, g) / count)
        return _tirx().if_then_else(part == 0, count, _tirx().if_then_else(part == 1, mean, squares))

    return element
