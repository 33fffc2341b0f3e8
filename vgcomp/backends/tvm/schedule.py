"""A default CPU schedule for every kernel: threads outside, vectors inside, reductions next to where they are read.

Plain, so that an artifact that nobody tuned runs at a bearable speed and a kernel holds no more than a tile or a row of
its intermediate values.
"""

from __future__ import annotations

import math
from typing import Any

from vgcomp.backends.tvm.cpu_attention import schedule_attention
from vgcomp.backends.tvm.kernel import Built
from vgcomp.backends.tvm.schedule_gemm import schedule_gemm

#: Elements of the innermost loop that are computed together, and of the loop around it.
_WIDE, _DEEP = 64, 8
#: Below this many elements threads cost more than they save.
_PARALLEL = 4096


def scheduled(built: Built) -> Any:
    """The kernel's function with the default schedule."""
    from tvm import s_tir

    schedule = s_tir.Schedule(built.function)
    if built.family == "gemm":
        schedule_gemm(schedule)
    elif built.family == "attention":
        schedule_attention(schedule)
    else:
        _schedule_loops(schedule, built)
    return schedule.mod["main"].with_attr("global_symbol", built.function.attrs["global_symbol"])


def _schedule_loops(schedule: Any, built: Built) -> None:
    result = schedule.get_sblock("result")
    loops = schedule.get_loops(result)
    n = len(loops) - built.row
    outer, row = loops[:n], loops[n:]
    at_row = [name for name, at in built.where.items() if at == "row"]
    at_tile = [name for name, at in built.where.items() if at == "tile"]
    for name, at in built.where.items():
        if at == "whole":
            _whole(schedule, schedule.get_sblock(name))
    if at_row:
        _rows(schedule, outer, row, at_row)
    elif at_tile:
        _tiles(schedule, loops, at_tile)
    else:
        _plain(schedule, loops)


def _extent(schedule: Any, loop: Any) -> int:
    return int(schedule.get(loop).extent)


def _parallel(schedule: Any, loops: list[Any], work: int) -> Any:
    """Fuses loops into one, for threads if there is enough to do; the loop, or None where there are none."""
    if not loops:
        return None
    fused = schedule.fuse(*loops) if len(loops) > 1 else loops[0]
    if work >= _PARALLEL and _extent(schedule, fused) > 1:
        schedule.parallel(fused)
    return fused


def _divisor(extent: int, most: int) -> int:
    """The greatest divisor up to ``most``."""
    return max(d for d in range(1, most + 1) if extent % d == 0)


def _plain(schedule: Any, loops: list[Any]) -> None:
    work = math.prod(_extent(schedule, loop) for loop in loops)
    inner = _vector(schedule, loops[-1])
    _parallel(schedule, [*loops[:-1], *inner], work)


def _vector(schedule: Any, loop: Any) -> list[Any]:
    """Vectorises the inner part of a loop; the loops left outside of it."""
    factor = _divisor(_extent(schedule, loop), 16)
    if factor == 1:
        return [loop]
    outer, inner = schedule.split(loop, [None, factor])
    schedule.vectorize(inner)
    return [outer]


def _whole(schedule: Any, block: Any) -> None:
    """A small tensor of sums: threads over its elements."""
    loops = schedule.get_loops(block)
    reduced = [loop for loop, var in zip(loops, schedule.get(block).iter_vars, strict=True) if var.iter_type == 2]
    work = math.prod(_extent(schedule, loop) for loop in loops)
    spatial = loops[: len(loops) - len(reduced)]
    _parallel(schedule, spatial, work)


def _rows(schedule: Any, outer: list[Any], row: list[Any], stages: list[str]) -> None:
    work = math.prod(_extent(schedule, loop) for loop in (*outer, *row)) * 16
    at = _parallel(schedule, outer, work)
    if at is None:
        at = schedule.add_unit_loop(row[0])
    for name in reversed(stages):
        schedule.compute_at(schedule.get_sblock(name), at, preserve_unit_loops=True)
    for name in stages:
        _inner(schedule, name)


def _tiles(schedule: Any, loops: list[Any], stages: list[str]) -> None:
    work = math.prod(_extent(schedule, loop) for loop in loops) * 64
    wide = _divisor(_extent(schedule, loops[-1]), _WIDE)
    outer_last, inner_last = schedule.split(loops[-1], [None, wide])
    outer, inner = [*loops[:-1], outer_last], [inner_last]
    if len(loops) > 1 and wide <= 32:
        deep = _divisor(_extent(schedule, loops[-2]), _DEEP)
        first, second = schedule.split(loops[-2], [None, deep])
        schedule.reorder(first, outer_last, second, inner_last)
        outer, inner = [*loops[:-2], first, outer_last], [second, inner_last]
    at = _parallel(schedule, outer, work)
    for name in reversed(stages):
        schedule.compute_at(schedule.get_sblock(name), at, preserve_unit_loops=True)
    for name in stages:
        _inner(schedule, name)
    if _extent(schedule, inner[-1]) > 1:
        _vector(schedule, inner[-1])


def _inner(schedule: Any, name: str) -> None:
    """Inside a tile: reductions outside, the widest spatial loop innermost, as vectors."""
    block = schedule.get_sblock(name)
    kinds = [var.iter_type for var in schedule.get(block).iter_vars]
    loops = schedule.get_loops(block)[-len(kinds) :]
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind != 2]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == 2]
    vector = max(spatial, key=lambda loop: _extent(schedule, loop))
    if not reduced:
        if _extent(schedule, vector) > 1 and vector is spatial[-1]:
            _vector(schedule, vector)
        return
    if _extent(schedule, vector) == 1:
        return
    rest = [loop for loop in spatial if loop is not vector]
    schedule.reorder(*reduced, *rest, vector)
    _vector(schedule, vector)
    schedule.decompose_reduction(block, reduced[0])
