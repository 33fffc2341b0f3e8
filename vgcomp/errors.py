"""What can go wrong, in two kinds: the user's (:class:`VgcompError`) and ours (:class:`InternalError`).

A message is one line that names the thing and the way out. The command line prints it and leaves
with the class' ``exit_code``; a traceback is shown for ours alone.
"""

from __future__ import annotations

from typing import ClassVar


class VgcompError(Exception):
    """Something the user can put right."""

    exit_code: ClassVar[int] = 2


class UsageError(VgcompError):
    """A wrong option, value, name or path."""


class ModelError(VgcompError):
    """A model file or module that is damaged, or holds what is not supported."""


class CheckFailed(VgcompError):
    """The result differs from the unmodified network by more than the plan allows."""

    exit_code = 3


class Infeasible(VgcompError):
    """No plan fits the budget.

    ``smallest_bytes``: the least peak found. ``culprit``: the node or tensor that stands at it.
    """

    exit_code = 4

    def __init__(self, message: str, *, smallest_bytes: int, culprit: str) -> None:
        super().__init__(message)
        self.smallest_bytes = smallest_bytes
        self.culprit = culprit


class Unavailable(VgcompError):
    """A backend, device or optional package that is not here."""

    exit_code = 5


class InternalError(Exception):
    """A broken invariant of the compiler itself: a bug, whatever the input was."""

    exit_code: ClassVar[int] = 1
