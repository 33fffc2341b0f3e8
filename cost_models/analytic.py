"""The analytic cost model: a roofline an op, with launch cost and what slicing does to it.

An op takes the longest of its arithmetic and its memory traffic, plus a launch; or the host's time to
issue it, if that is longer. To this the model adds the three effects that decide how far slicing pays:

* **Waves.** A contraction is cut into output tiles, one a unit at a time. A slice with fewer tiles
  than the device has units, or a few more than a whole number of rounds, leaves units idle. Libraries
  have smaller tiles for that, at lower efficiency; the best of four sizes is taken. Elementwise
  kernels need a few thousand elements a unit to saturate memory.
* **Cache.** What fits half of the last cache is taken from it: the previous op has just written it.
  From there to the full size the credit fades out.
* **Weights** and broadcast inputs are read whole by every slice: between two slices of one op come all the
  other ops of its loop, with weights of their own.

Efficiencies are ours, of the usual size for PyTorch's libraries, and the same for all devices except
where a target's file has measured ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vgcomp.cost_models.base import Bound, Cost, OpWork
from vgcomp.errors import InternalError
from vgcomp.targets.target import EfficiencyKind, Target

#: Fraction of the peak that large, well-shaped ops reach.
_EFFICIENCY: dict[EfficiencyKind, float] = {"conv": 0.55, "matmul": 0.75, "attention": 0.5, "memory": 0.85}

#: Reading against the order in memory: a transaction brings twice what is used, tiled transposes being the rule.
_STRIDED = 0.5

#: (rows, columns, efficiency relative to the largest) of the output tiles that libraries have kernels for.
_TILES = ((128, 128, 1.0), (128, 64, 0.92), (64, 64, 0.75), (32, 32, 0.4))
#: A tile's inner step: shorter contractions are padded to it.
_TILE_K = 32
#: A tile with fewer than this many inner steps does not hide its prologue.
_PROLOGUE_K = 64
#: Elements a unit must have in flight to saturate memory, and the occupancy that the least slice still gets.
_ELEMENTS_A_UNIT = 4096
_LEAST_OCCUPANCY = 1 / 64

#: Of the vector rate, what depthwise convolutions reach.
_DEPTHWISE = 0.15

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

    def seconds(self, fraction: float = 1.0) -> float:
        """Seconds for ``fraction`` (> 0) of the op's elements."""
        busy = max(self.compute_s(fraction), self.memory_s(fraction))
        return max(busy + self.launch_s, self.host_s)

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
        occupancy = 1.0
        if self.elements * fraction < self.full_elements:
            occupancy = max(_LEAST_OCCUPANCY, self.elements * fraction / self.full_elements)
        room = (self.distinct * fraction + self.shared) / self.cache_bytes
        # All of it from the cache up to the share, none from the full size on.
        hit = min(1.0, max(0.0, (1.0 - room) / (1.0 - _CACHE_SHARE)))
        byte_s = hit / self.cache_rate + (1.0 - hit) / self.memory_rate
        shared_s = self.shared / self.memory_rate
        return self.traffic * fraction * byte_s / occupancy + shared_s

    def bound(self) -> Bound:
        """What the whole op spends most of its time on."""
        compute, memory = self.compute_s(1.0), self.memory_s(1.0)
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
        return Cost(curve.seconds(), curve.bound(), source)


def _make_room(
    memo: dict[OpWork, Curve] | dict[tuple[OpWork, Target], Curve] | dict[tuple[OpWork, Target], Cost],
) -> None:
    if len(memo) >= _MEMO_LIMIT:
        memo.clear()


def _curve(work: OpWork, target: Target) -> Curve:
    memory = _efficiency(target, "memory") * (_STRIDED if work.strided else 1.0)
    scaled = work.bytes_read - work.shared_bytes
    matrix_s = _matrix_s(work, target)
    # A CPU's vector registers are short and its cores few: neither padding nor rounds matter.
    tiled = matrix_s > 0.0 and target.kind != "cpu" and not _is_depthwise(work)
    return Curve(
        fluid_s=(work.flops - work.matrix_flops) / target.vector_flops_per_s() + (0.0 if tiled else matrix_s),
        tiles=_tiles(work, target, matrix_s) if tiled else (),
        units=target.units,
        full_elements=0.0 if target.kind == "cpu" else float(target.units * _ELEMENTS_A_UNIT),
        elements=max(work.out_elements, scaled / work.dtype.itemsize),
        traffic=scaled * work.reads + work.bytes_written,
        shared=work.shared_bytes,
        distinct=scaled + work.bytes_written,
        memory_rate=target.memory_bytes_per_s * memory,
        cache_rate=target.cache_bytes_per_s * memory,
        cache_bytes=float(target.cache_bytes),
        launch_s=target.launch_s,
        host_s=target.host_issue_s,
    )


def _efficiency(target: Target, kind: EfficiencyKind) -> float:
    return target.efficiency.get(kind, _EFFICIENCY[kind])


def _is_depthwise(work: OpWork) -> bool:
    """Nothing for matrix units to share: vector units run it."""
    return work.kind == "conv" and work.n == 1 and work.batch > 1


def _matrix_s(work: OpWork, target: Target) -> float:
    """Seconds of the contraction on a device that it fills."""
    rate = target.matrix_flops_per_s(work.dtype)
    if _is_depthwise(work):
        return work.matrix_flops / min(rate, target.vector_flops_per_s() * _DEPTHWISE)
    kind: EfficiencyKind = work.kind if work.kind in ("conv", "attention") else "matmul"
    return work.matrix_flops / (rate * _efficiency(target, kind))


def _tiles(work: OpWork, target: Target, seconds: float) -> tuple[tuple[float, float], ...]:
    """(tiles, seconds of a round over all units) a tile size, from the contraction's ``seconds``."""
    found = []
    for rows, columns, efficiency in _TILES:
        tiles, filled = _tiling(work, rows, columns)
        found.append((tiles, seconds * target.units / (efficiency * filled * tiles)))
    return tuple(found)


def _tiling(work: OpWork, rows: int, columns: int) -> tuple[float, float]:
    """Tiles of that size, and the share of their multiply-adds that is not padding.

    The rows of a single product are not padded here: a slice has a fraction of them, and its last tile is
    counted as a whole one then.
    """
    down = work.m / rows
    filled = work.k / _padded(work.k, _TILE_K)
    if work.batch > 1:
        down = math.ceil(down)
        filled *= work.m / (down * rows)
    if work.kind == "attention":
        # A tile is a block of queries: keys and values, all of them, pass through it.
        return work.batch * down, filled
    across = math.ceil(work.n / columns)
    filled *= work.n / (across * columns) * min(1.0, work.k / _PROLOGUE_K + 0.25)
    return work.batch * down * across, filled


def _padded(size: int, step: int) -> int:
    return max(1, -(-size // step)) * step
