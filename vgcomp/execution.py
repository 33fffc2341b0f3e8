"""How a graph is run: op by op from Python, compiled, or as one recorded graph; and what the host adds to it.

The host issues ops ahead of the device. Only where the device catches up with it (a stretch of ops that take less
than their issue) does the device wait, so a clock that follows both is needed, and no figure per op will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vgcomp.targets import Target

#: ``eager``: one kernel an op, issued from Python. ``compiled``: chains of pointwise ops, norms and copies are one
#: kernel each, issued by generated code. ``graph``: the eager kernels, recorded once and started together.
Mode = Literal["eager", "compiled", "graph"]

#: Generated code issues a kernel in this share of the time that Python needs for an op.
_GENERATED = 0.5


@dataclass(frozen=True, slots=True)
class Issue:
    """Seconds of the host for an op that runs something, and for a view."""

    op_s: float
    view_s: float


def issue(target: Target, mode: Mode) -> Issue:
    """What the host takes in this mode; nothing where the target has no host to wait for."""
    if mode == "graph" or target.kind != "cuda":
        return Issue(0.0, 0.0)
    if mode == "compiled":
        return Issue(target.host_issue_s * _GENERATED, 0.0)
    return Issue(target.host_issue_s, target.host_view_s)


class Clock:
    """Follows host and device; both start at zero. ``now`` is when the device is done with what it was given."""

    def __init__(self) -> None:
        self.now = 0.0
        self._host = 0.0

    def run(self, device_s: Sequence[float], host_s: float) -> list[float]:
        """Runs ops that are issued in turns (a loop's), and gives each one's seconds: its own and its wait.

        ``device_s``: each op's seconds. ``host_s``: of issuing all of them. What the device waits is put on the
        ops in proportion to their number.
        """
        self._host += host_s
        busy = sum(device_s)
        if not busy:
            return list(device_s)  # views: nothing waits for the host yet
        # The last op cannot start before it is issued.
        last = device_s[-1] if len(device_s) == 1 else 0.0
        wait = max(0.0, self._host + last - (self.now + busy))
        self.now += busy + wait
        share = wait / len(device_s) if device_s else 0.0
        return [seconds + share for seconds in device_s]
