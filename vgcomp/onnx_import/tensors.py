"""Tensors as an ONNX file stores them: inside the file, beside it, or not here at all."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import torch

from vgcomp.errors import ModelError
from vgcomp.weights import FileData, Weight

DTYPES: dict[ir.DataType, torch.dtype] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.FLOAT8E4M3FN: torch.float8_e4m3fn,
    ir.DataType.FLOAT8E5M2: torch.float8_e5m2,
}


def torch_dtype(dtype: ir.DataType | None, owner: str) -> torch.dtype:
    """The torch dtype of an ONNX one; ModelError naming ``owner`` where there is none."""
    found = DTYPES.get(dtype) if dtype is not None else None
    if found is None:
        raise ModelError(f"{owner} has element type {dtype.name if dtype else 'unknown'}, which is not supported")
    return found


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """An initializer: name, shape, dtype and where its bytes are.

    ``data`` is None for bytes held inside the ONNX file; the file that it names otherwise need not exist.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    tensor: ir.TensorProtocol
    data: FileData | None = None

    @property
    def present(self) -> bool:
        """True when the data can be read."""
        return self.data is None or self.data.path.is_file()

    def load(self) -> torch.Tensor:
        """The data as a tensor of its own. ModelError when the external file is missing or short."""
        if self.data is None:
            return from_onnx(self.tensor, self.name)
        if not self.present:
            raise ModelError(
                f"tensor {self.name!r} decides shapes or options, but its external data file {self.data.path} "
                "is missing"
            )
        return Weight(self.name, self.shape, self.dtype, self.data).load().clone()


def stored(name: str, tensor: ir.TensorProtocol, folder: Path) -> StoredTensor:
    """Describes an initializer without reading its data.

    Raises ModelError for an element type without a torch counterpart, for external data outside
    ``folder``, and for an external file that is there but too short.
    """
    dtype = torch_dtype(tensor.dtype, f"tensor {name!r}")
    shape = tuple(int(d) for d in tensor.shape)
    if not isinstance(tensor, ir.ExternalTensor):
        return StoredTensor(name, shape, dtype, tensor)
    location = str(tensor.location)
    file = Path(os.path.normpath(folder / location))
    if os.path.isabs(location) or not file.is_relative_to(os.path.normpath(folder)):
        raise ModelError(f"tensor {name!r} keeps its data at {location!r}, outside the model's folder")
    data = FileData(file, int(tensor.offset or 0), math.prod(shape) * dtype.itemsize)
    if file.is_file():
        data.check_size(f"tensor {name!r}")
    return StoredTensor(name, shape, dtype, tensor, data)


def from_onnx(tensor: ir.TensorProtocol, name: str) -> torch.Tensor:
    """An ONNX tensor held in memory, copied to torch. ModelError when bytes and shape disagree."""
    dtype = torch_dtype(tensor.dtype, f"tensor {name!r}")
    shape = tuple(int(d) for d in tensor.shape)
    try:
        raw = bytearray(tensor.tobytes())
    except (ValueError, TypeError, RuntimeError) as error:
        raise ModelError(f"tensor {name!r} is damaged: {str(error).splitlines()[0]}") from error
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise ModelError(f"tensor {name!r} is damaged: {len(raw)} bytes for shape {shape} of {dtype}")
    if not raw:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(raw, dtype=dtype).reshape(shape)
