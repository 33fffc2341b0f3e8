"""Computes an ML Program on any machine, op by op, from the package's own bytes.

Core ML runs on Apple's devices only. Here each op is computed by its documented meaning, in fp32, and its result is
rounded to the element type that the program declares for it, so fp16 overflows and loses digits where it would there.
What a device does inside an op is its own: it may accumulate in fp16, or fuse.

    reference = Reference(read_package(path))
    outputs = reference.run({"sample": tensor})

Nothing here is shared with the emitter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vgcomp.backends.coreml.package import Name, Operation, Package, ValueType, names_in
from vgcomp.backends.coreml.reference_ops import OPS
from vgcomp.errors import InternalError, ModelError, UsageError

_TORCH = {
    "FLOAT16": torch.float16,
    "FLOAT32": torch.float32,
    "INT32": torch.int32,
    "BOOL": torch.bool,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
}


class Reference:
    """A package as a function of tensors by name."""

    def __init__(self, package: Package) -> None:
        unknown = sorted({op.type for op in package.operations if op.type != "const" and op.type not in OPS})
        if unknown:
            raise ModelError(f"{package.path}: the reference has no op {unknown[0]!r}; run it on an Apple device")
        self.package = package
        self._uses = Counter(name for op in package.operations for x in op.inputs.values() for name in names_in(x))
        self._uses.update(package.outputs)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs by name. Raises UsageError for inputs of another name, shape or element type."""
        values: dict[str, Any] = {}
        for name, kind in self.package.inputs.items():
            values[name] = _checked(name, kind, inputs.get(name))
        left = Counter(self._uses)
        with torch.no_grad():
            for op in self.package.operations:
                values.update(_results(op, values))
                for argument in op.inputs.values():
                    _drop(argument, values, left)
        return {name: values[name] for name in self.package.outputs}


def _results(op: Operation, values: Mapping[str, Any]) -> dict[str, Any]:
    if op.type == "const":
        return {op.outputs[0][0]: op.value}
    arguments = {name: _wide(_bound(argument, values)) for name, argument in op.inputs.items()}
    found = OPS[op.type](**arguments)
    ((name, kind),) = op.outputs
    if tuple(found.shape) != kind.shape:
        raise InternalError(f"{op.type} {name!r} gives {tuple(found.shape)}, the program says {kind.shape}")
    return {name: found.to(_TORCH[kind.kind])}


def _bound(argument: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(argument, list):
        return [_bound(item, values) for item in argument]
    return values[argument.name] if isinstance(argument, Name) else argument


def _wide(value: Any) -> Any:
    """fp16 as fp32: the same numbers, computed with more digits."""
    if isinstance(value, list):
        return [_wide(item) for item in value]
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.float16 else value


def _drop(argument: Any, values: dict[str, Any], left: Counter[str]) -> None:
    for name in names_in(argument):
        left[name] -= 1
        if not left[name]:
            values.pop(name, None)


def _checked(name: str, kind: ValueType, value: Tensor | None) -> Tensor:
    if value is None:
        raise UsageError(f"input {name!r} is missing")
    dtype = _TORCH[kind.kind]
    if tuple(value.shape) != kind.shape or value.dtype != dtype:
        raise UsageError(
            f"input {name!r} must be {str(dtype).removeprefix('torch.')} of shape {kind.shape}, "
            f"not {str(value.dtype).removeprefix('torch.')} of {tuple(value.shape)}"
        )
    return value
