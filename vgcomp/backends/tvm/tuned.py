"""Tuned schedules: MetaSchedule databases of what was measured, by workload, a folder for each kind of processor.

A workload is a kernel with its slices' positions at 0, so that bodies whose slices lie elsewhere share it. The user's
own records (``$XDG_CACHE_HOME/vgcomp/tuned``) go before those that ship with the package.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vgcomp.backends.tvm.kernel import Built

#: What ships.
SHIPPED = Path(__file__).parent / "tuned"
#: Seconds that stand for a schedule that does not compile or does not run, as MetaSchedule has it.
FAILED = 1e9
#: Families of kernels that have decisions to take.
TUNABLE = ("gemm",)


def own_folder(device: str) -> Path:
    """The user's records for a processor, such as ``znver5``."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "vgcomp" / "tuned" / device


def database(folder: Path) -> Any:
    """The database in a folder, which is made if need be; records are in its files as soon as they are added."""
    from tvm.s_tir import meta_schedule as ms

    folder.mkdir(parents=True, exist_ok=True)
    return ms.database.JSONDatabase(str(folder / "workloads.json"), str(folder / "records.json"))


def workload(built: Built) -> Any:
    """A kernel as a workload: the module that is tuned."""
    import tvm
    from tvm import tirx

    function = built.function
    scalars = [p for p in function.params if is_scalar(p)]
    zero = {p: tirx.const(0, "int64") for p in scalars}
    function = function.specialize(zero) if zero else function
    return tvm.IRModule({"main": function.with_attr("global_symbol", "main")})


def is_scalar(parameter: Any) -> bool:
    """True for a slice's position among a kernel's parameters, which are tensors otherwise."""
    return type(parameter.ty).__name__ == "PrimType"


class Tuned:
    """Looks schedules up in databases, the first that has one."""

    def __init__(self, databases: Sequence[Any]) -> None:
        self._databases = databases
        #: Kernels that were found.
        self.found = 0

    @classmethod
    def of(cls, device: str) -> Tuned:
        """All records for a processor."""
        folders = [folder for folder in (own_folder(device), SHIPPED / device) if (folder / "records.json").is_file()]
        return cls([database(folder) for folder in folders])

    def scheduled(self, built: Built) -> Any | None:
        """The kernel's function with the best schedule known; None where nothing was measured."""
        if built.family not in TUNABLE or not self._databases:
            return None
        module = workload(built)
        best = next((r for r in (best_record(db, module) for db in self._databases) if r is not None), None)
        if best is None:
            return None
        from tvm import s_tir

        schedule = s_tir.Schedule(built.function)
        best.trace.apply_to_schedule(schedule, remove_postproc=False)
        self.found += 1
        return schedule.mod["main"].with_attr("global_symbol", built.function.attrs["global_symbol"])


def best_record(db: Any, module: Any) -> Any | None:
    """The fastest record of a workload that ran."""
    if not db.has_workload(module):
        return None
    found = db.get_top_k(db.commit_workload(module), 1)
    return found[0] if found and seconds_of(found[0]) < FAILED else None


def seconds_of(record: Any) -> float:
    """A record's median."""
    runs = sorted(float(s) for s in record.run_secs or [FAILED])
    return runs[len(runs) // 2]


def distil(source: Path, folder: Path) -> int:
    """Copies the fastest record of each workload, for what ships; how many there are."""
    given, made = database(source), database(folder)
    best: dict[Any, Any] = {}
    for record in given.get_all_tuning_records():
        key = record.workload
        if seconds_of(record) < seconds_of(best.get(key, _Never)):
            best[key] = record
    for record in best.values():
        made.commit_workload(record.workload.mod)
        made.commit_tuning_record(record)
    return len(best)


class _Never:
    """A record that nothing is slower than."""

    run_secs = (FAILED,)
