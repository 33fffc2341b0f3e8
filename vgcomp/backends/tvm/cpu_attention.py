"""Attention for CPUs: blocks that a schedule tiles, a few rows of queries at a time.

Given (``o``: batches and heads, ``r``: queries, ``j``: keys)::

    keys[o, d, j], values[o, j, w]                  # copied, so that neighbours in j and in w lie side by side
    scores[o, r, j] += query(r, d) * keys[o, d, j]
    tops[o, r] = max(scores); weights[o, r, j] = exp(scores - tops); totals[o, r] = sum(weights)
    sums[o, r, w] += weights[o, r, j] * values[o, j, w]
    result[...] = element(sums, tops, totals)

Results (:func:`schedule_attention`)::

    for o, part of the queries in parallel:
        keys, values                                # once for all rows
        for r_tile: scores, tops, weights, totals, sums, the store

A tile's scores are all that exists of them. Maxima and totals run along vectors of keys and are joined at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vgcomp.backends.tvm import vector_math
from vgcomp.backends.tvm.attention import Attention
from vgcomp.backends.tvm.cpu_gemm import LANES, MOST_SUMS, block, padded, register_tiles
from vgcomp.backends.tvm.kernel import Kernel, Store
from vgcomp.backends.tvm.registry import DTYPES, Operand, opmath
from vgcomp.backends.tvm.schedule_gemm import vectorized

#: Threads that the parallel loop should keep busy, several parts each.
_TASKS = 8


def attend(kernel: Kernel, problem: Attention) -> tuple[Operand, Operand, Operand]:
    """Weighted values, each row's greatest score and its sum of exponentials, as the kernel stores them."""
    writer = _Blocks(kernel, problem)
    kernel.body, kernel.family = writer.write, "attention"
    rows, wide = (*problem.batch, problem.queries), opmath(problem.dtype)
    return (
        Operand((*rows, problem.width), wide, lambda *_: writer.made),
        Operand(rows, wide, lambda *_: writer.top),
        Operand(rows, wide, lambda *_: writer.total),
    )


class _Blocks:
    """The kernel under construction."""

    def __init__(self, kernel: Kernel, problem: Attention) -> None:
        self.kernel, self.problem = kernel, problem
        self.outer = [d for d, size in enumerate(problem.batch) if size > 1]
        self.wide = DTYPES[opmath(problem.dtype)]
        self.width, self.keys = padded(problem.width, LANES), padded(problem.keys, LANES)
        self.queries = padded(problem.queries, _rows(problem.queries, self.width))
        #: What is being stored.
        self.made: Any = None
        self.top: Any = None
        self.total: Any = None

    def write(self, store: Store) -> None:
        """All blocks."""
        from tvm import tirx
        from tvm.script.ir_builder import tirx as T

        problem, n = self.problem, len(self.outer)
        o = [problem.batch[d] for d in self.outer]
        r, vectors = self.queries, self.keys // LANES
        keys = self._copy("keys", (*o, problem.depth, self.keys), self._key)
        values = self._copy("values", (*o, self.keys, self.width), self._value)
        scores = self._sum(
            "scores", (*o, r, self.keys), problem.depth,
            lambda i, d: self._query(i[:n], i[n], d) * keys[(*i[:n], d, i[-1])],
        )  # fmt: skip
        biased = self._copy("biased", (*o, r, self.keys), lambda i: self._score(scores[tuple(i)], i))
        low = tirx.min_value(self.wide)
        tops = self._fold("tops", (*o, r, LANES), vectors, biased, low, tirx.max)
        top = self._join("top", (*o, r), tops, low, tirx.max)
        weights = self._copy(
            "weights", (*o, r, self.keys),
            lambda i: vector_math.exp(biased[tuple(i)] - top[tuple(i[:-1])], self.kernel.device),
        )  # fmt: skip
        zero = tirx.const(0, self.wide)
        totals = self._fold("totals", (*o, r, LANES), vectors, weights, zero, lambda a, b: a + b)
        total = self._join("total", (*o, r), totals, zero, lambda a, b: a + b)
        sums = self._sum(
            "sums", (*o, r, self.width), self.keys,
            lambda i, j: weights[(*i[:-1], j)] * values[(*i[:n], j, i[-1])],
        )  # fmt: skip
        with block("result", (*o, r, self.width), inside=(problem.queries, problem.width)) as i:
            self.made, self.top, self.total = sums[tuple(i)], top[tuple(i[:-1])], total[tuple(i[:-1])]
            store([*self._batch(i[:n]), i[n], i[n + 1]])
        del T

    def _batch(self, outer: Sequence[Any]) -> list[Any]:
        index: list[Any] = [0] * len(self.problem.batch)
        for d, i in zip(self.outer, outer, strict=True):
            index[d] = i
        return index

    def _query(self, outer: Sequence[Any], row: Any, channel: Any) -> Any:
        from tvm import tirx

        if self.queries > self.problem.queries:
            row = tirx.min(row, self.problem.queries - 1)
        return self.problem.query(*self._batch(outer), row, channel).astype(self.wide)

    def _key(self, i: Sequence[Any]) -> Any:
        from tvm import tirx

        *outer, channel, key = i
        if self.keys > self.problem.keys:
            key = tirx.min(key, self.problem.keys - 1)
        return self.problem.key(*self._batch(outer), key, channel)

    def _value(self, i: Sequence[Any]) -> Any:
        from tvm import tirx

        *outer, key, channel = i
        if self.keys > self.problem.keys:
            key = tirx.min(key, self.problem.keys - 1)
        if self.width > self.problem.width:
            channel = tirx.min(channel, self.problem.width - 1)
        return self.problem.value(*self._batch(outer), key, channel)

    def _score(self, product: Any, i: Sequence[Any]) -> Any:
        from tvm import tirx

        *outer, row, key = i
        score = self.problem.score(product, *self._batch(outer), row, key)
        if self.keys == self.problem.keys:
            return score
        return tirx.Select(key < self.problem.keys, score, tirx.const(float("-inf"), self.wide))

    def _copy(self, name: str, shape: Sequence[int], element: Callable[[list[Any]], Any]) -> Any:
        from tvm.script.ir_builder import tirx as T

        buffer = T.sblock_alloc_buffer(tuple(shape), self.wide)
        with block(name, shape) as i:
            T.buffer_store(buffer, element(i), i)
        return buffer

    def _sum(self, name: str, shape: Sequence[int], over: int, term: Callable[[list[Any], Any], Any]) -> Any:
        from tvm import tirx

        zero = tirx.const(0, self.wide)
        return self._reduce(name, shape, over, zero, lambda a, b: a + b, term)

    def _fold(self, name: str, shape: Sequence[int], over: int, source: Any, start: Any, join: Any) -> Any:
        """Along the vectors of a row: lane by lane."""
        return self._reduce(name, shape, over, start, join, lambda i, v: source[(*i[:-1], v * LANES + i[-1])])

    def _join(self, name: str, shape: Sequence[int], source: Any, start: Any, join: Any) -> Any:
        """The lanes of a row as one."""
        return self._reduce(name, shape, LANES, start, join, lambda i, lane: source[(*i, lane)])

    def _reduce(
        self, name: str, shape: Sequence[int], over: int, start: Any, join: Any, term: Callable[[list[Any], Any], Any]
    ) -> Any:
        from tvm.script.ir_builder import tirx as T

        buffer = T.sblock_alloc_buffer(tuple(shape), self.wide)
        with block(name, shape, [over]) as found:
            *i, k = found
            with T.init():
                T.buffer_store(buffer, start, i)
            T.buffer_store(buffer, join(buffer[tuple(i)], term(i, k)), i)
        return buffer


