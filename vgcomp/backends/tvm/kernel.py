"""One op as one TIR function: stages of loops that end in a store to where the result lies.

The function's arguments are the storages of its operands, the storage of its result and the positions of slices, so
reading a slice or writing one costs no copy. A function depends on shapes and layouts alone: equal calls share it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from vgcomp.backends.tvm.layout import Access
from vgcomp.backends.tvm.registry import DTYPES, EMITTERS, Call, Element, Operand
from vgcomp.errors import InternalError

#: Schedules by what they know of a kernel: its loops alone, blocks of a product or of attention, threads already bound.
Family = Literal["loops", "gemm", "attention", "bound"]
#: Where a reduction is computed: with each tile of the result, with each row of it, or whole before it.
At = Literal["tile", "row", "whole"]
#: What kernels are written for; those for CUDA and Metal differ in what the language has.
Device = Literal["cpu", "cuda", "metal"]
#: Stores the element at an index of the result.
Store = Callable[[Sequence[Any]], None]


@dataclass(frozen=True)
class Tensor:
    """An operand's or the result's side of a kernel."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    access: Access
    #: Which of the kernel's scalars each of the view's moves is.
    scalars: tuple[int, ...]


@dataclass(frozen=True)
class Spec:
    """All that a kernel depends on. ``args`` have a ``Slot`` for each tensor; ``order``: dims, outermost first."""

    target: Any
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    operands: tuple[Tensor, ...]
    out: Tensor
    order: tuple[int, ...]
    scalars: int


