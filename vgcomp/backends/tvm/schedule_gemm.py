"""Tiles for matrix products on CPUs (:mod:`vgcomp.backends.tvm.cpu_gemm`): chosen by rule, or sampled to be tuned."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vgcomp.backends.tvm.cpu_gemm import LANES, register_tiles

#: Bytes of a panel that stay near the core.
_PANEL = 256 * 1024
#: Columns of a register tile: with eight rows, two vectors of sums fit 32 registers beside what is multiplied.
_COLUMNS = (32, 48, 64, 16)
#: Threads that the parallel loop should keep busy, several tiles each.
_TASKS = 8


@dataclass(frozen=True)
class Choices:
    """What a decision may be, the default first."""

    values: tuple[int, ...]


#: Takes a name and what there is to choose from; gives the choice, as a number or as a schedule's variable.
Decide = Callable[[Any, Choices], Any]


def first(_: Any, choices: Choices) -> int:
    """The default of every decision."""
    return choices.values[0]


def sample(schedule: Any, choices: Choices) -> Any:
    """A decision that a search may take otherwise, kept in the schedule's trace."""
    share = 1.0 / len(choices.values)
    if len(choices.values) == 1:
        return choices.values[0]
    return schedule.sample_categorical(list(choices.values), [share] * len(choices.values))


def schedule_gemm(schedule: Any, decide: Decide = first) -> None:
    """Tiles the blocks ``panel``, ``stripe``, ``sums`` and ``result`` of a schedule."""
    result, sums = schedule.get_sblock("result"), schedule.get_sblock("sums")
    panel, stripe = schedule.get_sblock("panel"), schedule.get_sblock("stripe")
    sizes = _Sizes.of(schedule, result, sums)
    *outer, r, v = schedule.get_loops(result)

    rows = decide(schedule, Choices(sizes.row_tiles))
    v_out, v_in = schedule.split(v, [None, decide(schedule, Choices(sizes.column_tiles))])
    part, r_in = schedule.split(r, [decide(schedule, Choices(sizes.parts)), None])
    schedule.reorder(*outer, part, v_out, r_in, v_in)
    task = schedule.fuse(*outer, part, v_out)
    schedule.parallel(task)
    schedule.compute_at(sums, task, preserve_unit_loops=True)
    loops = schedule.get_loops(sums)
    n = len(loops) - sizes.over
    row, column = loops[n - 2 : n]
    chunk, depth = schedule.split(loops[n], [None, decide(schedule, Choices(sizes.depths))])
    tile, row = schedule.split(row, [None, rows])
    vector, lane = schedule.split(column, [None, LANES])
    schedule.reorder(chunk, tile, depth, *loops[n + 1 :], row, vector, lane)
    schedule.vectorize(lane)
    schedule.unroll(row)
    schedule.unroll(vector)
    schedule.compute_at(panel, chunk, preserve_unit_loops=True)
    if sizes.plain_stripe:
        schedule.compute_inline(stripe)
    else:
        schedule.compute_at(stripe, tile, preserve_unit_loops=True)
    start = schedule.decompose_reduction(sums, chunk)
    for block in (panel, start, result):
        vectorized(schedule, block)


def vectorized(schedule: Any, block: Any) -> None:
    """Runs the innermost loop of a block on vectors, where it fills them."""
    loop = schedule.get_loops(block)[-1]
    extent = int(schedule.get(loop).extent)
    if extent % LANES == 0:
        _, lane = schedule.split(loop, [None, LANES])
        schedule.vectorize(lane)


@dataclass(frozen=True)
class _Sizes:
    """What tiles are cut from."""

    outer: int
    rows: int
    columns: int
    depth: int
    rest: int
    over: int
    plain_stripe: bool

    @classmethod
    def of(cls, schedule: Any, result: Any, sums: Any) -> _Sizes:
        """Reads the sizes off the loops."""
        *outer, rows, columns = [int(schedule.get(loop).extent) for loop in schedule.get_loops(result)]
        over = [int(schedule.get(loop).extent) for loop in schedule.get_loops(sums)][len(outer) + 2 :]
        stripe = schedule.get(schedule.get_sblock("stripe"))
        plain = _is_plain(stripe.body.value)
        return cls(math.prod(outer), rows, columns, over[0], math.prod(over[1:]), len(over), plain)

    @property
    def tiles(self) -> list[tuple[int, int]]:
        """Register tiles of whole rows."""
        return [tile for tile in register_tiles(self.rows, self.columns // LANES) if self.rows % tile[0] == 0]

    @property
    def row_tiles(self) -> tuple[int, ...]:
        """Rows of a register tile."""
        return tuple(dict.fromkeys(rows for rows, _ in self.tiles[:12]))

    @property
    def column_tiles(self) -> tuple[int, ...]:
        """Columns of one; with a number of rows that was not thought of together, sums may spill to memory."""
        return tuple(dict.fromkeys(vectors * LANES for _, vectors in self.tiles[:12]))

    @property
    def depths(self) -> tuple[int, ...]:
        """Divisors of the depth: the most of which a panel stays near the core, and others."""
        most = max(1, _PANEL // (4 * LANES * self.tiles[0][1] * self.rest))
        divisors = [d for d in range(1, self.depth + 1) if self.depth % d == 0]
        best = max(d for d in divisors if d <= most)
        return (best, *(d for d in divisors if d != best and best / 8 <= d <= best * 8))

    @property
    def parts(self) -> tuple[int, ...]:
        tasks = self.outer * self.columns // (LANES * self.tiles[0][1])
        tiles = self.rows // self.tiles[0][0]
        divisors = [d for d in range(1, tiles + 1) if tiles % d == 0 and d <= 4 * _TASKS]
        wanted = next((d for d in divisors if d * tasks >= _TASKS), divisors[-1])
        return (wanted, *(d for d in divisors if d != wanted))


def _is_plain(value: Any) -> bool:
    """True for an element that is read as it is: no test, no conversion."""
    return type(value).__name__ in ("BufferLoad", "TensorLoad")
