"""What a measured table says of ops that are not in it: a learned correction of the analytic model.

The correction is the logarithm of measured over analytic seconds, as a function of what is known of an op without
running it: its kind, sizes, layouts. A linear part carries the trend between sizes, trees the rest. How far
it may be off is taken from the rows that a part of the model did not see, an op at a time.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vgcomp.cost_models.analytic import AnalyticModel
from vgcomp.cost_models.base import OpWork
from vgcomp.cost_models.boosting import Boosted, Floats, Options, fit_bagged
from vgcomp.cost_models.cpu_kernels import cpu_convolution
from vgcomp.targets.target import Target

_KINDS = ("conv", "matmul", "attention", "norm", "pointwise", "copy", "reduce", "other")
_FORMS = ("none", "1x1", "2d", "3d", "depthwise")
#: Pull of the linear part's coefficients to zero.
_RIDGE = 3.0
#: How many times smaller or larger than anything measured an op of the same name may be.
_REACH = 4.0
#: Rows of an op that are enough to tell of others.
_FEW = 3
#: Vector registers hold 8 or 16 values: what is no multiple leaves lanes idle.
_LANES = (8, 16)
#: Dimensions of a tensor that are features of their own.
_DIMS = 5


@dataclass(frozen=True)
class Correction:
    """The fitted correction.

    Ops go by :func:`_name`: an op with two kernels is two.
    """

    #: By name: (least, greatest) of log bytes and log FLOPs measured.
    ranges: dict[Hashable, tuple[float, float, float, float]]
    codes: dict[Hashable, int]
    center: Floats
    scale: Floats
    linear: Floats
    trees: Boosted
    #: Standard deviation of the logarithm, by name.
    spreads: dict[Hashable, float]
    threads: int

    def covers(self, work: OpWork) -> bool:
        """True for an op that was measured often enough, at sizes that are not far from this one's."""
        found = self.ranges.get(_name(work, self.threads))
        if found is None:
            return False
        reach = math.log(_REACH)
        size, flops = _log(work.bytes_moved), _log(work.flops)
        return found[0] - reach <= size <= found[1] + reach and found[2] - reach <= flops <= found[3] + reach

    def factors(self, works: Sequence[OpWork], model: AnalyticModel, target: Target) -> Floats:
        """Measured over analytic seconds, for works whose ops were measured."""
        x = np.array([describe(work, model, target, self.codes[_name(work, self.threads)]) for work in works])
        return np.exp(self._linear(x) + self.trees.predict(x))

    def spread(self, work: OpWork) -> float:
        """By how much a corrected figure may be off, as a standard deviation of its logarithm."""
        return self.spreads[_name(work, self.threads)]

    def _linear(self, x: Floats) -> Floats:
        found: Floats = _design(x, self.center, self.scale, len(self.codes)) @ self.linear
        return found


def fit(works: Sequence[OpWork], seconds: Sequence[float], model: AnalyticModel, target: Target) -> Correction:
    """The correction that suits measured works (no views among them) best."""
    names = [_name(work, target.units) for work in works]
    codes = {name: i for i, name in enumerate(dict.fromkeys(names))}
    x = np.array([describe(work, model, target, codes[name]) for work, name in zip(works, names, strict=True)])
    analytic = np.array([model.op_seconds(work, target).seconds for work in works])
    y = np.log(np.array(seconds) / analytic)
    center, scale = x.mean(axis=0), x.std(axis=0) + 1e-9
    design = _design(x, center, scale, len(codes))
    linear = np.linalg.solve(design.T @ design + _RIDGE * np.eye(design.shape[1]), design.T @ y)
    rest = y - design @ linear
    trees, unseen = fit_bagged(x, rest, Options())
    errors = np.where(np.isnan(unseen), 0.0, rest - unseen)
    spreads = _spreads(names, errors)
    return Correction(_ranges(names, works), codes, center, scale, linear, trees, spreads, target.units)


def _name(work: OpWork, threads: int) -> Hashable:
    """The op, and which of the library's kernels for it runs where that is known: each has a speed of its own."""
    return work.target, cpu_convolution(work, threads)


def _ranges(names: Sequence[Hashable], works: Sequence[OpWork]) -> dict[Hashable, tuple[float, float, float, float]]:
    grouped: dict[Hashable, list[tuple[float, float]]] = {}
    for name, work in zip(names, works, strict=True):
        grouped.setdefault(name, []).append((_log(work.bytes_moved), _log(work.flops)))
    return {
        op: (min(b for b, _ in sizes), max(b for b, _ in sizes), min(f for _, f in sizes), max(f for _, f in sizes))
        for op, sizes in grouped.items()
        if len(sizes) >= _FEW
    }


