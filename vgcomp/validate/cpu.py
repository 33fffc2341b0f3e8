"""Latencies of small networks on a CPU, measured by ``tests/benchmarks/cpu_latency.py``, from ops of other networks.

The figures and the predictions are those that the benchmark recorded together, with the table of that day: scaled by
how much longer the table's own ops took when the networks were timed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vgcomp import cost_models
from vgcomp.errors import InternalError
from vgcomp.validate.row import Context, Row

TARGET = "cpu-1"
#: Written by the benchmark.
PATH = Path(cost_models.__file__).parent / "tables" / "cpu-1-latency.json"


def cpu_rows(context: Context) -> Iterator[Row]:
    """Networks whose ops were not profiled together, as they are and sliced."""
    if not context.wants(TARGET):
        return
    recorded = _recorded()
    table = recorded["table"]
    source = (
        f"measured here, {table['device']}, {table['threads']} threads, {recorded['date']}; ops of the table took "
        f"{recorded['drift']:.2f} times as long that day"
    )
    for case in recorded["cases"]:
        yield Row(
            name=f"{case['name']}, {case['form']}",
            target=TARGET,
            quantity="latency_s",
            figure=case["measured"],
            predicted=case["predicted"],
            source=source,
            role="held-out",
        )


def _recorded() -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InternalError(f"{PATH} is not there or damaged: {error}") from None
    return found
