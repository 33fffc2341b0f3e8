"""The table of emitters: one function an op of the dialect, filled by the ``emit_*`` modules.

An emitter says what element ``i`` of its op's result is, as a function of the index, having added the reductions that
it reads. Everything else (layouts, slices, where the result goes) is the kernel's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from vgcomp import ops as _ops  # noqa: F401  (registers the vgcomp:: namespace)
from vgcomp.backends.arguments import bind

if TYPE_CHECKING:
    from vgcomp.backends.tvm.kernel import Kernel

#: The result's element at an index.
Element = Callable[..., Any]
Emitter = Callable[["Call"], Element]

EMITTERS: dict[Any, Emitter] = {}

aten = torch.ops.aten

DTYPES: dict[torch.dtype, str] = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.int8: "int8",
    torch.int16: "int16",
    torch.int32: "int32",
    torch.int64: "int64",
    torch.uint8: "uint8",
    torch.bool: "bool",
}


def emits(*targets: Any) -> Callable[[Emitter], Emitter]:
    """Registers an emitter for some ops."""

    def register(emitter: Emitter) -> Emitter:
        for target in targets:
            EMITTERS[target] = emitter
        return emitter

    return register


class Operand:
    """A tensor argument; called with an index it gives the element, in the tensor's own dtype."""

    def __init__(
        self, shape: Sequence[int], dtype: torch.dtype, element: Element, innermost: int | None = None
    ) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        #: The dimension whose elements lie side by side in memory.
        self.innermost = len(self.shape) - 1 if innermost is None else innermost
        self._element = element

    @property
    def rank(self) -> int:
        return len(self.shape)

    def __call__(self, *index: Any) -> Any:
        assert len(index) == self.rank
        return self._element(*index)

    def wide(self, *index: Any) -> Any:
        """The element in the dtype that torch computes in: fp32 for the 16-bit floats."""
        value = self(*index)
        return value.astype(DTYPES[opmath(self.dtype)])

    def aligned(self, index: Sequence[Any]) -> Any:
        """The element for an index of the result that this operand is broadcast to."""
        own = index[len(index) - self.rank :]
        return self(*(0 if size == 1 else i for size, i in zip(self.shape, own, strict=True)))


def opmath(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which torch accumulates and evaluates."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


class Call:
    """A call of an op with its arguments by the schema's names, defaults filled in; tensors are Operands."""

    def __init__(self, kernel: Kernel, target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        self.kernel = kernel
        self.target = target
        self.shape = kernel.out_shape
        self.dtype = kernel.out_dtype
        self._arguments = bind(target, args, kwargs)

    @property
    def wide(self) -> torch.dtype:
        """The dtype to compute the result in."""
        return opmath(self.dtype)

    def __getitem__(self, name: str) -> Any:
        return self._arguments[name]

    def value(self, name: str) -> Operand:
        """A tensor argument."""
        found = self._arguments[name]
        assert isinstance(found, Operand), f"{self.target}: argument {name!r} is {found!r}, not a tensor"
        return found

    def optional(self, name: str) -> Operand | None:
        """A tensor argument that may be None."""
        return self.value(name) if self._arguments[name] is not None else None

    def scalar(self, value: float, dtype: torch.dtype | None = None) -> Any:
        """A constant, in the dtype to compute in if no other is given."""
        from tvm import tirx

        dtype = dtype or self.wide
        number = bool(value) if dtype == torch.bool else float(value) if dtype.is_floating_point else int(value)
        return tirx.const(number, DTYPES[dtype])

    def element(self, name: str, index: Sequence[Any], dtype: torch.dtype) -> Any:
        """A tensor's (broadcast) element or a Python number, as ``dtype``."""
        found = self._arguments[name]
        if isinstance(found, Operand):
            return cast(found.aligned(index), found.dtype, dtype)
        return self.scalar(found, dtype)

    def total(self, shape: Sequence[int], over: Sequence[int], term: Element, **options: Any) -> Operand:
        """``sum(term(*index, *reduced))`` in the wide dtype; see ``Kernel.reduce``."""
        dtype = options.pop("dtype", self.wide)
        return self.kernel.reduce("sum", shape, over, dtype, term, **options)


def cast(value: Any, source: torch.dtype, to: torch.dtype) -> Any:
    """``value`` converted as torch does."""
    if source == to:
        return value
    if to == torch.bool:
        from tvm import tirx

        return value != tirx.const(0, DTYPES[source])
    return value.astype(DTYPES[to])
