"""What a report is written from. :class:`vgcomp.optimize.OptimizeResult` is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from vgcomp.result import Explanation, Report

if TYPE_CHECKING:
    from vgcomp.program import Program
    from vgcomp.simulate import Timeline


class Reportable(Protocol):
    """``program``: the result. ``timelines``: of the program given, and of the result."""

    @property
    def report(self) -> Report: ...

    @property
    def program(self) -> Program: ...

    @property
    def timelines(self) -> tuple[Timeline, Timeline]: ...

    @property
    def explanations(self) -> Sequence[Explanation]: ...
