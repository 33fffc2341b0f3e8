"""Operators whose result is known once the shapes are: where shape arithmetic begins."""

from __future__ import annotations

import math

import onnx_ir as ir
import torch

from vgcomp.errors import ModelError
from vgcomp.onnx_import.op import Op, Table
from vgcomp.onnx_import.tensors import torch_dtype
from vgcomp.onnx_import.values import Constant, Value

TABLE = Table()


@TABLE("Constant")
def _constant(op: Op) -> Value:
    tensor = op.attr_tensor("value")
    if tensor is not None:
        return Constant(tensor)
    if op.has_attr("value_int"):
        return Constant(torch.tensor(op.attr_int("value_int"), dtype=torch.int64))
    if op.has_attr("value_float"):
        return Constant(torch.tensor(op.attr_float("value_float"), dtype=torch.float32))
    if (ints := op.attr_ints("value_ints")) is not None:
        return Constant(torch.tensor(ints, dtype=torch.int64))
    if (floats := op.attr_floats("value_floats")) is not None:
        return Constant(torch.tensor(floats, dtype=torch.float32))
    raise ModelError("it holds a value that is no dense tensor of numbers")


@TABLE("Shape")
def _shape(op: Op) -> Value:
    start = op.attr_int("start")
    end = op.attr_int("end") if op.has_attr("end") else None
    return Constant(torch.tensor(list(op[0].shape)[slice(start, end)], dtype=torch.int64))


@TABLE("Size")
def _size(op: Op) -> Value:
    return Constant(torch.tensor(math.prod(op[0].shape), dtype=torch.int64))


@TABLE("ConstantOfShape")
def _constant_of_shape(op: Op) -> Value:
    fill = op.attr_tensor("value")
    fill = torch.zeros(()) if fill is None else fill.reshape(())
    return Constant(fill.expand(tuple(op.ints(0))))


@TABLE("Range")
def _range(op: Op) -> Value:
    start, limit, delta = op.known(0), op.known(1), op.known(2)
    count = max(0, math.ceil((limit.item() - start.item()) / delta.item()))
    return Constant(start + torch.arange(count).to(start.dtype) * delta)


@TABLE("EyeLike")
def _eye_like(op: Op) -> Value:
    rows, columns = op[0].shape
    dtype = torch_dtype(ir.DataType(op.attr_int("dtype")), "its result") if op.has_attr("dtype") else op[0].dtype
    where = torch.arange(columns)[None, :] - torch.arange(rows)[:, None]
    return Constant((where == op.attr_int("k")).to(dtype))
