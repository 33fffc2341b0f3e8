"""Shapes, dtypes and strides: fake evaluation, memoised by structure.

A network repeats its blocks, and the compiler evaluates thousands of nodes again and again, so the
result of an op is looked up by (op, shapes, strides, dtypes, scalars) before a kernel's meta
function is run. Equal keys give *the same* fake tensor: a value in ``meta["val"]`` describes a tensor,
its identity and its storage mean nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from vgcomp import ir
from vgcomp.errors import InternalError

#: Entries kept before the memo starts anew; an entry is a few kB.
_MEMO_LIMIT = 50_000

_MODE = FakeTensorMode(allow_non_fake_inputs=False)
_memo: dict[Any, Any] = {}


def shared_fake_mode() -> FakeTensorMode:
    """The one mode that all Programs' values belong to, so that values may be mixed and memoised."""
    return _MODE


def fake_tensor(shape: Sequence[int], dtype: torch.dtype, stride: Sequence[int] | None = None) -> Tensor:
    """A fake CPU tensor, row-major unless ``stride`` says otherwise."""
    key = ("empty", tuple(shape), dtype, None if stride is None else tuple(stride))
    found = _memo.get(key)
    if found is None:
        found = _remember(key, _make(shape, dtype, stride))
    return found  # type: ignore[no-any-return]


def evaluate_fake(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Any:
    """The fake value of one call on fake tensors and scalars; a tuple of them for a loop.

    Raises what the op's meta function raises on wrong shapes (RuntimeError and the like).
    """
    if target is operator.getitem:
        return args[0][args[1]]
    if target is ir.sliced:
        return tuple(fake_tensor(result.shape, result.dtype, result.stride) for result in args[0].results)
    kwargs = kwargs or {}
    key = (target, _key(args), tuple((name, _key(value)) for name, value in kwargs.items()))
    found = _memo.get(key)
    if found is None:
        with torch.no_grad(), _MODE:
            found = _remember(key, target(*args, **kwargs))
    return found


def node_value(node: fx.Node) -> Any:
    """What a call_function node evaluates to, from its arguments' ``meta["val"]``."""
    args = fx.node.map_aggregate(node.args, _value_of)
    kwargs = fx.node.map_aggregate(node.kwargs, _value_of)
    return evaluate_fake(node.target, args, kwargs)  # type: ignore[arg-type]


def propagate(graph: fx.Graph, fake_mode: FakeTensorMode | None = None) -> None:
    """Fills ``meta["val"]`` of every call_function node; placeholders and weights must have theirs.

    ``fake_mode``: accepted for symmetry with callers that carry one; values always belong to the shared mode.
    Raises InternalError naming the node that cannot be evaluated.
    """
    if fake_mode is not None and fake_mode is not _MODE:
        raise InternalError("propagate: values of another fake mode cannot be mixed with a Program's")
    for node in graph.nodes:
        if node.op == "call_function":
            node.meta["val"] = _checked(node)
        elif node.op != "output" and "val" not in node.meta:
            raise InternalError(f"propagate: {node.op} {node.name} has no value")


def _checked(node: fx.Node) -> Any:
    try:
        return node_value(node)
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        raise InternalError(f"node {node.name} ({node.target}) cannot be evaluated: {error}") from error


def _value_of(arg: Any) -> Any:
    return arg.meta["val"] if isinstance(arg, fx.Node) else arg


def _key(arg: Any) -> Any:
    """Hashable and type-true: 1, 1.0 and True are three arguments."""
    if isinstance(arg, Tensor):
        return (arg.shape, arg.stride(), arg.dtype)
    if isinstance(arg, (list, tuple)):
        return tuple(_key(item) for item in arg)
    return arg if type(arg) is int else (type(arg), arg)


def _make(shape: Sequence[int], dtype: torch.dtype, stride: Sequence[int] | None) -> Tensor:
    with _MODE:
        if stride is None:
            return torch.empty(tuple(shape), dtype=dtype)
        return torch.empty_strided(tuple(shape), tuple(stride), dtype=dtype)


def _remember(key: Any, value: Any) -> Any:
    if len(_memo) >= _MEMO_LIMIT:
        _memo.clear()
    _memo[key] = value
    return value
