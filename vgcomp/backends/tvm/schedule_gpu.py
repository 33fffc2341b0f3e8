"""Schedules for GPUs: every loop that stores is bound to blocks and threads.

Contractions and attention are written with their threads (``gpu_gemm``, ``gpu_attention``). What is left are pointwise
kernels, one thread an element; rows (softmax, layer norms), some threads a row; and reductions, a thread an element of
the result where they are short, a block where they are long.
"""

from __future__ import annotations

import math
from typing import Any

from vgcomp.backends.tvm.kernel import Built, Device

#: Threads of a block of pointwise work, and at most for one reduction.
_POINTWISE, _REDUCTION = 256, 512
#: A sum of this many terms is worth a block of threads.
_LONG = 256
#: Threads of a block that works on several short rows.
_ROWS = 128


def scheduled_gpu(built: Built, device: Device) -> Any:
    """The kernel's function with every block bound."""
    from tvm import s_tir

    if built.family == "bound":
        return built.function
    schedule = s_tir.Schedule(built.function)
    for name, at in built.where.items():
        if not _reduced(schedule, schedule.get_sblock(name)):
            # Recomputed where it is read: cheaper than memory that all threads of a block see.
            schedule.compute_inline(schedule.get_sblock(name))
            continue
        if at == "whole" or (at == "tile" and _terms(schedule, schedule.get_sblock(name)) >= _LONG):
            _alone(schedule, schedule.get_sblock(name))
    left = {name: at for name, at in built.where.items() if _unbound(schedule, name)}
    loops = schedule.get_loops(schedule.get_sblock("result"))
    rows = [name for name, at in left.items() if at == "row"]
    if rows:
        n = len(loops) - built.row
        # Metal's shuffles count lanes within their own group, and TVM's reductions within the block.
        _rows(schedule, loops[:n], loops[n:], rows, 1 if device == "metal" else _ROWS)
    else:
        _elements(schedule, loops, [name for name, at in left.items() if at == "tile"])
    return schedule.mod["main"].with_attr("global_symbol", built.function.attrs["global_symbol"])


def _unbound(schedule: Any, name: str) -> bool:
    """True for a stage that is still there and has no threads yet."""
    from tvm.s_tir.schedule import ScheduleError

    try:
        block = schedule.get_sblock(name)
    except ScheduleError:
        return False
    return all(schedule.get(loop).thread_binding is None for loop in schedule.get_loops(block))


def _reduced(schedule: Any, block: Any) -> list[Any]:
    """The loops of a block that it reduces over."""
    loops, kinds = schedule.get_loops(block), schedule.get(block).iter_vars
    return [loop for loop, var in zip(loops[-len(kinds) :], kinds, strict=True) if var.iter_type == 2]


def _terms(schedule: Any, block: Any) -> int:
    return math.prod(_extent(schedule, loop) for loop in _reduced(schedule, block))


def _extent(schedule: Any, loop: Any) -> int:
    return int(schedule.get(loop).extent)


def _fused(schedule: Any, loops: list[Any]) -> Any:
    return schedule.fuse(*loops) if len(loops) > 1 else loops[0]


def _threads(work: int, most: int) -> int:
    """Threads for so many elements: whole warps, a power of two."""
    count = 32
    while count < most and count * 4 <= work:
        count *= 2
    return count


def _alone(schedule: Any, block: Any) -> None:
    """A kernel of its own: a block of threads for each element."""
    reduced = _reduced(schedule, block)
    loops = schedule.get_loops(block)
    outer = _fused(schedule, loops[: len(loops) - len(reduced)])
    inner = _fused(schedule, reduced)
    _, lane = schedule.split(inner, [None, _threads(_extent(schedule, inner), _REDUCTION)])
    schedule.bind(outer, "blockIdx.x")
    schedule.bind(lane, "threadIdx.x")


def _elements(schedule: Any, loops: list[Any], stages: list[str]) -> None:
    """A thread an element, with the short sums that it reads."""
    fused = _fused(schedule, loops)
    block, lane = schedule.split(fused, [None, min(_POINTWISE, -(-_extent(schedule, fused) // 32) * 32)])
    schedule.bind(block, "blockIdx.x")
    schedule.bind(lane, "threadIdx.x")
    for name in reversed(stages):
        stage = schedule.get_sblock(name)
        schedule.compute_at(stage, lane, preserve_unit_loops=True)
        schedule.set_scope(stage, 0, "local")


def _rows(schedule: Any, outer: list[Any], row: list[Any], stages: list[str], threads: int) -> None:
    """Threads side by side along a row, and several short rows in a block of at most so many threads."""
    if not outer:
        outer = [schedule.add_unit_loop(row[0])]
    along = math.prod(_extent(schedule, loop) for loop in row)
    lanes = _threads(along, _REDUCTION)
    fused = _fused(schedule, outer)
    deep = max(d for d in range(1, max(threads // lanes, 1) + 1) if _extent(schedule, fused) % d == 0)
    block, deep_loop = schedule.split(fused, [None, deep])
    schedule.bind(block, "blockIdx.x")
    schedule.bind(deep_loop, "threadIdx.y")
    for name in reversed(stages):
        stage = schedule.get_sblock(name)
        schedule.compute_at(stage, deep_loop, preserve_unit_loops=True)
        # Every thread gets the sum; in shared memory, one would write it and nothing would hold the others back.
        schedule.set_scope(stage, 0, "local")
    for name in stages:
        inner = _fused(schedule, _reduced(schedule, schedule.get_sblock(name)))
        schedule.bind(schedule.split(inner, [None, lanes])[1], "threadIdx.x")
    schedule.bind(schedule.split(_fused(schedule, row), [None, lanes])[1], "threadIdx.x")
