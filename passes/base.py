"""What a pass is.

A pass is a frozen dataclass in a file of its own. Its fields are its options, on the command line
and in a spec string alike, so they are typed and have defaults:

    @dataclass(frozen=True)
    class DropNoise:
        \"\"\"Shows the IR given and the IR that results.\"\"\"

        name: ClassVar[str] = "drop-noise"
        equivalence: ClassVar[Equivalence] = "exact"
        max_nodes: int = 64

        def run(self, program: Program, context: PassContext) -> PassResult:
            ...

It never changes the program it is given, and where it leaves something alone that a reader would
expect it to take, it says why in an :class:`Explanation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from vgcomp.result import Equivalence, Explanation

if TYPE_CHECKING:
    from vgcomp.cost_models.base import CostModel
    from vgcomp.program import Program
    from vgcomp.targets import Target

Stat = int | float | str

#: Called with what is being done and the fraction of it that is done, 0 to 1.
Progress = Callable[[str, float], None]


def no_progress(stage: str, fraction: float) -> None:
    """The listener of those who do not listen."""


@dataclass(frozen=True)
class PassContext:
    """What a pass may consult beside the program.

    ``memory``: bytes that the device has for the program and its run (:mod:`vgcomp.device_memory`), None for no budget.
    """

    target: Target
    cost_model: CostModel
    memory: int | None = None
    progress: Progress = no_progress


@dataclass(frozen=True)
class PassResult:
    """``program``: the one given where nothing changed. ``stats``: counts for people, such as ``removed=12``."""

    program: Program
    changed: bool
    stats: Mapping[str, Stat] = field(default_factory=dict)
    explanations: tuple[Explanation, ...] = ()
    #: The program has other inputs or outputs than the one given, as the pass' purpose is.
    new_interface: bool = False
    #: It is another network by purpose: what later passes make of it is checked against it, not against what came in.
    new_network: bool = False


@runtime_checkable
class Pass(Protocol):
    """See the module's text. ``name`` is kebab-case and, for those in this folder, the file's name."""

    name: ClassVar[str]
    #: exact: bit for bit. reassociated: floating-point order only. approximate: within a stated metric.
    equivalence: ClassVar[Equivalence]

    def run(self, program: Program, context: PassContext) -> PassResult:
        """Rewrites a copy of ``program``. Raises VgcompError for what the user can put right."""
        ...
