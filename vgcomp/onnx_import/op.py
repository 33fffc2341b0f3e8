"""One ONNX node under import, as its emitter sees it: operands as values, attributes typed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch

from vgcomp.errors import ModelError
from vgcomp.onnx_import.builder import Builder
from vgcomp.onnx_import.tensors import from_onnx
from vgcomp.onnx_import.values import Constant, Live, Value

#: Turns one ONNX node into graph nodes; gives one value an output.
Emitter = Callable[["Op"], Value | Sequence[Value]]


@dataclass(frozen=True)
class Op:
    """A node, its operands (None where left out), the file's opset and the builder to emit into.

    ``attr_*`` give an attribute by its ONNX name, or the default (None where there is none) if the node has it not.
    """

    node: ir.Node
    operands: tuple[Value | None, ...]
    opset: int
    b: Builder

    # -- operands -------------------------------------------------------------------------------

    def has(self, index: int) -> bool:
        """True where operand ``index`` is given."""
        return index < len(self.operands) and self.operands[index] is not None

    def get(self, index: int) -> Value | None:
        """Operand ``index`` or None where it was left out."""
        return self.operands[index] if index < len(self.operands) else None

    def __getitem__(self, index: int) -> Value:
        value = self.get(index)
        if value is None:
            raise ModelError(f"its input {index} is missing")
        return value

    @property
    def values(self) -> list[Value]:
        """The operands that are there."""
        return [v for v in self.operands if v is not None]

    def known(self, index: int) -> torch.Tensor:
        """Operand ``index`` as numbers. ModelError when it depends on the network's inputs."""
        value = self[index]
        if isinstance(value, Constant):
            return value.tensor
        if isinstance(value, Live):
            found = self.b.peek(value)
            if found is None:
                raise ModelError(f"its input {index} must be constant, but it depends on the network's inputs")
            return found
        return value.load()

    def ints(self, index: int) -> list[int]:
        """Operand ``index`` as a flat list of integers."""
        return [int(i) for i in self.known(index).reshape(-1).tolist()]

    def scalar(self, index: int) -> float | int | bool:
        """Operand ``index``, of one element."""
        number: float | int | bool = self.known(index).reshape(-1)[0].item()
        return number

    # -- attributes -----------------------------------------------------------------------------

    def _attr(self, name: str) -> object | None:
        found = self.node.attributes.get(name)
        return None if found is None else found.value

    def has_attr(self, name: str) -> bool:
        return name in self.node.attributes

    def attr_int(self, name: str, default: int = 0) -> int:
        value = self._attr(name)
        return default if value is None else int(value)  # type: ignore[call-overload, no-any-return]

    def attr_float(self, name: str, default: float = 0.0) -> float:
        value = self._attr(name)
        return default if value is None else float(value)  # type: ignore[arg-type]

    def attr_str(self, name: str, default: str = "") -> str:
        value = self._attr(name)
        if value is None:
            return default
        return value.decode() if isinstance(value, bytes) else str(value)

    def attr_ints(self, name: str) -> list[int] | None:
        value = self._attr(name)
        return None if value is None else [int(v) for v in value]  # type: ignore[attr-defined]

    def attr_floats(self, name: str) -> list[float] | None:
        value = self._attr(name)
        return None if value is None else [float(v) for v in value]  # type: ignore[attr-defined]

    def attr_tensor(self, name: str) -> torch.Tensor | None:
        value = self._attr(name)
        if not isinstance(value, ir.TensorProtocol):
            return None
        return from_onnx(value, value.name or name)

    # -- shapes ---------------------------------------------------------------------------------

    def dim(self, value: int, rank: int) -> int:
        """A dim counted from the front. ModelError when it is out of range."""
        if not -rank <= value < max(rank, 1):
            raise ModelError(f"its axis {value} is out of range for rank {rank}")
        return value % rank if rank else 0


class Table:
    """Emitters by operator; a family of operators fills one."""

    def __init__(self) -> None:
        self.emitters: dict[str, Emitter] = {}

    def __call__(self, *names: str) -> Callable[[Emitter], Emitter]:
        def add(emitter: Emitter) -> Emitter:
            for name in names:
                self.emitters[name] = emitter
            return emitter

        return add
