"""Weights in an ONNX file: inside it, in a data file beside it, or referenced where they already are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from onnx import TensorProto

from vgcomp.backends.onnx_export.scope import onnx_dtype, raw_bytes, tensor_proto
from vgcomp.errors import ModelError
from vgcomp.units import GIB
from vgcomp.weights import Absent, FileData, Weight

#: More weights than this go to a data file (an ONNX file cannot exceed 2 GiB).
INLINE_LIMIT = GIB
#: Where the data of absent weights is expected, beside the model: ``<model>.weights``.
_ABSENT_SUFFIX = ".weights"
_DATA_SUFFIX = ".data"
_ALIGNMENT = 64


@dataclass
class Initializers:
    """The initializers of one file, and the weights whose bytes go to its data file."""

    data_name: str
    tensors: list[TensorProto] = field(default_factory=list)
    stored: list[Weight] = field(default_factory=list)

    def write_data(self, file: BinaryIO) -> None:
        """Writes the stored weights' bytes where the initializers say they are."""
        for weight in self.stored:
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            file.write(raw_bytes(weight.load()))


def place(weights: Sequence[Weight], path: Path, home: Path, source: Path | None, allow_absent: bool) -> Initializers:
    """Decides for each weight where its bytes are.

    ``path``: the model file. ``home``: the folder it will be in when it is used. ``source``: the folder
    of the model that the weights come from, if they come from one. A weight in a file under ``home``,
    and one whose file is missing, stays a reference. Raises ModelError for absent weights unless allowed.
    """
    absent = [weight for weight in weights if isinstance(weight.data, Absent)]
    if absent and not allow_absent:
        raise ModelError(
            f"{len(absent)} weights have no data ({absent[0].name!r} is one): an ONNX file cannot run without them; "
            "build the network with random weights, or ask for references to weights that are supplied later"
        )
    result = Initializers(path.name + _DATA_SUFFIX)
    references = {weight.name: found for weight in weights if (found := _reference(weight, path, home, source))}
    own = [weight for weight in weights if weight.name not in references and weight not in absent]
    inline = sum(weight.nbytes for weight in own) <= INLINE_LIMIT
    offsets = {True: 0, False: 0}
    for weight in weights:
        if weight.name in references:
            result.tensors.append(_external(weight, *references[weight.name]))
            continue
        here = not isinstance(weight.data, Absent)
        if here and (inline or weight.nbytes < _ALIGNMENT):
            result.tensors.append(tensor_proto(weight.name, weight.shape, weight.dtype, raw_bytes(weight.load())))
            continue
        offset = offsets[here] + -offsets[here] % _ALIGNMENT
        offsets[here] = offset + weight.nbytes
        location = path.name + (_DATA_SUFFIX if here else _ABSENT_SUFFIX)
        result.tensors.append(_external(weight, location, offset))
        if here:
            result.stored.append(weight)
    return result


def _reference(weight: Weight, path: Path, home: Path, source: Path | None) -> tuple[str, int] | None:
    """(location, offset) of a weight that can stay where it is; None if its bytes must be written."""
    data = weight.data
    if not isinstance(data, FileData):
        return None
    file = data.path.absolute()
    replaced = {(home / path.name).absolute(), (home / (path.name + _DATA_SUFFIX)).absolute()}
    if file.is_relative_to(home.absolute()) and file not in replaced and file.suffix != ".onnx":
        return file.relative_to(home.absolute()).as_posix(), data.offset
    if file.is_file():
        return None
    # Missing: it works once the file lies beside this model the way it was to lie beside the first.
    if source is not None and file.is_relative_to(source.absolute()):
        return file.relative_to(source.absolute()).as_posix(), data.offset
    return file.name, data.offset


def _external(weight: Weight, location: str, offset: int) -> TensorProto:
    tensor = TensorProto(name=weight.name, data_type=onnx_dtype(weight.dtype), data_location=TensorProto.EXTERNAL)
    tensor.dims.extend(weight.shape)
    for key, value in (("location", location), ("offset", offset), ("length", weight.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
