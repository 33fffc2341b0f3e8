"""FLOPs and bytes of every op of the dialect, from (fake) tensors.

Counts by hand, per element of the output unless said otherwise:

* contractions: 2 a multiply-add, padding included, plus 1 for a bias;
* pointwise ops: 1; reductions: 1 an input element;
* softmax: 5 (max, subtract, exp, sum, divide); attention: its two products and a softmax of the scores;
* norms: 4 for the statistics (mean, deviation, square, sum), 2 to apply them, 2 for weight and bias;
* views, and whatever only moves data: 0.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vgcomp import ir
from vgcomp.cost_models.base import ConvForm, Kind, OpWork
from vgcomp.errors import InternalError
from vgcomp.ir import aten, own
from vgcomp.slices import view_strides

Rule = Callable[[Any, Sequence[Any], Mapping[str, Any], Tensor], OpWork]

#: Entries kept before the memo starts anew.
_MEMO_LIMIT = 100_000
_memo: dict[object, OpWork] = {}

#: An input this many times smaller than the output is a broadcast one: a slice needs all of it.
_BROADCAST = 4

_SOFTMAX_FLOPS = 5
_STATISTICS_FLOPS = 4
_APPLY_FLOPS = 2
#: Times that materialised scores are written or read: product, scale, maximum, difference, exp, sum, product.
_SCORE_PASSES = 11


def work_of(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> OpWork:
    """The work of one call. ``args`` hold tensors, scalars and lists; ``out`` is the call's (fake) result.

    Equal structure gives the same object. Raises InternalError for a target outside the dialect; a
    sliced loop has no work of its own, its bodies' nodes have.
    """
    key = (target, _key(args), _key(out), tuple(sorted((k, _key(v)) for k, v in kwargs.items())) if kwargs else ())
    found = _memo.get(key)
    if found is not None:
        return found
    rule = _RULES.get(target)
    if rule is None:
        raise InternalError(f"no work rule for {target}: it is not in the dialect")
    if len(_memo) >= _MEMO_LIMIT:
        _memo.clear()
    work = _memo[key] = replace(rule(target, args, kwargs, out), call=key)
    return work


def _key(value: Any) -> object:
    if isinstance(value, Tensor):
        return (value.shape, value.stride(), value.dtype)
    if isinstance(value, (list, tuple)):
        return tuple(_key(entry) for entry in value)
    # 1, 1.0 and True are equal and hash alike.
    return (type(value), value)


def _tensors(args: Sequence[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for arg in args:
        if isinstance(arg, Tensor):
            found.append(arg)
        elif isinstance(arg, (list, tuple)):
            found.extend(_tensors(arg))
    return found


def distinct_bytes(x: Tensor | None) -> float:
    """Bytes of the distinct elements of ``x``: an expanded dimension counts once."""
    if x is None:
        return 0.0
    distinct = math.prod(size for size, stride in zip(x.shape, x.stride(), strict=True) if stride != 0)
    return float(distinct * x.element_size())


def _strided(x: Tensor, out: Tensor | None = None) -> bool:
    """True where neighbours along the output's fastest dimension (else the last) are not neighbours in ``x``."""
    dim = -1
    if out is not None and out.dim():
        dims = [d for d in range(out.dim()) if out.shape[d] > 1]
        dim = min(dims, key=out.stride, default=-1)
        dim = dim - out.dim() if dim >= 0 else dim
    if x.dim() < -dim or x.shape[dim] == 1:
        return False
    return x.stride(dim) not in (0, 1)


def _arg(args: Sequence[Any], index: int, default: Any = None) -> Any:
    return args[index] if len(args) > index else default


# Views and data movement


