"""The calls of programs, loops' bodies and what loops copy included, in the order in which they run."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from vgcomp.cost_models.base import Cost, OpWork
from vgcomp.cost_models.calls import Call, parse, spell
from vgcomp.program import Program
from vgcomp.simulate import simulate
from vgcomp.targets import Target


class _Listener:
    """A cost model that only writes down what it is asked."""

    name = "listener"

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def op_seconds(self, work: OpWork, target: Target) -> Cost:
        """Nothing."""
        if work.call is not None:
            self.calls.append(spell(work.call))
        return Cost(0.0, "launch", self.name)

    def seconds_at(self, work: OpWork, fraction: float) -> float:
        """Nothing."""
        return 0.0


def calls_of(programs: Iterable[Program], target: Target) -> list[Call]:
    """Every call that a simulation of the programs on ``target`` asks for.

    A program's calls are repeated as it repeats them, each of them having weights of its own; those that a
    program before it has are left out.
    """
    found: list[Call] = []
    for program in programs:
        listener = _Listener()
        simulate(program, target, listener)
        seen = set(found)
        found += [call for call in listener.calls if call not in seen]
    return found


def data_bytes(call: Call) -> int:
    """Bytes of a call's tensors, its result included."""
    parsed = parse(call)
    return _bytes([*parsed.args, *parsed.kwargs.values(), parsed.out])


def _bytes(value: object) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(map(_bytes, value)) if isinstance(value, list) else 0
