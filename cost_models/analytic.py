"""The analytic cost model: a roofline an op, with launch cost and what slicing does to it.

An op takes the longest of its arithmetic and its memory traffic, plus a launch; or the host's time to
issue it, if that is longer. To this the model adds the effects that decide how far slicing pays:

* **Waves.** A contraction is cut into output tiles, one a unit at a time. A slice with fewer tiles
  than the device has units, or a few more than a whole number of rounds, leaves units idle. Libraries
  have smaller tiles for that, at lower efficiency; the best size is taken (:mod:`~vgcomp.cost_models.kernels`).
  Elementwise kernels need a few thousand elements a unit to saturate memory.
* **Cache.** What fits half of the last cache is taken from it: the previous op has just written it.
  From there to the full size the credit fades out.
* **Weights** and broadcast inputs are read whole by every slice: between two slices of one op come all the
  other ops of its loop, with weights of their own.
* **Layouts** (GPUs). Tensor-core convolutions want channels side by side; what lies otherwise is copied before and
  after. Inputs that are read against their order, or broadcast, come at part of the memory's rate.
* **Statistics** (GPUs). A norm has one block of threads a group or row: few groups leave the memory idle, many short
  rows cost a block's own latency each.

Efficiencies are ours, of the usual size for PyTorch's libraries, except where a target's file has its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from vgcomp.cost_models import neural_engine
from vgcomp.cost_models.base import Bound, Cost, OpWork
from vgcomp.cost_models.kernels import arithmetic, efficiency
from vgcomp.cost_models.phases import phases_of
from vgcomp.errors import InternalError
from vgcomp.targets.target import Target

#: Of the memory's rate: reading against the order in memory (a transaction brings twice what is used), with an
#: address computed an element, and copying from one layout to another.
_STRIDED, _BROADCAST, _RELAYOUT = 0.5, 0.6, 0.7

#: Elements a unit must have in flight to saturate memory, and the occupancy that the least slice still gets.
_ELEMENTS_A_UNIT = 4096
_LEAST_OCCUPANCY = 1 / 64

#: A block of threads that takes a group's statistics, bytes a second: 512 threads, four loads of two bytes under way.
_GROUP_BYTES_PER_S = 7e9
#: A block that normalises one row: its latency (loads, two rounds of reduction, stores), and how many a unit holds.
_ROW_S, _ROWS_A_UNIT = 2.5e-6, 16

#: Tiles: 4032 * (1 / 14) is not to make one more than 288.
_ROUNDING = 1e-6

#: Share of the last cache up to which data is taken to be there still.
_CACHE_SHARE = 0.5

#: Entries kept before the memo starts anew.
_MEMO_LIMIT = 200_000


@dataclass(frozen=True, slots=True)
class Curve:
    """An op's seconds on one target as a function of the fraction of its elements that are computed."""

    #: Arithmetic that divides into slices of any size.
    fluid_s: float
    #: (tiles at fraction 1, seconds of one round of tiles over all units) a tile size.
    tiles: tuple[tuple[float, float], ...]
    units: int
    #: Elements a slice must have for full memory speed; 0 where any number will do.
    full_elements: float
    elements: float
    #: Bytes that scale with the fraction (re-reads included), bytes that do not, and the distinct ones that scale.
    traffic: float
    shared: float
    distinct: float
    memory_rate: float
    cache_rate: float
    cache_bytes: float
    launch_s: float
    host_s: float
    #: Bytes moved at the memory's rate before or after the kernel, scaled.
    copied: float = 0.0
    #: Statistics: how many, the bytes that they read, bytes a second that one block reads, and seconds that each takes
    #: beside all others.
    rows: float = 0.0
    row_bytes: float = 0.0
    row_rate: float = 0.0
    row_s: float = 0.0

    def seconds(self, fraction: float = 1.0) -> float:
        """Seconds for ``fraction`` (> 0) of the op's elements."""
        return max(self.device_s(fraction), self.host_s)

    def device_s(self, fraction: float = 1.0) -> float:
        """The device's part of :meth:`seconds`."""
        busy = max(self.compute_s(fraction), self.memory_s(fraction))
        return busy + self.copied * fraction / self.memory_rate + self.launch_s

    def compute_s(self, fraction: float) -> float:
        """Seconds of arithmetic: whole rounds of the tile size that suits best, and what needs no tiles."""
        seconds = self.fluid_s * fraction
        if not self.tiles:
            return seconds
        units = self.units
        return seconds + min(
            [math.ceil(math.ceil(tiles * fraction - _ROUNDING) / units) * round_s for tiles, round_s in self.tiles]
        )

    def memory_s(self, fraction: float) -> float:
        """Seconds of memory traffic."""
        byte_s = self._byte_s(fraction)
        shared_s = self.shared / self.memory_rate
        seconds = self.traffic * fraction * byte_s / self.occupancy(fraction) + shared_s
        if not self.rows:
            return seconds
        rows = max(1.0, self.rows * fraction)
        read = self.row_bytes * fraction
        late = max(0.0, read / (rows * self.row_rate) - read * byte_s) if self.row_rate else 0.0
        return max(seconds + late, rows * self.row_s)

    def occupancy(self, fraction: float) -> float:
        """Share of the memory's rate that so few elements reach."""
        if self.elements * fraction >= self.full_elements:
            return 1.0
        return max(_LEAST_OCCUPANCY, self.elements * fraction / self.full_elements)

    def _hit(self, fraction: float) -> float:
        """All of it from the cache up to the share, none from the full size on."""
        room = (self.distinct * fraction + self.shared) / self.cache_bytes
        return min(1.0, max(0.0, (1.0 - room) / (1.0 - _CACHE_SHARE)))

    def _byte_s(self, fraction: float) -> float:
        hit = self._hit(fraction)
        return hit / self.cache_rate + (1.0 - hit) / self.memory_rate

    def missed_s(self) -> float:
        """Seconds that the whole op's traffic takes of the memory alone, at the rate that its pattern reaches."""
        return (self.traffic * (1.0 - self._hit(1.0)) + self.shared) / self.memory_rate

    def statistics_s(self) -> float:
        """Seconds of the whole op in which groups too few for the memory are read; 0 where they are enough."""
        if not self.rows or not self.row_rate:
            return 0.0
        seconds = self.row_bytes / (max(1.0, self.rows) * self.row_rate)
        return seconds if seconds > self.row_bytes * self._byte_s(1.0) else 0.0

    def bound(self) -> Bound:
        """What the whole op spends most of its time on."""
        compute, memory = self.compute_s(1.0), self.memory_s(1.0) + self.copied / self.memory_rate
        if max(compute, memory) < max(self.launch_s, self.host_s - max(compute, memory)):
            return "launch"
        return "compute" if compute >= memory else "memory"


