"""Who times ops on a device; here the local CPU, through PyTorch.

Ops are timed in turns, one of each call a round, in the order in which a network runs them. So an op finds the caches
as a network leaves them: its weights where all the other ops' data has pushed them, its instructions cold, its inputs
as warm as a producer leaves them. Memory is handed out as in a run, too: inputs are allocated and written right
before, the first is let go after (which counts), the result is held until the next op has run. Freed memory stays with
the process (:func:`keep_memory`): whether the C library gives pages back between ops, and every op then takes
them anew, depends on what else a process did, and changes an op's seconds several times.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from vgcomp import ir
from vgcomp.backends.torch_runtime import _as_planned
from vgcomp.cost_models.calls import Call, parse
from vgcomp.cost_models.table import Timing

_WARM_UP = 3
#: Options of glibc's ``mallopt``, from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _NEVER = -1, -4, 2**31 - 1
#: Ops whose second tensor on is a weight, which no producer has just written.
_WEIGHTED = frozenset({ir.aten.convolution.default, ir.aten.linear.default, *ir.NORM_OPS})
#: Ops that want inputs above 0.
_POSITIVE = frozenset(
    {
        ir.aten.log.default,
        ir.aten.sqrt.default,
        ir.aten.rsqrt.default,
        ir.aten.reciprocal.default,
        ir.aten.pow.Tensor_Scalar,
        ir.own.group_norm_apply.default,
        ir.own.merge_moments.default,
        ir.own.merge_softmax.default,
        ir.own.attention_finish.default,
    }
)
#: Ops that look rows up: the positions of (the table, the rows' numbers, the table's dimension) in their arguments.
_INDEXED: dict[Any, tuple[int, int, int | None]] = {
    ir.aten.embedding.default: (0, 1, None),
    ir.aten.index_select.default: (0, 2, 1),
}


@dataclass(frozen=True)
class Device:
    """What ops are timed on: its name, the threads used, the library with its version."""

    name: str
    threads: int
    driver: str


class Runner(Protocol):
    """Times ops on a device, near or far (a phone behind an RPC server, say)."""

    @property
    def device(self) -> Device:
        """What is timed on."""
        ...

    def time(self, calls: Sequence[Call], repeats: int) -> list[Timing]:
        """Seconds of each call, run in turns with the others; one timing a call, in their order.

        A call may be there several times, as a network has several layers of a size: each has weights of its own.
        """
        ...


class TorchRunner:
    """The local CPU through PyTorch, with ``threads`` threads and random data."""

    def __init__(self, threads: int, seed: int = 0) -> None:
        self._threads = threads
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def device(self) -> Device:
        """The processor."""
        return Device(_processor(), self._threads, f"PyTorch {torch.__version__} CPU, freed memory kept")

    def time(self, calls: Sequence[Call], repeats: int) -> list[Timing]:
        """See :class:`Runner`."""
        keep_memory()
        data = {call: _Data(call, self._generator) for call in dict.fromkeys(calls)}
        ready = [_Ready(data[call]) for call in calls]
        times: list[list[int]] = [[] for _ in calls]
        with use_threads(self._threads), torch.inference_mode(), _no_collection():
            clock = clock_ns(self._threads)
            empty = min(_nothing(clock) for _ in range(100))
            for turn in range(_WARM_UP + repeats):
                for op, found in zip(ready, times, strict=True):
                    taken, _held = op.run(clock)
                    if turn >= _WARM_UP:
                        found.append(max(1, taken - empty))
        return [_timing(found) for found in times]


def clock_ns(threads: int) -> Callable[[], int]:
    """What time is taken by: the clock on the wall; with one thread its own processor time."""
    return time.thread_time_ns if threads == 1 else time.perf_counter_ns


def _nothing(clock: Callable[[], int]) -> int:
    begin = clock()
    return clock() - begin


def _timing(nanoseconds: Sequence[int]) -> Timing:
    ordered = sorted(nanoseconds)
    n = len(ordered)
    spread = (ordered[(3 * n) // 4 if n > 1 else 0] - ordered[n // 4]) / 2
    return Timing(statistics.median(ordered) * 1e-9, spread * 1e-9, n)


class _Data:
    """A call's arguments, random."""

    def __init__(self, call: Call, generator: torch.Generator) -> None:
        parsed = parse(call)
        self.target = parsed.target
        self.strides = parsed.out.stride()
        table = _INDEXED.get(parsed.target)
        self.args = [self._filled(entry, generator) for entry in parsed.args]
        self.kwargs = {name: self._filled(entry, generator) for name, entry in parsed.kwargs.items()}
        if table is not None:
            self._index(table, generator)

    def _filled(self, entry: Any, generator: torch.Generator) -> Any:
        if isinstance(entry, list):
            return [self._filled(inner, generator) for inner in entry]
        if not isinstance(entry, Tensor):
            return entry
        value = torch.empty_strided(entry.shape, entry.stride(), dtype=entry.dtype)
        storage = torch.empty(0, dtype=entry.dtype).set_(value.untyped_storage())
        if entry.dtype == torch.bool:
            storage.random_(0, 2, generator=generator)
        elif not entry.is_floating_point():
            storage.random_(0, 8, generator=generator)
        elif self.target in _POSITIVE:
            storage.uniform_(0.5, 2.0, generator=generator)
        else:
            storage.normal_(generator=generator)
        return value

    def _index(self, places: tuple[int, int, int | None], generator: torch.Generator) -> None:
        """Row numbers that exist."""
        table, rows, dim = places
        size = self.args[table].shape[0 if dim is None else self.args[dim]]
        self.args[rows].random_(0, size, generator=generator)


class _Ready:
    """One of a network's calls, with weights of its own."""

    def __init__(self, data: _Data) -> None:
        self._data = data
        self._args = _copied(data.args)
        places = list(_places(self._args))
        weights = places[1:] if data.target in _WEIGHTED else []
        for holder, i, value in weights:
            holder[i] = value.clone()
        self._inputs = [
            (holder, i, value)
            for holder, i, value in (places[:1] if data.target in _WEIGHTED else places)
            if value.is_floating_point() and 0 not in value.stride()
        ]

    def run(self, clock: Callable[[], int]) -> tuple[int, Tensor]:
        """Runs it once; nanoseconds, and the result."""
        for holder, i, value in self._inputs:
            holder[i] = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype).copy_(value)
        target, kwargs, strides = self._data.target, self._data.kwargs, self._data.strides
        args, first = self._args, self._inputs[:1]
        begin = clock()
        out = _as_planned(target(*args, **kwargs), strides)
        for holder, i, _ in first:
            holder[i] = None
        taken = clock() - begin
        for holder, i, _ in self._inputs:
            holder[i] = None
        return taken, out


def _copied(values: list[Any]) -> list[Any]:
    """The lists anew, the tensors in them shared."""
    return [_copied(entry) if isinstance(entry, list) else entry for entry in values]


def _places(values: list[Any]) -> Iterator[tuple[list[Any], int, Tensor]]:
    """(list, index, tensor) of the tensors in lists within lists."""
    for i, entry in enumerate(values):
        if isinstance(entry, Tensor):
            yield values, i, entry
        elif isinstance(entry, list):
            yield from _places(entry)


def keep_memory() -> None:
    """Has the C library keep freed memory in this process, where it is one that can (glibc)."""
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, _NEVER)


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """PyTorch's threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection inside a timing."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _processor() -> str:
    """The processor's name and how many there are."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores"
