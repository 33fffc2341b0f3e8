"""What an op leaves of a GPU for another one beside it: its time in phases, from the same curve as its seconds.

* Between kernels of one stream the device is empty: that is the launch.
* A contraction's blocks fill all units in whole rounds; in its last round they fill what is left over. Blocks are
  handed to units in the order in which kernels come, so nothing starts beside a kernel that still has blocks to hand
  out (G. Smith of NVIDIA, stackoverflow.com/q/11874244).
* A norm's statistics have a block a group: few groups hold few units.
* An elementwise kernel too small to fill the device holds the units that its elements fill; others hold all.
* The memory's rate is shared: what misses the cache counts, at the rate that its access pattern reaches.

A kernel is taken to have a unit to itself: that small blocks of two kernels may share one is left out, and so is what
two kernels lose by sharing caches. The first makes the figures low, the second high.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vgcomp.cost_models.base import Phase

if TYPE_CHECKING:
    from vgcomp.cost_models.analytic import Curve


def phases_of(curve: Curve) -> tuple[Phase, ...]:
    """The phases of a whole op; their seconds add up to ``curve.device_s()``."""
    compute, memory = curve.compute_s(1.0), curve.memory_s(1.0)
    busy, moved = max(compute, memory), curve.missed_s()
    found = [Phase(curve.launch_s, 0.0, 0.0)]
    if curve.copied:
        found.append(Phase(curve.copied / curve.memory_rate))
    statistics = min(busy, curve.statistics_s())
    if statistics:
        read = min(1.0, curve.row_bytes / curve.memory_rate / statistics)
        found.append(Phase(statistics, min(1.0, curve.rows / curve.units), read))
        moved = max(0.0, moved - read * statistics)
    rest = busy - statistics
    if rest <= 0.0:
        return tuple(found)
    bandwidth = min(1.0, moved / rest)
    tail, share = _last_round(curve) if curve.tiles else (1.0, curve.occupancy(1.0))
    if tail < 1.0:
        found.append(Phase(rest * (1.0 - tail), 1.0, bandwidth))
    found.append(Phase(rest * tail, share, bandwidth))
    return tuple(found)


def _last_round(curve: Curve) -> tuple[float, float]:
    """Of a contraction's time, the part that its last round takes; of the units, the part that this round fills."""
    best = min(curve.tiles, key=lambda tile: math.ceil(tile[0] / curve.units) * tile[1])
    tiles = math.ceil(best[0])
    rounds = math.ceil(tiles / curve.units)
    return 1.0 / rounds, (tiles - (rounds - 1) * curve.units) / curve.units