class AnalyticModel:
    """The roofline above; see :class:`~vgcomp.cost_models.base.CostModel`.

    With a ``target`` given it also answers :meth:`seconds_at`, for planners.
    """

    name = "analytic"

    def __init__(self, target: Target | None = None) -> None:
        self.target = target
        self._curves: dict[tuple[OpWork, Target], Curve] = {}
        self._own: dict[OpWork, Curve] = {}
        self._costs: dict[tuple[OpWork, Target], Cost] = {}

    def op_seconds(self, work: OpWork, target: Target) -> Cost:
        """The cost of one run of the op; nothing for a view."""
        key = (work, target)
        cost = self._costs.get(key)
        if cost is None:
            cost = self._cost(work, target)
            _make_room(self._costs)
            self._costs[key] = cost
        return cost

    def seconds_at(self, work: OpWork, fraction: float) -> float:
        """Seconds for the same op on ``fraction`` (> 0) of its elements, on the model's own target.

        Weights and broadcast inputs are not scaled. ``seconds_at(work, 1.0)`` is ``op_seconds``' figure.
        """
        if work.kind == "view":
            return 0.0
        curve = self._own.get(work)
        if curve is None:
            if self.target is None:
                raise InternalError("seconds_at needs a model with a target: AnalyticModel(target)")
            _make_room(self._own)
            curve = self._own[work] = self.curve(work, self.target)
        return curve.seconds(fraction)

    def curve(self, work: OpWork, target: Target) -> Curve:
        """The op's coefficients on a target, for callers that evaluate many fractions."""
        key = (work, target)
        curve = self._curves.get(key)
        if curve is None:
            _make_room(self._curves)
            curve = self._curves[key] = _curve(work, target)
        return curve

    def _cost(self, work: OpWork, target: Target) -> Cost:
        source = f"{self.name}:{target.name}"
        if work.is_free:
            return Cost(0.0, "launch", source)
        curve = self.curve(work, target)
        phases = phases_of(curve) if target.kind == "cuda" else ()
        return Cost(curve.seconds(), curve.bound(), source, curve.device_s(), phases=phases)


