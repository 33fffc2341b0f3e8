"""Reads an ML Program package: its operations from the protobuf, its weights from the blob file.

``Manifest.json`` names the model file, ``Data/com.apple.CoreML/model.mlmodel`` by convention. Large constants lie in
``weights/weight.bin`` beside it: at the offset that a value names, 64 bytes say where its data begin (sentinel, element
type, size in bytes and offset, little-endian), and there they lie row-major; elements of fewer than 8 bits are packed,
the first in the lowest bits.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vgcomp.errors import ModelError

#: The package's files.
MODEL, BLOB = Path("Data/com.apple.CoreML/model.mlmodel"), "weights/weight.bin"

_SENTINEL = 0xDEADBEEF
_METADATA = struct.Struct("<IIQQ")

_DENSE: dict[str, Any] = {
    "FLOAT16": np.float16,
    "FLOAT32": np.float32,
    "FLOAT64": np.float64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "BOOL": np.bool_,
}
#: Bits of the packed element types, and whether they are signed.
_PACKED = {"UINT1": (1, False), "UINT2": (2, False), "UINT3": (3, False), "UINT4": (4, False), "UINT6": (6, False)}
_PACKED |= {"INT4": (4, True)}


@dataclass(frozen=True)
class ValueType:
    """An element type by MIL's name (FLOAT16, …), and a shape."""

    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """One op: arguments are names, numbers, or lists of either."""

    type: str
    inputs: dict[str, Any]
    outputs: tuple[tuple[str, ValueType], ...]
    #: Of a ``const``: its value.
    value: Any = None


@dataclass(frozen=True)
class Name:
    """An argument that is another op's output."""

    name: str


@dataclass(frozen=True)
class Package:
    """A model's interface and the operations of its one function, in order."""

    path: Path
    inputs: dict[str, ValueType]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]
    specification: int
    opset: str
    types: dict[str, ValueType] = field(default_factory=dict)

    @property
    def max_rank(self) -> int:
        """The most dimensions of any value, constants included."""
        return max((len(value.shape) for value in self.types.values()), default=0)

    def kinds(self) -> set[str]:
        """Element types of what ops compute; constants left out."""
        made = (op for op in self.operations if op.type != "const" and not op.type.startswith("constexpr"))
        return {value.kind for op in made for _, value in op.outputs}


def read_package(path: Path) -> Package:
    """Raises ModelError for what is no ML Program, or is damaged."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    from vgcomp.backends.coreml.require import require_coreml

    require_coreml()
    from coremltools.proto import Model_pb2

    model_file = path / MODEL
    if not model_file.is_file():
        raise ModelError(f"{path} is no Core ML package: it holds no {MODEL}")
    spec = Model_pb2.Model()
    try:
        spec.ParseFromString(model_file.read_bytes())
    except DecodeError as error:
        raise ModelError(f"{model_file} is damaged; copy the package again") from error
    if spec.WhichOneof("Type") != "mlProgram" or "main" not in spec.mlProgram.functions:
        raise ModelError(f"{path} is no ML Program: write it again with --emit coreml")
    function = spec.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    reader = _Reader(model_file.parent)
    operations = tuple(reader.operation(op) for op in block.operations)
    inputs = {item.name: _value_type(item.type) for item in function.inputs}
    types = inputs | {name: kind for op in operations for name, kind in op.outputs}
    if len(types) != len(inputs) + sum(len(op.outputs) for op in operations):
        raise ModelError(f"{path} names two values alike; write it again")
    return Package(path, inputs, tuple(block.outputs), operations, spec.specificationVersion, function.opset, types)


def _value_type(message: Any) -> ValueType:
    """A tensor's type; other values (lists, dictionaries) do not occur between our ops."""
    from coremltools.proto import MIL_pb2

    tensor = message.tensorType
    shape = tuple(int(dimension.constant.size) for dimension in tensor.dimensions)
    return ValueType(MIL_pb2.DataType.Name(tensor.dataType), shape)


class _Reader:
    """Turns messages into operations; ``folder`` holds the weights."""

    def __init__(self, folder: Path) -> None:
        blob = folder / BLOB
        self.blob = np.memmap(blob, dtype=np.uint8, mode="r") if blob.is_file() and blob.stat().st_size else None
        self.path = blob

    def operation(self, message: Any) -> Operation:
        inputs = {name: self._argument(argument) for name, argument in message.inputs.items()}
        outputs = tuple((item.name, _value_type(item.type)) for item in message.outputs)
        value = self._value(message.attributes["val"]) if message.type == "const" else None
        return Operation(message.type, inputs, outputs, value)

    def _argument(self, message: Any) -> Any:
        bound = [
            Name(item.name) if item.WhichOneof("binding") == "name" else self._value(item.value)
            for item in message.arguments
        ]
        return bound[0] if len(bound) == 1 else bound

    def _value(self, message: Any) -> Any:
        """A tensor, or text."""
        kind = _value_type(message.type)
        if message.WhichOneof("value") == "blobFileValue":
            return self._from_blob(kind, int(message.blobFileValue.offset))
        tensor = message.immediateValue.tensor
        field_name = tensor.WhichOneof("value")
        values = getattr(tensor, field_name).values
        if field_name == "strings":
            return values[0]
        if field_name == "bytes":
            return _tensor(kind, np.frombuffer(values, dtype=np.uint8))
        return torch.from_numpy(np.array(values, dtype=_DENSE[kind.kind]).reshape(kind.shape))

    def _from_blob(self, kind: ValueType, offset: int) -> Tensor:
        if self.blob is None or offset + _METADATA.size > len(self.blob):
            raise ModelError(f"{self.path} is missing or truncated; copy the package again")
        sentinel, _, size, start = _METADATA.unpack(self.blob[offset : offset + _METADATA.size].tobytes())
        if sentinel != _SENTINEL or start + size > len(self.blob):
            raise ModelError(f"{self.path} is damaged at byte {offset}; copy the package again")
        return _tensor(kind, self.blob[start : start + size])


def _tensor(kind: ValueType, raw: Any) -> Tensor:
    """Numbers from bytes."""
    count = math.prod(kind.shape)
    if kind.kind in _PACKED:
        return torch.from_numpy(_unpacked(raw, count, *_PACKED[kind.kind]).reshape(kind.shape))
    dense = np.frombuffer(raw.tobytes(), dtype=_DENSE[kind.kind], count=count)
    return torch.from_numpy(dense.reshape(kind.shape).copy())


def _unpacked(raw: Any, count: int, bits: int, signed: bool) -> Any:
    """Elements of a few bits, as int8 or uint8."""
    stream = np.unpackbits(np.asarray(raw), bitorder="little")[: count * bits].reshape(count, bits)
    values = (stream.astype(np.int16) << np.arange(bits, dtype=np.int16)).sum(axis=1)
    if signed:
        values = np.where(values >= 1 << (bits - 1), values - (1 << bits), values)
    return values.astype(np.int8 if signed else np.uint8)


def names_in(argument: Any) -> Iterator[str]:
    """The outputs of other ops that an argument reads."""
    if isinstance(argument, Name):
        yield argument.name
    elif isinstance(argument, list):
        for item in argument:
            yield from names_in(item)