def _spreads(names: Sequence[Hashable], errors: Floats) -> dict[Hashable, float]:
    grouped: dict[Hashable, list[float]] = {}
    for name, error in zip(names, errors.tolist(), strict=True):
        grouped.setdefault(name, []).append(error)
    return {name: math.sqrt(sum(e * e for e in found) / len(found)) for name, found in grouped.items()}


def _design(x: Floats, center: Floats, scale: Floats, ops: int) -> Floats:
    """The linear part's columns: an intercept an op, the sizes, and a slope of the analytic seconds an op."""
    op = np.eye(ops)[x[:, 0].astype(np.int64)]
    sizes = (x[:, 1:] - center[1:]) / scale[1:]
    return np.concatenate((op, sizes, op * sizes[:, :1]), axis=1)


def describe(work: OpWork, model: AnalyticModel, target: Target, code: int) -> list[float]:
    """The features of an op: its name's number ``code`` first, the analytic seconds second."""
    curve = model.curve(work, target)
    elements = max(1, work.out_elements)
    shared = work.shared_bytes / max(1.0, work.bytes_moved)
    return [
        float(code),
        math.log(curve.seconds()),
        _KINDS.index(work.kind),
        _FORMS.index(work.form),
        _log(work.flops),
        _log(work.bytes_moved),
        _log(work.bytes_written),
        _log(elements),
        _log(work.batch),
        _log(work.m),
        _log(work.n),
        _log(work.k),
        math.log(curve.compute_s(1.0) + 1e-9) - math.log(curve.memory_s(1.0) + 1e-9),
        shared,
        _log(work.rows),
        float(work.strided),
        float(work.broadcast),
        float(work.dtype.itemsize),
        *(float(size % lanes == 0) for size in (work.n, work.k) for lanes in _LANES),
        *_layout(work),
    ]


def _layout(work: OpWork) -> tuple[float, ...]:
    """Of the call's first two tensors and its result: rank, whether row-major or channels last, sizes."""
    if work.call is None:
        return (-1.0,) * (4 + 3 * _DIMS + 1)
    _, args, out, _ = work.call
    found = _tensors(args)
    first, second = found[0] if found else out, found[1] if len(found) > 1 else None
    sizes = (*_dims(first), *_dims(second), *_dims(out))
    return (*_order(first), *_order(out)[1:], float(len(found)), *sizes, _reduced_stride(first, args))


def _tensors(entry: Any) -> list[Any]:
    """The (shape, strides, dtype) in a call's arguments."""
    if not entry or isinstance(entry[0], type):
        return []
    if isinstance(entry[0], torch.Size):
        return [entry]
    return [found for inner in entry for found in _tensors(inner)]


def _dims(tensor: Any) -> list[float]:
    """Logarithms of the sizes, the last first; 0 for dimensions that it has not."""
    sizes = list(tensor[0])[::-1][:_DIMS] if tensor and isinstance(tensor[0], torch.Size) else []
    return [_log(size) for size in sizes] + [0.0] * (_DIMS - len(sizes))


def _reduced_stride(tensor: Any, args: Any) -> float:
    """How far neighbours of a reduction's dimensions lie apart; 0 where the arguments name none."""
    named = next((entry for entry in args[1:] if entry and type(entry[0]) is tuple), ())
    dims = [dim[1] for dim in named if len(dim) == 2 and dim[0] is int]
    strides = tensor[1] if tensor and isinstance(tensor[0], torch.Size) else ()
    inside = [strides[dim] for dim in dims if -len(strides) <= dim < len(strides)]
    return _log(min(inside, default=0))


def _order(tensor: Any) -> tuple[float, float]:
    """(rank, 0 row-major, 1 channels last, 2 otherwise)."""
    if not tensor or not isinstance(tensor[0], torch.Size):
        return (0.0, 0.0)
    shape, strides, _ = tensor
    dims = [d for d in range(len(shape)) if shape[d] > 1]
    by_stride = sorted(dims, key=lambda d: -strides[d])
    if by_stride == dims:
        return (float(len(shape)), 0.0)
    last = [d for d in dims if d != 1] + [d for d in dims if d == 1]
    return (float(len(shape)), 1.0 if by_stride == last else 2.0)


def _log(value: float) -> float:
    return math.log1p(max(0.0, value))
