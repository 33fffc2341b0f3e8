"""What tuning measured, for the measured cost model: a table of calls beside each database, ``<target>.csv``.

The format is that of profiled ops (:mod:`vgcomp.cost_models.table`), its driver TVM: what an op takes in the schedule
that an artifact gets. ``vgcomp optimize --emit tvm --cost-model measured`` plans by it.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from vgcomp.backends.tvm.tuned import FAILED, SHIPPED, own_folder
from vgcomp.cost_models.calls import Call
from vgcomp.cost_models.measured import MeasuredModel
from vgcomp.cost_models.table import Metadata, Table, Timing, Units, read_table
from vgcomp.files import atomic_write

if TYPE_CHECKING:
    from vgcomp.backends.tvm.tune import Task
    from vgcomp.targets import Target


def keep_times(tasks: Iterable[Task], target: str, device: str, folder: Path) -> None:
    """Writes the best time of each task that ran into the folder's table, beside what that holds of others.

    Raises UsageError where the table there is damaged or of another target.
    """
    measured = ((call, task) for task in tasks for call in task.dialect_calls if task.tried and task.best < FAILED)
    rows = {call: Timing(task.best, 0.0, len(task.tried)) for call, task in measured}
    path = folder / f"{target}.csv"
    if not rows:
        return
    head = Metadata(
        target=target,
        device=device,
        threads=int(os.environ.get("TVM_NUM_THREADS") or os.cpu_count() or 1),
        driver=f"apache-tvm {metadata.version('apache-tvm')}",
        torch=metadata.version("torch"),
        date=datetime.date.today().isoformat(),
        units=Units(),
    )
    table = Table(head, rows)
    if path.is_file():
        table = read_table(path).updated(table)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(path, table.text())


def known_times(target: str, device: str) -> Mapping[Call, Timing]:
    """What is known of a processor's tuned kernels: the user's own times go before those that ship."""
    found: dict[Call, Timing] = {}
    for folder in (SHIPPED / device, own_folder(device)):
        path = folder / f"{target}.csv"
        found.update(read_table(path).rows if path.is_file() else {})
    return found


def tuned_model(target: Target, device: str) -> MeasuredModel:
    """The target's measured model, which takes tuned kernels at the time that they were measured to take."""
    return MeasuredModel(target, tuned=known_times(target.name, device))
