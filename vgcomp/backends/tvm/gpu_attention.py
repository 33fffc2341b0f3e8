"""Attention for GPUs, written with its threads: a tile of queries meets the keys a tile at a time (online softmax).

Scores exist in shared memory only, one tile of them. Sixteen threads share a row of the tile; each keeps its part of
the weighted values in registers, which are rescaled whenever the row's maximum grows.
"""

from __future__ import annotations

import math
from typing import Any

from vgcomp.backends.tvm.attention import Attention
from vgcomp.backends.tvm.contraction import unravelled
from vgcomp.backends.tvm.gpu_gemm import bounds, sync
from vgcomp.backends.tvm.kernel import Device, Kernel, Store
from vgcomp.backends.tvm.registry import DTYPES, Element, Operand, opmath
from vgcomp.errors import ModelError

#: Threads along a row.
_ACROSS = 16
#: Bytes of shared memory that a block may use, with some to spare.
_SHARED: dict[Device, int] = {"cuda": 47 << 10, "metal": 31 << 10}
#: Tiles to choose from, queries x keys, best first.
_TILES = ((64, 64), (32, 64), (32, 32), (16, 32), (16, 16), (8, 16), (4, 16))


def attend(kernel: Kernel, problem: Attention) -> tuple[Operand, Operand, Operand]:
    """Weighted values, each row's greatest score and its sum of exponentials, as the kernel stores them."""
    writer = _Attention(kernel, problem)
    kernel.body, kernel.family = writer.write, "bound"
    rows, wide = (*problem.batch, problem.queries), opmath(problem.dtype)
    return (
        Operand((*rows, problem.width), wide, lambda *_: writer.made),
        Operand(rows, wide, lambda *_: writer.top),
        Operand(rows, wide, lambda *_: writer.total),
    )


