"""How long stages take side by side on one device, and a pipelined loop in all.

Each engine (a stream) runs its ops in order. While several are under way:

* the engine of the highest number has first claim on the units (a stream's priority: blocks that wait are handed out by
  it, CUDA programming guide, "Stream Priorities"); the next takes of the rest what it can use, and slows down to that;
* where they ask for more than all of the memory's bandwidth, all slow down alike;
* what an op asks for is in its :class:`~vgcomp.cost_models.base.Phase` s. A kernel that fills all units leaves nothing,
  so two such kernels take as long as one after the other.

Units come free when a running block ends, which is soon beside a kernel's time: it is taken to be at once. So nothing
takes less time side by side than the longest engine alone, all units' seconds added up, or all of the memory's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vgcomp import ir
from vgcomp.cost_models.base import Phase
from vgcomp.stages import rounds

#: What is left of a phase when it counts as done.
_DONE = 1e-12

Chain = Sequence[Phase]


def together_s(chains: Sequence[Chain]) -> float:
    """Seconds until all engines are done; ``chains[e]`` is what engine e runs, in order."""
    left = [list(reversed(chain)) for chain in chains if chain]
    todo = [chain[-1].seconds for chain in left]
    now = 0.0
    while len(left) > 1:
        rates = _rates([chain[-1] for chain in left])
        step = min(seconds / rate for seconds, rate in zip(todo, rates, strict=True) if rate)
        now += step
        todo = [seconds - step * rate for seconds, rate in zip(todo, rates, strict=True)]
        for e in reversed(range(len(left))):
            if todo[e] > _DONE:
                continue
            left[e].pop()
            if left[e]:
                todo[e] = left[e][-1].seconds
            else:
                del left[e], todo[e]
    for chain, seconds in zip(left, todo, strict=True):
        now += seconds + sum(phase.seconds for phase in chain[:-1])
    return now


def _rates(running: Sequence[Phase]) -> list[float]:
    """How fast each phase goes on, 1 alone; the last has first claim."""
    free, rates = 1.0, [0.0] * len(running)
    for e in reversed(range(len(running))):
        units = running[e].units
        rates[e] = 1.0 if units <= free else free / units
        free = max(0.0, free - units * rates[e])
    taken = sum(phase.bandwidth * rate for phase, rate in zip(running, rates, strict=True))
    return [rate / taken for rate in rates] if taken > 1.0 else rates


def least_s(chains: Sequence[Chain]) -> float:
    """What :func:`together_s` is never below."""
    alone = max((sum(phase.seconds for phase in chain) for chain in chains), default=0.0)
    units = sum(phase.seconds * phase.units for chain in chains for phase in chain)
    return max(alone, units, sum(phase.seconds * phase.bandwidth for chain in chains for phase in chain))


def pipelined_s(work: Sequence[Sequence[Chain]], steps: Sequence[ir.Step], engines: Sequence[int]) -> float:
    """Seconds of all rounds of a loop. ``work[b][s]``: what stage s of body b runs; rounds alike are timed once."""
    alike = Counter(
        tuple((steps[i].body, stage) for stage, i in running) for running in rounds(len(steps), len(engines))
    )
    return sum(count * together_s(_by_engine(work, running, engines)) for running, count in alike.items())


def _by_engine(
    work: Sequence[Sequence[Chain]], running: Sequence[tuple[int, int]], engines: Sequence[int]
) -> list[list[Phase]]:
    chains: list[list[Phase]] = [[] for _ in range(max(engines) + 1)]
    for body, stage in running:
        chains[engines[stage]].extend(work[body][stage])
    return chains
