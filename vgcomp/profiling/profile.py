"""Profiles ops in groups and keeps what was measured, even of a run that is interrupted."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from vgcomp.cost_models.base import Overhead
from vgcomp.cost_models.calls import Call
from vgcomp.cost_models.table import Metadata, Table, Timing, Units, overhead_fields
from vgcomp.profiling.calls import data_bytes
from vgcomp.profiling.runner import Runner
from vgcomp.targets import Target

#: Calls timed in turns: more take longer to see the first result, fewer find each other's data in the cache.
_GROUP_CALLS, _GROUP_BYTES = 600, 1 << 30
REPEATS = 15


def profile(
    calls: Sequence[Call],
    runner: Runner,
    target: Target,
    *,
    overhead: Overhead | None = None,
    repeats: int = REPEATS,
    progress: Callable[[str, float], None] = lambda stage, fraction: None,
    keep: Callable[[Table], None] = lambda table: None,
) -> Table:
    """The table of the calls' timings; of a call that is there several times, the median.

    ``overhead``: the runtime's own seconds, where the device runs it. ``keep`` is handed the table so far if the
    run is interrupted, and only then.
    """
    timings: dict[Call, list[Timing]] = {}
    done = 0
    try:
        for group in _groups(calls):
            progress(f"timing {len(calls)} ops", done / len(calls))
            for call, timing in zip(group, runner.time(group, repeats), strict=True):
                timings.setdefault(call, []).append(timing)
            done += len(group)
    except KeyboardInterrupt:
        if timings:
            keep(Table(_metadata(runner, target, overhead), _medians(timings)))
        raise
    return Table(_metadata(runner, target, overhead), _medians(timings))


def _medians(timings: Mapping[Call, Sequence[Timing]]) -> dict[Call, Timing]:
    return {
        call: Timing(
            statistics.median(timing.seconds for timing in found),
            statistics.median(timing.spread for timing in found),
            sum(timing.repeats for timing in found),
        )
        for call, found in timings.items()
    }


def _groups(calls: Sequence[Call]) -> Iterator[list[Call]]:
    """Consecutive calls whose data fits into memory together."""
    group: list[Call] = []
    held = 0
    for call in calls:
        size = data_bytes(call)
        if group and (len(group) == _GROUP_CALLS or held + size > _GROUP_BYTES):
            yield group
            group, held = [], 0
        group.append(call)
        held += size
    if group:
        yield group


def _metadata(runner: Runner, target: Target, overhead: Overhead | None) -> Metadata:
    device = runner.device
    return Metadata(
        target=target.name,
        device=device.name,
        threads=device.threads,
        driver=device.driver,
        torch=torch.__version__,
        date=datetime.date.today().isoformat(),
        units=Units(),
        overhead={} if overhead is None else overhead_fields(overhead),
    )
