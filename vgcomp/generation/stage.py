"""What a generation is planned from: stages, and for each the answers to "how fast within so many bytes?"."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from vgcomp.device_memory import DeviceMemory

if TYPE_CHECKING:
    from vgcomp.program import PassRecord, Program
    from vgcomp.simulate import Timeline

#: Where a stage's weights are: on the device all the time; copied there when its turn comes, and dropped after it; or
#: copied op by op in every run.
Weights = Literal["kept", "loaded", "streamed"]


@dataclass(frozen=True)
class Stage:
    """One network's turn in a generation.

    ``runs``: its calls, one after the other, in words in ``schedule``. ``held``: bytes of each tensor that lies on the
    device beside its own inputs meanwhile. ``after``: bytes of what is done with its result when it is through, the
    result in it.
    """

    name: str
    program: Program
    runs: int = 1
    schedule: str = "once"
    held: tuple[int, ...] = ()
    after: int = 0


@dataclass(frozen=True)
class Answer:
    """A way to run a stage. ``need_bytes``: what the device must have with no other stage's weights on it.

    ``latency_s``: of one run, the copies of streamed weights in it.
    """

    need_bytes: int
    latency_s: float
    streamed: bool = False
    plan: Plan | None = None


@dataclass(frozen=True)
class Plan:
    """What an answer was computed from: the program, what the device must have to run it, and its simulated run.

    ``culprit``: the node or tensor at the peak of its activations.
    """

    program: Program
    memory: DeviceMemory
    records: tuple[PassRecord, ...]
    timeline: Timeline
    culprit: str


class Planner(Protocol):
    """A stage as the joint plan sees it. Bytes and seconds; rooms have the process' own share in them.

    Answers are remembered: to ask again costs nothing.
    """

    @property
    def name(self) -> str:
        """The stage's."""
        ...

    @property
    def runs(self) -> int:
        """Calls in a generation."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Bytes to copy for all of its weights."""
        ...

    @property
    def floor_bytes(self) -> int:
        """Less than this no answer needs."""
        ...

    def fastest(self, room: int, most_s: float = math.inf, *, streamed: bool = False) -> Answer | None:
        """The least-latency answer found that needs at most ``room``; None if there is none.

        ``most_s``: seconds a run from which an answer is of no use, so that the search for one may be cut short.
        """
        ...

    def smallest(self) -> Answer:
        """The answer of least need."""
        ...


class Beside(Protocol):
    """Bytes that lie beside a stage: ``kept``, other stages' weights by their numbers, and what the pipeline holds."""

    def __call__(self, stage: int, kept: frozenset[int]) -> int: ...
