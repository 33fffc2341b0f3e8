"""The measured cost model: a table of profiled ops, looked up, interpolated, and the analytic model beyond.

An op is looked up by its exact call (shapes, strides, dtypes, attributes). One that the table does not hold is
the analytic model's, corrected by what was learned from the ops that it does hold
(:mod:`vgcomp.cost_models.interpolation`); where an op was hardly measured or is far from all that was, the
analytic figure stands. A cost's ``source`` says which: ``measured:cpu``, ``interpolated:cpu``, ``analytic:cpu``;
``tuned:cpu`` where an artifact's own kernel was timed.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from vgcomp.cost_models.analytic import AnalyticModel
from vgcomp.cost_models.base import Cost, OpWork, Overhead
from vgcomp.cost_models.calls import Call, parse, spell
from vgcomp.cost_models.interpolation import Correction, fit
from vgcomp.cost_models.table import Table, Timing, load_table
from vgcomp.cost_models.work import work_of
from vgcomp.errors import InternalError, UsageError
from vgcomp.targets.target import Target


class MeasuredModel:
    """Costs from a target's table; see :class:`~vgcomp.cost_models.base.CostModel`.

    ``table`` None is the target's own. ``tuned``: seconds of calls in a compiled artifact's own schedules, which go
    before the table (source ``tuned:cpu``). Raises UsageError where there is no table, it is damaged or another
    device's.
    """

    name = "measured"

    def __init__(
        self, target: Target, table: Table | None = None, tuned: Mapping[Call, Timing] = MappingProxyType({})
    ) -> None:
        self.target = target
        self._tuned = tuned
        self.table = load_table(target.name) if table is None else table
        if self.table.metadata.target != target.name:
            raise UsageError(
                f"{self.table.path or 'the table'}: target is {self.table.metadata.target!r}, not {target.name!r}: "
                "it is another device's table"
            )
        self._analytic = AnalyticModel(target)
        self._costs: dict[OpWork, Cost] = {}
        self._parts: dict[tuple[OpWork, float], float] = {}

    @property
    def overhead(self) -> Overhead:
        """The runtime's own seconds, as measured with the table."""
        return self.table.overhead

    def check(self) -> None:
        """Reads every row's call. Raises UsageError, naming the file and the column, for one that is none."""
        _ = self._known

    def op_seconds(self, work: OpWork, target: Target) -> Cost:
        """The cost of one run of the op, the runtime's call included."""
        if target != self.target:
            raise InternalError(f"a table of {self.target.name} was asked about {target.name}")
        cost = self._costs.get(work)
        if cost is None:
            cost = self._costs[work] = self._cost(work)
        return cost

    def seconds_at(self, work: OpWork, fraction: float) -> float:
        """Seconds for ``fraction`` (> 0) of the op's elements; see :meth:`AnalyticModel.seconds_at`.

        The learned correction at both sizes carries what was measured of the whole op over to its part.
        """
        if fraction >= 1.0 or work.is_free:
            return self.op_seconds(work, self.target).seconds
        found = self._parts.get((work, fraction))
        if found is None:
            found = self._parts[work, fraction] = self._part(work, fraction)
        return found

    def _part(self, work: OpWork, fraction: float) -> float:
        whole = self.op_seconds(work, self.target).seconds - self.overhead.call_s
        part = _scaled(work, fraction)
        if self.correction is None or not (self.correction.covers(work) and self.correction.covers(part)):
            share = self._analytic.seconds_at(work, fraction) / self._analytic.seconds_at(work, 1.0)
            return whole * share + self.overhead.call_s
        share = self._corrected(part) / self._corrected(work)
        return whole * share + self.overhead.call_s

    def _cost(self, work: OpWork) -> Cost:
        analytic = self._analytic.op_seconds(work, self.target)
        call = None if work.call is None else spell(work.call)
        tuned, timing = (None, None) if call is None else (self._tuned.get(call), self.table.rows.get(call))
        call_s = self.overhead.call_s
        if tuned is not None:
            return Cost(tuned.seconds + call_s, analytic.bound, f"tuned:{self.target.name}")
        if timing is not None:
            spread = timing.spread / timing.seconds
            return Cost(timing.seconds + call_s, analytic.bound, f"measured:{self.target.name}", spread=spread)
        if work.is_free:
            return self._view(work)
        if self.correction is None or not self.correction.covers(work):
            return replace(analytic, seconds=analytic.seconds + call_s, device_s=None)
        seconds, spread = self._corrected(work), self.correction.spread(work)
        return Cost(seconds + call_s, analytic.bound, f"interpolated:{self.target.name}", spread=spread)

    def _corrected(self, work: OpWork) -> float:
        assert self.correction is not None
        seconds = self._analytic.curve(work, self.target).seconds()
        return seconds * float(self.correction.factors([work], self._analytic, self.target)[0])

    def _view(self, work: OpWork) -> Cost:
        """A view costs what others of its op cost: nothing of it depends on sizes."""
        seconds = self._views.get(work.target)
        kind = "analytic" if seconds is None else "interpolated"
        return Cost((seconds or 0.0) + self.overhead.call_s, "launch", f"{kind}:{self.target.name}")

    @functools.cached_property
    def _known(self) -> dict[Call, OpWork]:
        return {call: _work(self.table, call) for call in self.table.rows}

    @functools.cached_property
    def _views(self) -> dict[Any, float]:
        """Median seconds of the views that were measured, by op."""
        found: dict[Any, list[float]] = {}
        for call, work in self._known.items():
            if work.is_free:
                found.setdefault(work.target, []).append(self.table.rows[call].seconds)
        return {op: statistics.median(seconds) for op, seconds in found.items()}

    @functools.cached_property
    def correction(self) -> Correction | None:
        """What was learned from the table; None from one that is too small. Fitted when first needed."""
        known = [(work, self.table.rows[call].seconds) for call, work in self._known.items() if not work.is_free]
        if len(known) < 2:
            return None
        works, seconds = zip(*known, strict=True)
        return fit(works, seconds, self._analytic, self.target)


def _work(table: Table, call: Call) -> OpWork:
    try:
        parsed = parse(call)
        return work_of(parsed.target, parsed.args, parsed.kwargs, parsed.out)
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        what = error if isinstance(error, ValueError) else f"column 'arguments': {call.op} does not take them"
        raise UsageError(f"{table.path or 'the table'}: {call.op}: {what}") from None


def _scaled(work: OpWork, fraction: float) -> OpWork:
    """The work of ``fraction`` of the op's elements, laid out as the whole; what a slice reads whole is not scaled."""
    read = (work.bytes_read - work.shared_bytes) * fraction + work.shared_bytes
    return replace(
        work,
        flops=work.flops * fraction,
        matrix_flops=work.matrix_flops * fraction,
        bytes_read=read,
        bytes_written=work.bytes_written * fraction,
        out_elements=max(1, math.ceil(work.out_elements * fraction)),
        m=max(1, math.ceil(work.m * fraction)) if work.m else 0,
        rows=math.ceil(work.rows * fraction),
        relayout_bytes=work.relayout_bytes * fraction,
        scratch_bytes=work.scratch_bytes * fraction,
    )
