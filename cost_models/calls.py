"""How a table spells one call of an op: its name, its arguments and its result, as text that reads back.

A tensor is ``f32[2,64,8,8]``, with its strides behind it where they are not row-major: ``f32[2,64]{1,2}``. Arguments
are a Python literal: a list, tensors and torch's own values (dtypes, layouts) as strings, keyword arguments in a
dictionary at the end. ``aten.mean.dim`` of ``['f32[2,8]', [1], True]`` is one call.
"""

from __future__ import annotations

import ast
import functools
import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vgcomp import ir
from vgcomp.slices import contiguous_strides

_DTYPES = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i64": torch.int64,
    "i32": torch.int32,
    "i16": torch.int16,
    "i8": torch.int8,
    "u8": torch.uint8,
    "b8": torch.bool,
}
_SHORT = {dtype: short for short, dtype in _DTYPES.items()}
_TENSOR = re.compile(r"(b?[a-z]\d+)\[([\d,]*)\](?:\{([\d,]*)\})?")
_TORCH = re.compile(r"torch\.(\w+)")
_DEVICE, _FLOAT = "device:", "float:"


@dataclass(frozen=True, slots=True)
class Call:
    """One call as text; equal texts are the same work on tensors of the same layout."""

    op: str
    arguments: str
    result: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """A call read back; tensors are on the ``meta`` device."""

    target: Any
    args: list[Any]
    kwargs: dict[str, Any]
    out: Any


def spell(call: tuple[Any, ...]) -> Call:
    """The text of :attr:`~vgcomp.cost_models.base.OpWork.call`."""
    target, args, out, kwargs = call
    values = [_value(entry) for entry in args]
    if kwargs:
        values.append({name: _value(entry) for name, entry in kwargs})
    return Call(str(target), repr(values), repr(_value(out)).strip("'"))


def _value(entry: Any) -> Any:
    """The literal for what :func:`vgcomp.cost_models.work.work_of` makes of an argument."""
    if entry and isinstance(entry[0], torch.Size):
        return _tensor_text(*entry)
    if len(entry) == 2 and isinstance(entry[0], type):
        return _scalar(entry[1])
    return [_value(inner) for inner in entry]


def _tensor_text(shape: torch.Size, strides: tuple[int, ...], dtype: torch.dtype) -> str:
    text = f"{_SHORT[dtype]}[{','.join(map(str, shape))}]"
    if tuple(strides) == contiguous_strides(shape):
        return text
    return f"{text}{{{','.join(map(str, strides))}}}"


def _scalar(value: Any) -> Any:
    if isinstance(value, torch.device):
        return f"{_DEVICE}{value}"
    if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f"{_FLOAT}{value}"
    return value


def parse(call: Call) -> Parsed:
    """Reads the text back. Raises ValueError, naming the column, for what is no call of the dialect."""
    try:
        values = ast.literal_eval(call.arguments)
        assert isinstance(values, list)
        kwargs = values.pop() if values and isinstance(values[-1], dict) else {}
        args = [_read(value) for value in values]
        named = {name: _read(value) for name, value in kwargs.items()}
    except (ValueError, SyntaxError, AssertionError, AttributeError, KeyError, TypeError):
        raise ValueError(f"column 'arguments': {call.arguments!r} is no list of arguments") from None
    try:
        out = _read(ast.literal_eval(call.result) if call.result.startswith("[") else call.result)
    except (ValueError, SyntaxError, KeyError):
        raise ValueError(f"column 'result': {call.result!r} is no tensor") from None
    return Parsed(op_named(call.op), args, named, out)


@functools.cache
def op_named(name: str) -> Any:
    """The op of the dialect with this name. Raises ValueError for another one."""
    found = {str(target): target for target in (*ir.DIALECT, *_MERGES)}.get(name)
    if found is None:
        raise ValueError(f"column 'op': {name!r} is no op of the dialect")
    return found


_MERGES = (ir.own.merge_moments.default, ir.own.merge_softmax.default)


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return [_read(entry) for entry in value]
    if not isinstance(value, str):
        return value
    if found := _TENSOR.fullmatch(value):
        return _tensor(*found.groups())
    if found := _TORCH.fullmatch(value):
        return getattr(torch, found[1])
    if value.startswith(_DEVICE):
        return torch.device(value.removeprefix(_DEVICE))
    return float(value.removeprefix(_FLOAT)) if value.startswith(_FLOAT) else value


def _tensor(dtype: str, shape: str, strides: str | None) -> Tensor:
    sizes = tuple(map(int, filter(None, shape.split(","))))
    steps = contiguous_strides(sizes) if strides is None else tuple(map(int, filter(None, strides.split(","))))
    return torch.empty_strided(sizes, steps, dtype=_DTYPES[dtype], device="meta")