def _view(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> OpWork:
    return OpWork("view", target, _dtype(out))


def _dtype(out: Any) -> torch.dtype:
    return out.dtype if isinstance(out, Tensor) else torch.float32


def _reshape(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> OpWork:
    x = args[0]
    if view_strides(x.shape, x.stride(), out.shape) is not None:
        return _view(target, args, kwargs, out)
    return _copy(target, args, kwargs, out)


def _copy(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> OpWork:
    sources = _tensors(args)
    return OpWork(
        "copy",
        target,
        out.dtype,
        bytes_read=sum(map(distinct_bytes, sources)),
        bytes_written=distinct_bytes(out),
        out_elements=out.numel(),
        strided=any(_strided(x) for x in sources),
    )


def _clone(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> OpWork:
    return _copy(target, args[:1], kwargs, out)


def _gather(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> OpWork:
    index = next(x for x in _tensors(args) if not x.is_floating_point())
    read = distinct_bytes(out) + distinct_bytes(index)
    return OpWork(
        "copy",
        target,
        out.dtype,
        bytes_read=read,
        bytes_written=distinct_bytes(out),
        out_elements=out.numel(),
        strided=True,
    )


# Elementwise, reductions, norms


def _elementwise(
    kind: Kind, target: Any, inputs: Sequence[Tensor], out: Tensor, flops: float, reads: int = 1, rows: int = 0
) -> OpWork:
    shared = sum(distinct_bytes(x) for x in inputs if x.numel() * _BROADCAST <= out.numel())
    return OpWork(
        kind,
        target,
        inputs[0].dtype if inputs else out.dtype,
        flops=flops,
        bytes_read=sum(map(distinct_bytes, inputs)),
        shared_bytes=shared,
        bytes_written=distinct_bytes(out),
        out_elements=out.numel(),
        strided=any(_strided(x, out) for x in inputs if x.numel() == out.numel()),
        reads=reads,
        rows=rows,
        broadcast=kind == "pointwise" and any(1 < x.numel() < out.numel() for x in inputs),
    )


def _pointwise(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> OpWork:
    return _elementwise("pointwise", target, _tensors(args), out, float(out.numel()))


def _reduce(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> OpWork:
    x: Tensor = args[0]
    return OpWork(
        "reduce",
        target,
        x.dtype,
        flops=float(x.numel()) * (_STATISTICS_FLOPS if target is own.group_moments.default else 1),
        bytes_read=distinct_bytes(x),
        bytes_written=distinct_bytes(out),
        out_elements=out.numel(),
        # Moments are taken in whatever order the values lie; they only must lie close.
        strided=_strided(x) and target is not own.group_moments.default,
    )


def _pool(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> OpWork:
    kernel = _spatial(args[1], 3 if target is aten.avg_pool3d.default else 2)
    return _elementwise("reduce", target, [args[0]], out, float(out.numel() * math.prod(kernel)))


def _spatial(value: Any, rank: int) -> list[int]:
    sizes = [value] if isinstance(value, int) else list(value)
    return sizes * rank if len(sizes) == 1 else sizes


def _norm(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> OpWork:
    inputs = _tensors(args)
    affine = len(inputs) - 1  # weight and bias
    # A group outgrows a block's registers, so the kernel comes again to apply; a row of channels does not.
    reads = 2 if target is aten.group_norm.default else 1
    statistics = 0 if target is own.group_norm_apply.default else _STATISTICS_FLOPS
    if target is aten.rms_norm.default:
        statistics, apply = 2, 1
    else:
        apply = _APPLY_FLOPS
    if target is own.group_norm_apply.default:
        affine -= 1  # the moments
    flops = float(out.numel() * (statistics + apply + affine))
    work = _elementwise("norm", target, inputs, out, flops, reads, _statistics(target, args, out))
    if target is own.group_norm_apply.default or inputs[0].is_contiguous():
        return work
    return replace(work, relayout_bytes=distinct_bytes(inputs[0]))  # CUDA's kernels read row-major only


def _statistics(target: Any, args: Sequence[Any], out: Tensor) -> int:
    """How many sets of elements a norm takes statistics of; 0 where they are given."""
    if target is own.group_norm_apply.default:
        return 0
    if target is aten.group_norm.default:
        return int(out.shape[0] * args[1])
    return int(out.numel() // max(1, math.prod(args[1])))


def _softmax(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> OpWork:
    rows = out.numel() // max(1, out.shape[int(args[1])])
    return _elementwise("norm", target, [args[0]], out, float(out.numel() * _SOFTMAX_FLOPS), rows=rows)


# Contractions


def _contraction(
    kind: Kind,
    target: Any,
    inputs: Sequence[Tensor],
    out: Tensor,
    dims: tuple[int, int, int, int],
    *,
    shared: float,
    extra_flops: float = 0.0,
    matrix_flops: float | None = None,
    form: ConvForm = "none",
    relayout: float = 0.0,
    scratch: float = 0.0,
    dtype: torch.dtype | None = None,
) -> OpWork:
    batch, m, n, k = dims
    matrix = 2.0 * batch * m * n * k if matrix_flops is None else matrix_flops
    return OpWork(
        kind,
        target,
        dtype or inputs[0].dtype,
        flops=matrix + extra_flops,
        matrix_flops=matrix,
        bytes_read=sum(map(distinct_bytes, inputs)),
        shared_bytes=shared,
        bytes_written=distinct_bytes(out),
        out_elements=out.numel(),
        batch=batch,
        m=m,
        n=n,
        k=k,
        # BLAS takes a transposed right side as it is; a linear layer copies such an input first.
        strided=target is aten.linear.default and _strided(inputs[0]),
        form=form,
        relayout_bytes=relayout,
        scratch_bytes=scratch,
    )


def _convolution(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> OpWork:
    x, weight, bias = args[0], args[1], args[2]
    transposed, groups = bool(_arg(args, 6, False)), int(_arg(args, 8, 1))
    taps = math.prod(weight.shape[2:])
    if transposed:
        # Every input element is spread over a kernel of outputs: a product of (inputs, Cin) by (Cin, Cout * taps).
        rows, n, k = x.numel() // x.shape[1], weight.shape[1] * taps, x.shape[1] // groups
    else:
        rows, n, k = out.numel() // out.shape[1], out.shape[1] // groups, weight.shape[1] * taps
    return _contraction(
        "conv",
        target,
        _tensors((x, weight, bias)),
        out,
        (groups, rows, n, k),
        shared=distinct_bytes(weight) + distinct_bytes(bias),
        extra_flops=0.0 if bias is None else float(out.numel()),
        form=_conv_form(weight.shape[2:], depthwise=groups > 1 and n == 1),
        relayout=sum(distinct_bytes(t) for t in _channels_first(x, weight, out)),
    )


def _conv_form(kernel: Sequence[int], *, depthwise: bool) -> ConvForm:
    if depthwise:
        return "depthwise"
    if math.prod(kernel) == 1:
        return "1x1"
    # A window one wide in time is the image's own convolution.
    return "3d" if len(kernel) == 3 and kernel[0] > 1 else "2d"


def _channels_first(x: Tensor, weight: Tensor, out: Tensor) -> tuple[Tensor, ...]:
    """What tensor-core kernels, which want channels side by side, copy before and after them.

    The weight's layout is the network's: on a GPU a group norm gives row-major results, so that a channels-last
    layout which some view left does not survive to the next convolution.
    """
    if math.prod(weight.shape[2:]) > 1:
        return () if weight.shape[1] > 1 and weight.stride(1) == 1 else (x, out)
    return tuple(t for t in (x, out) if t.shape[1] > 1 and t.stride(1) != 1)


def _linear(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> OpWork:
    x, weight, bias = args[0], args[1], _arg(args, 2)
    n, k = (weight.shape[0], weight.shape[1]) if weight.dim() == 2 else (1, weight.shape[0])
    return _contraction(
        "matmul",
        target,
        _tensors((x, weight, bias)),
        out,
        (1, x.numel() // k, n, k),
        shared=distinct_bytes(weight) + distinct_bytes(bias),
        extra_flops=0.0 if bias is None else float(out.numel()),
    )


def _matmul(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> OpWork:
    a, b = args[0], args[1]
    k = a.shape[-1]
    m = a.shape[-2] if a.dim() > 1 else 1
    n = b.shape[-1] if b.dim() > 1 else 1
    batch = out.numel() // (m * n) if m * n else 0
    folded = b.dim() <= 2  # one right side for all of the batch: a single product with more rows
    dims = (1, batch * m, n, k) if folded else (batch, m, n, k)
    return _contraction("matmul", target, [a, b], out, dims, shared=distinct_bytes(b) if folded else 0.0)


def _attention(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> OpWork:
    q, k, v = args[0], args[1], args[2]
    mask = _arg(args, 3) if target is aten.scaled_dot_product_attention.default else None
    queries, keys, depth, values = q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1]
    batch = q.numel() // (queries * depth)
    scores = float(batch * queries * keys)
    # One block of keys of an online softmax is plain products and pointwise ops in fp32.
    partial = target is own.attention_partial.default
    # Half of the scores of a square causal attention are never made.
    if target is aten.scaled_dot_product_attention.default and bool(_arg(args, 5, kwargs.get("is_causal", False))):
        scores = float(batch) * _causal_scores(queries, keys)
    return _contraction(
        "attention",
        target,
        _tensors((q, k, v, mask)),
        out,
        (batch, queries, values, keys),
        shared=0.0,
        matrix_flops=2.0 * scores * (depth + values),
        extra_flops=_SOFTMAX_FLOPS * scores,
        scratch=_SCORE_PASSES * torch.float32.itemsize * scores if partial else 0.0,
        dtype=torch.float32 if partial else None,
    )


def _causal_scores(queries: int, keys: int) -> float:
    """Pairs with key <= query, counted from the top left."""
    full = min(queries, keys)
    return full * (full + 1) / 2 + max(0, queries - keys) * keys


def _rules() -> dict[Any, Rule]:
    rules: dict[Any, Rule] = dict.fromkeys(ir.VIEW_OPS, _view)
    rules |= dict.fromkeys(ir.POINTWISE_OPS, _pointwise)
    rules |= dict.fromkeys(ir.REDUCE_OPS, _reduce)
    rules |= dict.fromkeys(ir.NORM_OPS, _norm)
    rules |= dict.fromkeys(ir.UPSAMPLE_OPS, _copy)
    rules |= {
        operator.getitem: _view,
        aten.reshape.default: _reshape,
        aten.clone.default: _clone,
        aten.convolution.default: _convolution,
        aten.linear.default: _linear,
        aten.matmul.default: _matmul,
        aten.scaled_dot_product_attention.default: _attention,
        aten.softmax.int: _softmax,
        aten.cat.default: _copy,
        aten.constant_pad_nd.default: _copy,
        aten.pad.default: _copy,
        aten.full.default: _copy,
        aten.avg_pool2d.default: _pool,
        aten.avg_pool3d.default: _pool,
        aten.max_pool2d.default: _pool,
        aten.embedding.default: _gather,
        aten.index_select.default: _gather,
        own.group_moments.default: _reduce,
        own.group_norm_apply.default: _norm,
        own.merge_moments.default: _pointwise,
        own.attention_partial.default: _attention,
        own.merge_softmax.default: _pointwise,
        own.attention_finish.default: _pointwise,
    }
    return rules


_RULES = _rules()
