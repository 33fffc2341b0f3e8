"""The tuner's own process: reads a saved Program and measures schedules until its time is up.

    python -m vgcomp.backends.tvm.tune_worker FOLDER

FOLDER holds ``program/`` and ``tune.json``. Each line that is written to the standard output is a JSON object: what is
being tuned and how far it is. A candidate that ends the process is recorded as failed when the parent starts it again.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from vgcomp.backends.tvm import measure, tuned
from vgcomp.backends.tvm.compile import host_target
from vgcomp.backends.tvm.lower import lower
from vgcomp.backends.tvm.tune import Search, Task, tasks_of
from vgcomp.backends.tvm.tuned_times import keep_times
from vgcomp.errors import VgcompError
from vgcomp.program import Program
from vgcomp.targets import load_target


def run(folder: Path) -> dict[str, Any]:
    """Tunes; the answer: workloads, schedules measured, seconds."""
    given = json.loads((folder / "tune.json").read_text(encoding="utf-8"))
    begin = time.monotonic()
    lowered = lower(Program.load(folder / "program"))
    target, described = host_target()
    tasks = tasks_of(lowered, load_target(given["target"]))
    records = Path(given["database"] or tuned.own_folder(described["mcpu"]))
    database = tuned.database(records)
    timer = measure.Remote(given["rpc"], target) if given["rpc"] else measure.Local(target)
    search = Search(database, target, timer, lambda: time.monotonic() > begin + given["seconds"], folder / "current")

    def tell(task: Task) -> None:
        line = {"kernel": task.name, "best_s": task.best, "tried": len(task.tried), "trials": search.trials}
        print(json.dumps(line), flush=True)

    search.run(tasks, tell)
    keep_times(tasks, given["target"], described["mcpu"], records)
    return {"workloads": len(tasks), "trials": search.trials, "seconds": time.monotonic() - begin}


def main(folder: Path) -> None:
    """Tunes and leaves the answer."""
    try:
        answer = run(folder)
    except VgcompError as error:
        answer = {"error": str(error), "kind": type(error).__name__}
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
