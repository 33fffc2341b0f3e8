"""Contractions, said once for every device: a sum over ``k`` of ``left(rows, k) * right(columns, k)``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from vgcomp.backends.tvm.kernel import Kernel
from vgcomp.backends.tvm.registry import DTYPES, Element, Operand, opmath

#: Below these a tile of threads would be mostly idle.
_LEAST_SIDE, _LEAST_DEPTH = 4, 8


@dataclass(frozen=True)
class Contraction:
    """``left`` and ``right`` take an index of the result and one of ``over``, and give elements of ``dtype``.

    ``batch``, ``rows`` and ``columns`` share out the result's dimensions: ``left`` reads none of the columns,
    ``right`` none of the rows. ``left_along``: whether neighbours in ``over`` or in the rows lie side by side.
    """

    shape: tuple[int, ...]
    over: tuple[int, ...]
    batch: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    left: Element
    right: Element
    dtype: torch.dtype
    left_along: Literal["over", "side"] = "over"
    right_along: Literal["over", "side"] = "over"

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Batches, rows, columns, depth."""
        b, m, n = (math.prod(self.shape[d] for d in dims) for dims in (self.batch, self.rows, self.columns))
        return b, m, n, math.prod(self.over)

    def turned(self) -> Contraction:
        """The same with rows for columns."""
        return Contraction(
            self.shape,
            self.over,
            self.batch,
            self.columns,
            self.rows,
            self.right,
            self.left,
            self.dtype,
            self.right_along,
            self.left_along,
        )


def contract(kernel: Kernel, problem: Contraction) -> Operand:
    """The sums, accumulated as torch does; on a device with threads the kernel is written in tiles of them."""
    wide = DTYPES[opmath(problem.dtype)]
    _, rows, columns, depth = problem.sizes
    if kernel.device != "cpu" and min(rows, columns) >= _LEAST_SIDE and depth >= _LEAST_DEPTH:
        from vgcomp.backends.tvm.gpu_gemm import gemm

        return gemm(kernel, problem)
    if kernel.device == "cpu" and min(rows, columns) >= _LEAST_SIDE and depth >= _LEAST_DEPTH:
        from vgcomp.backends.tvm import cpu_gemm

        found = cpu_gemm.gemm(kernel, problem)
        if found is not None:
            return found

    def term(*index: Any) -> Any:
        return problem.left(*index).astype(wide) * problem.right(*index).astype(wide)

    return kernel.reduce("sum", problem.shape, problem.over, opmath(problem.dtype), term)


def unravelled(position: Any, extents: Sequence[int]) -> list[Any]:
    """The index in a row-major tensor of these extents."""
    found: list[Any] = []
    for size in reversed(extents):
        found.insert(0, 0 if size == 1 else position if len(found) + 1 == len(extents) else position % size)
        position = position // size if size > 1 else position
    return found