class Slot(int):
    """An operand's number among literal arguments."""

    def __hash__(self) -> int:
        return hash(("slot", int(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slot) and int(self) == int(other)


class Kernel:
    """The function under construction."""

    def __init__(self, spec: Spec, device: Device = "cpu") -> None:
        self.out_shape, self.out_dtype = spec.out.shape, spec.out.dtype
        #: The dimension whose elements lie side by side in the result.
        self.innermost = spec.order[-1] if spec.order else 0
        self.row: tuple[int, ...] = ()
        self.device = device
        #: The result's dimensions, outermost in memory first, and the elements between neighbours along each.
        self.order = spec.order
        self.out_strides = tuple(spec.out.access.stride(d) for d in range(len(spec.out.shape)))
        #: Whose schedule the kernel takes.
        self.family: Family = "loops"
        #: A kernel that writes its own loops; it calls the store for each element of the result.
        self.body: Callable[[Store], None] | None = None
        self._spec = spec
        self._count = 0
        self.where: dict[str, At] = {}

    def reduce(
        self,
        kind: Literal["sum", "max", "min"],
        shape: Sequence[int],
        over: Sequence[int],
        dtype: torch.dtype,
        term: Element,
        *,
        at: At = "tile",
    ) -> Operand:
        """Reduces ``term(*index, *reduced)`` over ``over`` (extents): a tensor of ``shape``."""
        from tvm import tirx

        name = DTYPES[dtype]
        start = {
            "sum": tirx.const(0, name),
            "max": tirx.min_value(name),
            "min": tirx.max_value(name),
        }[kind]
        join: Any = {"sum": lambda a, b: a + b, "max": tirx.max, "min": tirx.min}[kind]
        return self._stage(shape, over, dtype, term, at, (start, join))

    def stage(self, shape: Sequence[int], dtype: torch.dtype, element: Element, *, at: At = "tile") -> Operand:
        """A tensor that is worth computing once: it is read more often than it has elements."""
        return self._stage(shape, (), dtype, element, at, None)

    def _stage(
        self, shape: Sequence[int], over: Sequence[int], dtype: torch.dtype, term: Element, at: At, combine: Any
    ) -> Operand:
        from tvm.script.ir_builder import tirx as T

        shape = tuple(shape) or (1,)
        name = f"stage_{self._count}"
        self._count += 1
        self.where[name] = at
        buffer = T.sblock_alloc_buffer(shape, DTYPES[dtype])
        with T.grid(*shape, *over) as loops, T.sblock(name):
            loops = list(loops) if isinstance(loops, (list, tuple)) or len(shape) + len(over) > 1 else [loops]
            index = [T.axis.spatial(n, v) for n, v in zip(shape, loops, strict=False)]
            reduced = [T.axis.reduce(n, v) for n, v in zip(over, loops[len(shape) :], strict=True)]
            if combine is None:
                T.buffer_store(buffer, term(*index), index)
            else:
                with T.init():
                    T.buffer_store(buffer, combine[0], index)
                T.buffer_store(buffer, combine[1](buffer[tuple(index)], term(*index, *reduced)), index)
        return Operand(shape, dtype, lambda *at: buffer[tuple(at)])


@dataclass(frozen=True)
class Built:
    """A kernel's function, unscheduled, and what a default schedule wants to know."""

    function: Any
    where: dict[str, At]
    #: How many of the innermost loops of the result are a row.
    row: int
    family: Family = "loops"


def build_kernel(spec: Spec, name: str, device: Device = "cpu") -> Built:
    """The TIR function of a spec."""
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    emitter = EMITTERS.get(spec.target)
    if emitter is None:
        raise InternalError(f"no TVM emitter for {spec.target}")
    kernel = Kernel(spec, device)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            buffers = [T.arg(f"x{i}", _buffer(operand)) for i, operand in enumerate(spec.operands)]
            out = T.arg("out", _buffer(spec.out))
            scalars = [T.arg(f"at{i}", T.int64()) for i in range(spec.scalars)]
            operands = [
                Operand(operand.shape, operand.dtype, _reader(buffer, operand, scalars), _innermost(operand))
                for operand, buffer in zip(spec.operands, buffers, strict=True)
            ]
            call = Call(kernel, spec.target, _filled(spec.args, operands), dict(_filled(spec.kwargs, operands)))
            element = emitter(call)
            if kernel.body is None:
                _store(spec, kernel, out, scalars, element)
            else:
                kernel.body(lambda index: _put(spec, out, scalars, element, index))
        function = builder.get()
    # TVM takes the attribute of any kernel for the whole module, and sums stay in registers only with it. A kernel that
    # runs in place reads an element before it stores the same one; a product's result never lies over its operands.
    return Built(function.with_attr("tirx.noalias", True), kernel.where, len(kernel.row), kernel.family)


def _buffer(tensor: Tensor) -> Any:
    """A tensor that may start anywhere in the arena. Weights come from a file, where nothing aligns them to more."""
    from tvm.script.ir_builder import tirx as T

    return T.buffer(tensor.access.shape, DTYPES[tensor.dtype], offset_factor=1, align=tensor.dtype.itemsize)


def _store(spec: Spec, kernel: Kernel, out: Any, scalars: Sequence[Any], element: Element) -> None:
    """The last stage: every element of the result, in the order in which they lie in memory, rows innermost."""
    from tvm.script.ir_builder import tirx as T

    shape = spec.out.shape
    order = [d for d in spec.order if d not in kernel.row] + [d for d in spec.order if d in kernel.row]
    extents = [shape[d] for d in order] or [1]
    with T.grid(*extents) as loops, T.sblock("result"):
        loops = list(loops) if len(extents) > 1 else [loops]
        found = [T.axis.spatial(n, v) for n, v in zip(extents, loops, strict=True)]
        index: list[Any] = [0] * len(shape)
        for d, v in zip(order, found, strict=False):
            index[d] = v
        _put(spec, out, scalars, element, index)


def _put(spec: Spec, out: Any, scalars: Sequence[Any], element: Element, index: Sequence[Any]) -> None:
    from tvm.script.ir_builder import tirx as T

    value = element(*index)
    T.buffer_store(out, value.astype(DTYPES[spec.out.dtype]), _coordinates(spec.out, index, scalars))


def _innermost(tensor: Tensor) -> int:
    """The dimension whose elements lie side by side; the last one where none does."""
    unit = [d for d, factor in tensor.access.coordinates[-1].dims if factor == 1]
    return unit[-1] if unit else len(tensor.shape) - 1


def _reader(buffer: Any, tensor: Tensor, scalars: Sequence[Any]) -> Element:
    return lambda *index: buffer[tuple(_coordinates(tensor, index, scalars))]


def _coordinates(tensor: Tensor, index: Sequence[Any], scalars: Sequence[Any]) -> list[Any]:
    found = []
    for coordinate in tensor.access.coordinates:
        total: Any = coordinate.constant
        for d, factor in coordinate.dims:
            total = total + index[d] * factor
        for m, factor in coordinate.moves:
            total = total + scalars[tensor.scalars[m]].astype("int32") * factor
        found.append(total)
    return found


def _filled(value: Any, operands: Sequence[Operand]) -> Any:
    if isinstance(value, Slot):
        return operands[int(value)]
    if isinstance(value, tuple):
        return [_filled(entry, operands) for entry in value]
    return value