def _make_room(
    memo: dict[OpWork, Curve] | dict[tuple[OpWork, Target], Curve] | dict[tuple[OpWork, Target], Cost],
) -> None:
    if len(memo) >= _MEMO_LIMIT:
        memo.clear()


def _curve(work: OpWork, target: Target) -> Curve:
    if target.kind == "ane":
        return _engine_curve(work, target)
    gpu = target.kind == "cuda"
    full = target.memory_bytes_per_s * efficiency(target, "memory")
    share = _memory_share(work, gpu)
    scaled = work.bytes_read - work.shared_bytes
    made = arithmetic(work, target)
    copied = 2.0 * work.relayout_bytes / _RELAYOUT * share if gpu and _is_copied(work, target) else 0.0
    return Curve(
        fluid_s=made.fluid_s,
        tiles=made.tiles,
        units=target.units,
        full_elements=float(target.units * _ELEMENTS_A_UNIT) if gpu else 0.0,
        elements=max(work.out_elements, scaled / work.dtype.itemsize),
        traffic=scaled * work.reads + work.bytes_written + work.scratch_bytes,
        shared=work.shared_bytes,
        distinct=scaled + work.bytes_written + work.scratch_bytes,
        memory_rate=full * share,
        cache_rate=target.cache_bytes_per_s * efficiency(target, "memory") * share,
        cache_bytes=float(target.cache_bytes),
        # A copy into another layout, and one back.
        launch_s=target.launch_s * (3 if copied and work.kind == "conv" else 2 if copied else 1),
        host_s=target.host_issue_s,
        copied=copied,
        **(_statistics(work, target, scaled) if gpu else {}),
    )


def _memory_share(work: OpWork, gpu: bool) -> float:
    if work.strided:
        return _STRIDED
    return _BROADCAST if work.broadcast and gpu else 1.0


def _is_copied(work: OpWork, target: Target) -> bool:
    """Vector units take any layout, and run what matrix units do not."""
    if work.kind != "conv":
        return work.relayout_bytes > 0.0
    if work.dtype == torch.float32 and target.tf32_flops_per_s is None:
        return False
    return work.form != "depthwise" and work.dtype != torch.float64


def _statistics(work: OpWork, target: Target, read: float) -> dict[str, float]:
    """A norm's rows. Groups are long, a block each (they read twice); rows are short, many at a time."""
    if not work.rows:
        return {}
    if work.reads > 1:
        return {"rows": float(work.rows), "row_bytes": read, "row_rate": _GROUP_BYTES_PER_S}
    return {"rows": float(work.rows), "row_s": _ROW_S / (target.units * _ROWS_A_UNIT)}


def _engine_curve(work: OpWork, target: Target) -> Curve:
    """The Neural Engine: one rate by shape and alignment, intermediates cut into its tiles, weights from memory."""
    made = neural_engine.engine_work(work, target)
    return Curve(
        fluid_s=made.arithmetic_s,
        tiles=(),
        units=target.units,
        full_elements=0.0,
        elements=float(work.out_elements),
        traffic=made.traffic,
        shared=work.shared_bytes,
        distinct=made.traffic,
        memory_rate=target.memory_bytes_per_s * efficiency(target, "memory"),
        cache_rate=target.cache_bytes_per_s * efficiency(target, "memory"),
        cache_bytes=float(target.cache_bytes),
        launch_s=target.launch_s,
        host_s=target.host_issue_s,
    )