class _Attention:
    """The kernel under construction; ``made``, ``top``, ``total``: of the element that is being stored."""

    made: Any = None
    top: Any = None
    total: Any = None

    def __init__(self, kernel: Kernel, problem: Attention) -> None:
        self.problem = problem
        self.dtype, self.wide = DTYPES[problem.dtype], DTYPES[opmath(problem.dtype)]
        # Rows of an odd number of words keep threads off each other's banks.
        pad = max(4 // problem.dtype.itemsize, 1)
        self.deep = problem.depth + pad
        self.columns = -(-problem.width // _ACROSS)
        self.broad = self.columns * _ACROSS + pad
        self.extra = kernel.out_shape[-1] - problem.width
        self.queries, self.keys = self._tile(kernel.device)
        self.down = min(self.queries, 16)
        self.each, self.every = self.queries // self.down, self.keys // _ACROSS

    def _tile(self, device: Device) -> tuple[int, int]:
        problem = self.problem
        narrow, wide = problem.dtype.itemsize, opmath(problem.dtype).itemsize

        def size(rows: int, keys: int) -> int:
            tiles = rows * self.deep + keys * max(self.deep, self.broad)
            return tiles * narrow + rows * (keys + 1 + _ACROSS) * wide

        fitting = [tile for tile in _TILES if size(*tile) <= _SHARED[device]]
        if not fitting:
            raise ModelError(
                f"attention over {problem.depth} channels a head does not fit the shared memory of a GPU's block: "
                "use more heads, or another --emit"
            )
        # No larger than what there is of queries and keys.
        good = [(q, k) for q, k in fitting if q < 2 * problem.queries and k < 2 * max(problem.keys, _ACROSS)]
        return good[0] if good else fitting[-1]

    def write(self, store: Store) -> None:
        """The whole kernel."""
        from tvm.script.ir_builder import tirx as T

        problem = self.problem
        tiles = -(-problem.queries // self.queries)
        with (
            T.launch_thread("blockIdx.x", math.prod(problem.batch) * tiles) as block,
            T.launch_thread("threadIdx.x", self.down * _ACROSS) as thread,
        ):
            self.batch = unravelled(block // tiles, problem.batch)
            self.first, self.thread = block % tiles * self.queries, thread
            self.across, self.row = thread % _ACROSS, thread // _ACROSS
            self._start()
            with T.serial(-(-problem.keys // self.keys)) as step:
                self._scores(step * self.keys)
                self._rescale()
                self._values(step * self.keys)
            self._finish(store)

    def _start(self) -> None:
        from tvm import tirx
        from tvm.script.ir_builder import tirx as T

        problem = self.problem
        self.q = T.alloc_buffer((self.queries, self.deep), self.dtype, scope="shared")
        self.kv = T.alloc_buffer((self.keys * max(self.deep, self.broad),), self.dtype, scope="shared")
        self.weights = T.alloc_buffer((self.queries, self.keys + 1), self.wide, scope="shared")
        self.parts = T.alloc_buffer((self.queries, _ACROSS), self.wide, scope="shared")
        local = {"scope": "local"}
        self.tops = T.alloc_buffer((self.each,), self.wide, **local)
        self.totals = T.alloc_buffer((self.each,), self.wide, **local)
        self.shrink = T.alloc_buffer((self.each,), self.wide, **local)
        self.points = T.alloc_buffer((self.each, self.every), self.wide, **local)
        self.sums = T.alloc_buffer((self.each, self.columns), self.wide, **local)
        zero, low = tirx.const(0, self.wide), tirx.const(-math.inf, self.wide)
        with T.unroll(self.each) as i:
            T.buffer_store(self.tops, low, [i])
            T.buffer_store(self.totals, zero, [i])
            with T.unroll(self.columns) as j:
                T.buffer_store(self.sums, zero, [i, j])

        def put(row: Any, d: Any, value: Any) -> None:
            T.buffer_store(self.q, value, [row, d])

        self._load((self.queries, problem.depth), (self.first, problem.queries, problem.depth), problem.query, put)

    def _load(self, tile: tuple[int, int], place: tuple[Any, int, int], element: Element, put: Any) -> None:
        """All threads fill a tile of rows x channels; ``place``: its first row, and how many rows and channels are."""
        from tvm import tirx
        from tvm.script.ir_builder import tirx as T

        rows, channels = tile
        first, size, depth = place
        threads = self.down * _ACROSS
        with T.serial(-(-rows * channels // threads)) as i:
            at = i * threads + self.thread
            row, d = at // channels, at % channels
            value = element(*self.batch, first + row, d).astype(self.dtype)
            checks = bounds((first + row, size, rows), (d, depth, channels))
            if checks is not None:
                value = tirx.if_then_else(checks, value, tirx.const(0, self.dtype))
            if rows * channels % threads == 0:
                put(row, d, value)
                return
            with T.If(at < rows * channels), T.Then():
                put(row, d, value)

    def _scores(self, start: Any) -> None:
        """This thread's scores of a tile of keys, and the greatest one of each of its rows."""
        from tvm import tirx
        from tvm.script.ir_builder import tirx as T

        problem = self.problem
        sync()

        def put(row: Any, d: Any, value: Any) -> None:
            T.buffer_store(self.kv, value, [row * self.deep + d])

        self._load((self.keys, problem.depth), (start, problem.keys, problem.depth), problem.key, put)
        sync()
        with T.unroll(self.each) as i, T.unroll(self.every) as j:
            T.buffer_store(self.points, tirx.const(0, self.wide), [i, j])
        with T.serial(problem.depth) as d, T.unroll(self.each) as i, T.unroll(self.every) as j:
            left = self.q[self._row(i), d].astype(self.wide)
            right = self.kv[(self.across + j * _ACROSS) * self.deep + d].astype(self.wide)
            T.buffer_store(self.points, self.points[i, j] + left * right, [i, j])
        low = tirx.const(-math.inf, self.wide)
        with T.unroll(self.each) as i:
            T.buffer_store(self.shrink, low, [i])
            with T.unroll(self.every) as j:
                key = start + self.across + j * _ACROSS
                row, column = self.first + self._row(i), tirx.min(key, problem.keys - 1)
                score = problem.score(self.points[i, j], *self.batch, tirx.min(row, problem.queries - 1), column)
                checks = bounds((key, problem.keys, self.keys))
                T.buffer_store(self.points, score if checks is None else tirx.if_then_else(checks, score, low), [i, j])
                T.buffer_store(self.shrink, tirx.max(self.shrink[i], self.points[i, j]), [i])
            T.buffer_store(self.parts, self.shrink[i], [self._row(i), self.across])
        sync()

    def _rescale(self) -> None:
        """The rows' new maxima, the weights of this tile, and what was summed so far at the new scale."""
        from tvm import tirx
        from tvm.script.ir_builder import tirx as T

        low, zero = tirx.const(-math.inf, self.wide), tirx.const(0, self.wide)
        with T.unroll(self.each) as i:
            row = self._row(i)
            T.buffer_store(self.shrink, self.tops[i], [i])
            with T.unroll(_ACROSS) as x:
                T.buffer_store(self.tops, tirx.max(self.tops[i], self.parts[row, x]), [i])
            # Nothing seen yet of a row whose keys are all masked.
            factor = tirx.if_then_else(self.tops[i] == low, zero, tirx.exp(self.shrink[i] - self.tops[i]))
            T.buffer_store(self.shrink, factor, [i])
            T.buffer_store(self.totals, self.totals[i] * self.shrink[i], [i])
            with T.unroll(self.every) as j:
                score = self.points[i, j]
                T.buffer_store(
                    self.points, tirx.if_then_else(score == low, zero, tirx.exp(score - self.tops[i])), [i, j]
                )
                T.buffer_store(self.totals, self.totals[i] + self.points[i, j], [i])
                T.buffer_store(self.weights, self.points[i, j], [row, self.across + j * _ACROSS])
            with T.unroll(self.columns) as j:
                T.buffer_store(self.sums, self.sums[i, j] * self.shrink[i], [i, j])

    def _values(self, start: Any) -> None:
        """Adds the weighted values of a tile of keys."""
        from tvm.script.ir_builder import tirx as T

        problem = self.problem

        def put(row: Any, d: Any, value: Any) -> None:
            T.buffer_store(self.kv, value, [row * self.broad + d])

        width = self.columns * _ACROSS
        self._load((self.keys, width), (start, problem.keys, problem.width), problem.value, put)
        sync()
        with T.serial(self.keys) as k, T.unroll(self.each) as i, T.unroll(self.columns) as j:
            value = self.kv[k * self.broad + self.across + j * _ACROSS].astype(self.wide)
            T.buffer_store(self.sums, self.sums[i, j] + self.weights[self._row(i), k] * value, [i, j])

    def _finish(self, store: Store) -> None:
        """Adds up the threads' shares of the rows' sums, and stores."""
        from tvm import tirx
        from tvm.script.ir_builder import tirx as T

        problem = self.problem
        with T.unroll(self.each) as i:
            T.buffer_store(self.parts, self.totals[i], [self._row(i), self.across])
        sync()
        with T.unroll(self.each) as i:
            T.buffer_store(self.totals, tirx.const(0, self.wide), [i])
            with T.unroll(_ACROSS) as x:
                T.buffer_store(self.totals, self.totals[i] + self.parts[self._row(i), x], [i])
            self.top, self.total = self.tops[i], self.totals[i]
            row = self.first + self._row(i)
            with T.unroll(self.columns) as j:
                self.made = self.sums[i, j]
                column = self.across + j * _ACROSS
                self._put(store, row, column, (column, problem.width, self.columns * _ACROSS))
            for column in range(problem.width, problem.width + self.extra):
                self._put(store, row, column, (self.across, 1, _ACROSS))

    def _put(self, store: Store, row: Any, column: Any, check: tuple[Any, int, int]) -> None:
        from tvm.script.ir_builder import tirx as T

        problem = self.problem
        inside = bounds((row, problem.queries, self.queries), check)
        if inside is None:
            store([*self.batch, row, column])
            return
        with T.If(inside), T.Then():
            store([*self.batch, row, column])

    def _row(self, i: Any) -> Any:
        """Place in the tile of this thread's i-th row."""
        return self.row + i * self.down
