"""Binding of dynamic dimensions: every input gets a static shape, or one line says what is missing."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping

import onnx_ir as ir

from vgcomp.errors import ModelError, UsageError

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def dim_name(value: ir.Value, index: int) -> str | None:
    """The name that binds dimension ``index`` of an input; None for a static one.

    A dimension without a name of its own goes by ``<input>.<index>``.
    """
    assert value.shape is not None
    dim = value.shape[index]
    if isinstance(dim, int):
        return None
    return str(dim.value) if dim.value else f"{value.name}.{index}"


def bind(inputs: list[ir.Value], dims: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Static shapes of ``inputs`` by name.

    Raises UsageError for a value that is no positive number or a name that no input has, and
    ModelError that names the dimensions left unbound and the option that binds them.
    """
    _check_given(inputs, dims)
    shapes: dict[str, tuple[int, ...]] = {}
    unbound: dict[str, str] = {}
    for value in inputs:
        if value.shape is None:
            raise ModelError(f"input {value.name!r} has no shape in the file; export the model with shapes")
        sizes = []
        for index, dim in enumerate(value.shape):
            name = dim_name(value, index)
            size = int(dim) if isinstance(dim, int) else _evaluate(str(name), dims)
            if size is None:
                unbound.setdefault(str(name), str(value.name))
            sizes.append(size or 0)
        shapes[str(value.name)] = tuple(sizes)
    if unbound:
        named = ", ".join(f"{dim!r} (of input {owner!r})" for dim, owner in unbound.items())
        options = " ".join(f"--set {dim}=VALUE" for dim in unbound)
        raise ModelError(f"dynamic dimensions left unbound: {named}; give {options}")
    return shapes


def _check_given(inputs: list[ir.Value], dims: Mapping[str, int]) -> None:
    known: set[str] = set()
    for value in inputs:
        names = (dim_name(value, i) for i in range(len(value.shape))) if value.shape is not None else ()
        known.update(symbol for name in names if name for symbol in _symbols(name))
    for name, size in dims.items():
        if name not in known:
            there = ", ".join(sorted(known)) or "none: all its inputs have fixed shapes"
            raise UsageError(f"the model has no dynamic dimension {name!r}; it has {there}")
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UsageError(f"dimension {name!r} is set to {size!r}; a positive whole number is needed")


def _symbols(name: str) -> list[str]:
    """The name itself and, for an expression such as ``2*height``, the names in it."""
    inner = re.findall(r"[A-Za-z_]\w*", name)
    return [name] if inner == [name] or not inner else [name, *inner]


def _evaluate(name: str, dims: Mapping[str, int]) -> int | None:
    """The size of a dimension given by name, or by arithmetic on names (exporters write ``2*s0``)."""
    if name in dims:
        return dims[name]
    try:
        return _arithmetic(ast.parse(name, mode="eval").body, dims)
    except (SyntaxError, KeyError, ZeroDivisionError, ValueError):
        return None


def _arithmetic(tree: ast.expr, dims: Mapping[str, int]) -> int:
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
        return tree.value
    if isinstance(tree, ast.Name):
        return dims[tree.id]
    if isinstance(tree, ast.BinOp) and type(tree.op) in _OPERATORS:
        return _OPERATORS[type(tree.op)](_arithmetic(tree.left, dims), _arithmetic(tree.right, dims))
    raise ValueError("not arithmetic on names")
