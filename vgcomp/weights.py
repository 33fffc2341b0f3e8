"""Weights by reference: where a tensor's data lies, loaded only when somebody needs the numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vgcomp.errors import ModelError
from vgcomp.slices import contiguous_strides


@dataclass(frozen=True, eq=False)
class TensorData:
    """In memory. The tensor is shared, never written to."""

    tensor: Tensor


@dataclass(frozen=True)
class FileData:
    """Raw little-endian bytes in a file: ``length`` bytes from ``offset``."""

    path: Path
    offset: int
    length: int

    def check_size(self, owner: str) -> None:
        """Raises ModelError, naming ``owner``, where the file is missing or ends before these bytes do."""
        _check_size(owner, self.path, self.offset + self.length)


@dataclass(frozen=True)
class SafetensorsData:
    """One tensor of a safetensors file."""

    path: Path
    key: str


@dataclass(frozen=True, eq=False)
class ConvertedData:
    """The numbers of another weight, rounded to this one's dtype when they are loaded."""

    source: Weight


#: Elements of an axis, as half-open runs in order.
Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class PickedData:
    """Elements of another weight, cut out when they are loaded: for each axis the runs kept, None for all."""

    source: Weight
    spans: tuple[Spans | None, ...]


@dataclass(frozen=True)
class Absent:
    """No data: shapes suffice to analyse and rewrite a network, not to run it."""


WeightData = TensorData | FileData | SafetensorsData | ConvertedData | PickedData | Absent


@dataclass(frozen=True)
class Weight:
    """A named constant tensor of a Program: dense, row-major."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    data: WeightData

    @property
    def numel(self) -> int:
        """Elements of the tensor."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the dense tensor."""
        return self.numel * self.dtype.itemsize

    @property
    def present(self) -> bool:
        """True when the numbers can be had (a file may still turn out to be missing)."""
        return not isinstance(self.data, Absent)

    def load(self) -> Tensor:
        """The numbers, memory-mapped where they are in a file.

        Raises ModelError when there are none, or when the file is missing, short or of another shape.
        """
        if isinstance(self.data, TensorData):
            return self.data.tensor
        if isinstance(self.data, FileData):
            return self._from_file(self.data)
        if isinstance(self.data, SafetensorsData):
            return self._from_safetensors(self.data)
        if isinstance(self.data, ConvertedData):
            return self.data.source.load().to(self.dtype)
        if isinstance(self.data, PickedData):
            return _picked(self.data)
        raise ModelError(
            f"weight {self.name!r} has no data: the network was built without weights; build it with random "
            "weights, or give the file that holds them"
        )

    def absent(self) -> Weight:
        """The same weight without its data."""
        return replace(self, data=Absent())

    def converted(self, dtype: torch.dtype) -> Weight:
        """The same weight in another dtype; converted when it is loaded."""
        return replace(self, dtype=dtype, data=ConvertedData(self) if self.present else Absent())

    def picked(self, spans: Sequence[Spans | None]) -> Weight:
        """The same weight with these elements of each axis only; None keeps an axis whole."""
        sizes = zip(self.shape, spans, strict=True)
        shape = tuple(size if runs is None else sum(end - start for start, end in runs) for size, runs in sizes)
        return replace(self, shape=shape, data=PickedData(self, tuple(spans)) if self.present else Absent())

    def _from_file(self, data: FileData) -> Tensor:
        if data.length != self.nbytes:
            raise ModelError(f"weight {self.name!r}: {data.length} bytes are given for a tensor of {self.nbytes}")
        if self.numel == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        data.check_size(f"weight {self.name!r}")
        mapped = np.memmap(data.path, dtype=np.uint8, mode="c", offset=data.offset, shape=(data.length,))
        aligned = data.offset % self.dtype.itemsize == 0
        return torch.from_numpy(mapped if aligned else np.array(mapped)).view(self.dtype).reshape(self.shape)

    def _from_safetensors(self, data: SafetensorsData) -> Tensor:
        from safetensors import SafetensorError, safe_open

        _check_size(f"weight {self.name!r}", data.path, 0)
        try:
            with safe_open(data.path, framework="pt") as file:  # type: ignore[no-untyped-call]
                tensor: Tensor = file.get_tensor(data.key)
        except (SafetensorError, OSError, json.JSONDecodeError) as error:
            raise ModelError(f"weight {self.name!r}: {data.path} cannot be read: {error}") from error
        if tuple(tensor.shape) != self.shape or tensor.dtype != self.dtype:
            raise ModelError(
                f"weight {self.name!r}: {data.path} holds {tensor.dtype} {tuple(tensor.shape)}, "
                f"not {self.dtype} {self.shape}"
            )
        return tensor


def _picked(data: PickedData) -> Tensor:
    tensor = data.source.load()
    for axis, runs in enumerate(data.spans):
        parts = [tensor.narrow(axis, start, end - start) for start, end in runs or ()]
        tensor = torch.cat(parts, axis) if len(parts) > 1 else (parts or [tensor])[0]
    return row_major(tensor)


def _check_size(owner: str, path: Path, needed: int) -> None:
    """Raises ModelError unless the file is there and has ``needed`` bytes."""
    if not path.is_file():
        raise ModelError(f"{owner}: its data file {path} is missing; put it there or work without weights")
    if path.stat().st_size < needed:
        raise ModelError(f"{owner}: its data file {path} is truncated ({needed} bytes needed); copy it again")


def from_tensor(name: str, tensor: Tensor) -> Weight:
    """A weight that shares ``tensor``'s memory if it is dense and row-major."""
    dense = row_major(tensor)
    return Weight(name, tuple(dense.shape), dense.dtype, TensorData(dense))


def row_major(tensor: Tensor) -> Tensor:
    """The same numbers with plain row-major strides (dims of size 1 included), copied only if needed."""
    dense = tensor.detach().contiguous()
    return dense.as_strided(dense.shape, contiguous_strides(dense.shape))


def without_data(name: str, shape: Sequence[int], dtype: torch.dtype) -> Weight:
    """A weight of which only the shape is known."""
    return Weight(name, tuple(shape), dtype, Absent())