def _rows(queries: int, width: int) -> int:
    """Rows of a tile."""
    return register_tiles(queries, width // LANES)[0][0]


def schedule_attention(schedule: Any) -> None:
    """Tiles the blocks of a schedule."""
    result = schedule.get_sblock("result")
    *outer, r, w = schedule.get_loops(result)
    extent = lambda loop: int(schedule.get(loop).extent)  # noqa: E731
    queries, width = extent(r), extent(w)
    rows, _ = next(tile for tile in register_tiles(queries, width // LANES) if queries % tile[0] == 0)
    tiles = queries // rows
    batches = 1
    for loop in outer:
        batches *= extent(loop)
    parts = next(d for d in range(1, tiles + 1) if tiles % d == 0 and (d * batches >= _TASKS or d == tiles))
    part, tile, row = schedule.split(r, [parts, None, rows])
    task = schedule.fuse(*outer, part)
    schedule.parallel(task)
    for name in ("sums", "total", "totals", "weights", "top", "tops", "biased", "scores"):
        schedule.compute_at(schedule.get_sblock(name), tile, preserve_unit_loops=True)
    for name in ("values", "keys"):
        schedule.compute_at(schedule.get_sblock(name), task, preserve_unit_loops=True)
        vectorized(schedule, schedule.get_sblock(name))
    for name in ("scores", "sums"):
        _product(schedule, schedule.get_sblock(name), rows)
    for name in ("tops", "totals"):
        _lanes(schedule, schedule.get_sblock(name))
    for name in ("biased", "weights"):
        vectorized(schedule, schedule.get_sblock(name))
    vectorized(schedule, result)
    del row


def _product(schedule: Any, product: Any, rows: int) -> None:
    """Sums of a tile in registers: the reduction outside of rows and vectors."""
    r, column, k = schedule.get_loops(product)[-3:]
    vectors = int(schedule.get(column).extent) // LANES
    together = max(v for v in range(1, MOST_SUMS // rows + 1) if vectors % v == 0)
    tile, vector, lane = schedule.split(column, [None, together, LANES])
    schedule.reorder(tile, k, r, vector, lane)
    schedule.vectorize(lane)
    schedule.unroll(r)
    schedule.unroll(vector)
    vectorized(schedule, schedule.decompose_reduction(product, k))


def _lanes(schedule: Any, fold: Any) -> None:
    """A fold lane by lane."""
    r, lane, k = schedule.get_loops(fold)[-3:]
    schedule.reorder(r, k, lane)
    schedule.vectorize(lane)
    vectorized(schedule, schedule.decompose_reduction(fold, k))
