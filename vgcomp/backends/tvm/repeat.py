"""Long runs of equal steps as functions of functions, so that code does not grow with the number of slices.

Given n steps of one body, whose positions advance alike, the bytecode would hold n calls. Four steps become a function,
four of those another, and so on: a few calls for each power of four, whatever n is.

    main:       body16(at); body16(at + 16 d); body4(at + 32 d); body(at + 36 d)
    body16(at): body4(at); body4(at + 4 d); body4(at + 8 d); body4(at + 12 d)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vgcomp.backends.tvm.storage import Enter, GraphPlan, Run

#: Calls in a function, and the shortest run that gets one.
FOLD = 4
_LEAST = 2 * FOLD
#: The kernel that adds positions.
ADVANCE = "advance"


@dataclass(frozen=True, slots=True)
class Steps:
    """``count`` entries of one body; each position starts somewhere and grows by the same at each step."""

    body: GraphPlan
    count: int
    starts: tuple[tuple[str, int], ...]
    #: Parallel to ``starts``.
    strides: tuple[int, ...]

    def at(self, step: int) -> dict[str, int]:
        """The positions of a step."""
        return {name: start + step * by for (name, start), by in zip(self.starts, self.strides, strict=True)}


def runs(instructions: Sequence[Run | Enter]) -> Iterator[Run | Steps]:
    """Instructions, with the steps of loops in runs as long as positions advance alike."""
    i = 0
    while i < len(instructions):
        first = instructions[i]
        if isinstance(first, Run):
            yield first
            i += 1
            continue
        entries = _alike(instructions, i, first)
        strides = _strides(entries[0], entries[1]) if len(entries) > 1 else (0,) * len(first.scalars)
        yield Steps(first.body, len(entries), first.scalars, strides)
        i += len(entries)


def _alike(instructions: Sequence[Run | Enter], i: int, first: Enter) -> list[Enter]:
    """The longest run from ``i`` on."""
    found = [first]
    strides: tuple[int, ...] | None = None
    for entry in instructions[i + 1 :]:
        if not isinstance(entry, Enter) or entry.body is not first.body:
            break
        by = _strides(found[-1], entry)
        if strides is not None and by != strides:
            break
        strides = by
        found.append(entry)
    return found


def _strides(a: Enter, b: Enter) -> tuple[int, ...]:
    assert [name for name, _ in a.scalars] == [name for name, _ in b.scalars]
    return tuple(to - at for (_, at), (_, to) in zip(a.scalars, b.scalars, strict=True))


def folds(count: int) -> list[tuple[int, int]]:
    """(first step, power of ``FOLD``) of the calls that make ``count`` steps; single steps for short runs."""
    found: list[tuple[int, int]] = []
    power = 0
    while count >= _LEAST and FOLD ** (power + 1) <= count:
        power += 1
    done = 0
    for level in range(power, -1, -1):
        while count - done >= FOLD**level:
            found.append((done, level))
            done += FOLD**level
    return found


def advance() -> Any:
    """The function of two positions that gives their sum, for the virtual machine to call."""
    from tvm import ir
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(ADVANCE)
        a, b = T.arg("a", T.int64()), T.arg("b", T.int64())
        T.func_ret(ir.PrimType("int64"))
        T.Return(a + b)
    return builder.get().with_attr("tirx.is_host_func", True)
