"""Matrix products and convolutions for CPUs: blocks that a schedule tiles for registers and caches.

Given (``over`` is summed; ``v`` runs along the result's innermost elements, ``r`` along the other side)::

    panel[o, k, v] = right(v, k)                    # neighbours in v side by side, whatever the layout was
    stripe[o, r, k] = left(r, k)
    sums[o, r, v] += stripe[o, r, k] * panel[o, k, v]
    result[...] = element(sums)

Results (:mod:`vgcomp.backends.tvm.schedule_gemm`)::

    for o, v_tile in parallel:
        for k_chunk:
            panel of k_chunk                        # stays in the second-level cache
            for r_tile:
                sums[r_tile, v_tile] += ...         # in registers
        store the tile

Windows of a convolution exist in panels only, so that padding, strides and half precision cost nothing in the innermost
loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vgcomp.backends.tvm.contraction import Contraction, unravelled
from vgcomp.backends.tvm.kernel import Kernel, Store
from vgcomp.backends.tvm.registry import DTYPES, Operand, opmath

#: Elements of a vector register, of 512 bits; narrower machines take two.
LANES = 16
#: Vectors of sums: more would not fit the registers, nor 1 KiB, above which TVM takes a tile for an array in memory.
MOST_SUMS = 15


def gemm(kernel: Kernel, problem: Contraction) -> Operand | None:
    """The sums of ``problem``, read once, at the index that the kernel stores; None where tiles do not fit it."""
    if kernel.innermost in problem.rows:
        problem = problem.turned()
    along = _along(kernel, problem)
    if not along:
        return None
    writer = _Blocks(kernel, problem, along)
    kernel.body, kernel.family = writer.write, "gemm"
    return Operand(problem.shape, opmath(problem.dtype), lambda *_: writer.value)


def _along(kernel: Kernel, problem: Contraction) -> tuple[int, ...]:
    """The result's innermost dimensions that lie in memory as one and are columns all."""
    found: list[int] = []
    step = 1
    for d in reversed(kernel.order):
        if problem.shape[d] == 1:
            continue
        if d not in problem.columns or kernel.out_strides[d] != step:
            break
        found.insert(0, d)
        step *= problem.shape[d]
    return tuple(found)


def padded(size: int, least: int) -> int:
    """The next multiple of ``least``."""
    return -(-size // least) * least


class _Blocks:
    """The kernel under construction."""

    def __init__(self, kernel: Kernel, problem: Contraction, along: tuple[int, ...]) -> None:
        self.problem, self.along = problem, along
        outer = {d for d in (*problem.batch, *problem.columns) if d not in along and problem.shape[d] > 1}
        self.outer = [d for d in kernel.order if d in outer]
        self.rows = math.prod(problem.shape[d] for d in problem.rows)
        self.columns = math.prod(problem.shape[d] for d in along)
        self.wide = DTYPES[opmath(problem.dtype)]
        tile = register_tiles(self.rows, padded(self.columns, LANES) // LANES)[0]
        self.padded_rows = padded(self.rows, tile[0])
        #: The element of the result that is being stored.
        self.value: Any = None

    def write(self, store: Store) -> None:
        """The four blocks."""
        from tvm.script.ir_builder import tirx as T

        outer = [self.problem.shape[d] for d in self.outer]
        over = list(self.problem.over)
        rows, columns = self.padded_rows, padded(self.columns, LANES)
        panel = T.sblock_alloc_buffer((*outer, *over, columns), self.wide)
        stripe = T.sblock_alloc_buffer((*outer, rows, *over), self.wide)
        sums = T.sblock_alloc_buffer((*outer, rows, columns), self.wide)
        n = len(outer)
        with block("panel", (*outer, *over, columns)) as i:
            T.buffer_store(panel, self._right(i[:n], i[n:-1], i[-1]), i)
        with block("stripe", (*outer, rows, *over)) as i:
            T.buffer_store(stripe, self._left(i[:n], i[n], i[n + 1 :]), i)
        with block("sums", (*outer, rows, columns), over) as i:
            o, r, v, k = i[:n], i[n], i[n + 1], i[n + 2 :]
            with T.init():
                T.buffer_store(sums, _zero(self.wide), [*o, r, v])
            product = stripe[(*o, r, *k)] * panel[(*o, *k, v)]
            T.buffer_store(sums, sums[(*o, r, v)] + product, [*o, r, v])
        with block("result", (*outer, rows, columns), inside=(self.rows, self.columns)) as i:
            self.value = sums[tuple(i)]
            store(self._index(i[:n], i[n], i[n + 1]))

    def _index(self, outer: Sequence[Any], row: Any, column: Any) -> list[Any]:
        """The result's index."""
        problem = self.problem
        index: list[Any] = [0] * len(problem.shape)
        for d, i in zip(self.outer, outer, strict=True):
            index[d] = i
        for dims, position in ((problem.rows, row), (self.along, column)):
            for d, i in zip(dims, unravelled(position, [problem.shape[d] for d in dims]), strict=True):
                index[d] = i
        return index

    def _right(self, outer: Sequence[Any], over: Sequence[Any], column: Any) -> Any:
        from tvm import tirx

        value = self.problem.right(*self._index(outer, 0, column), *over).astype(self.wide)
        if self.columns % LANES == 0:
            return value
        return tirx.if_then_else(column < self.columns, value, _zero(self.wide))

    def _left(self, outer: Sequence[Any], row: Any, over: Sequence[Any]) -> Any:
        from tvm import tirx

        if self.padded_rows > self.rows:
            row = tirx.min(row, self.rows - 1)
        return self.problem.left(*self._index(outer, row, 0), *over).astype(self.wide)


def register_tiles(rows: int, vectors: int) -> list[tuple[int, int]]:
    """Tiles of (rows, vectors) that ``vectors`` is a multiple of, the best first: little waste, and many sums to each
    element read.
    """
    tiles = [(r, v) for v in range(1, MOST_SUMS + 1) if vectors % v == 0 for r in range(1, MOST_SUMS // v + 1)]
    return sorted(tiles, key=lambda tile: padded(rows, tile[0]) * (1 + (tile[0] + tile[1]) / (tile[0] * tile[1])))


class block:
    """A grid of loops and a block in it; gives the block's indices, spatial ones first."""

    def __init__(
        self, name: str, shape: Sequence[int], over: Sequence[int] = (), inside: tuple[int, int] | None = None
    ) -> None:
        self.name, self.shape, self.over, self.inside = name, list(shape), list(over), inside

    def __enter__(self) -> list[Any]:
        from tvm import tirx
        from tvm.script.ir_builder import tirx as T

        self._grid = T.grid(*self.shape, *self.over)
        loops = self._grid.__enter__()
        loops = list(loops) if len(self.shape) + len(self.over) > 1 else [loops]
        self._block = T.sblock(self.name)
        self._block.__enter__()
        found = [T.axis.spatial(n, v) for n, v in zip(self.shape, loops, strict=False)]
        found += [T.axis.reduce(n, v) for n, v in zip(self.over, loops[len(self.shape) :], strict=True)]
        if self.inside is not None:
            ends = zip(loops[-2:], self.inside, self.shape[-2:], strict=True)
            checks = [loop < end for loop, end, size in ends if end != size]
            if checks:
                T.where(tirx.all(*checks) if len(checks) > 1 else checks[0])
        return found

    def __exit__(self, *error: Any) -> None:
        self._block.__exit__(*error)
        self._grid.__exit__(*error)


def _zero(dtype: str) -> Any:
    from tvm import tirx

    return tirx.const(0, dtype)
