"""Tuning: schedules of a network's kernels are measured, those first in which the simulator sees the time go.

Each decision of a schedule is a categorical sample of its trace. The search climbs from the best schedule known, one
decision at a time, then looks at random ones; what was measured goes into the database at once, so that a search that
was killed goes on where it was. Runs in :mod:`vgcomp.backends.tvm.tune_worker`, a process of its own.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vgcomp.backends.tvm.lower import Lowered
from vgcomp.backends.tvm.schedule_gemm import Choices, schedule_gemm
from vgcomp.backends.tvm.storage import Value
from vgcomp.backends.tvm.tuned import FAILED, TUNABLE, seconds_of, workload
from vgcomp.cost_models import OpWork, named_model
from vgcomp.cost_models.calls import Call, spell
from vgcomp.cost_models.work import work_of
from vgcomp.targets import Target

#: Schedules of one kernel before it has to be worth more.
MOST_TRIALS = 48
#: Trials of a kernel in a row.
ROUND = 8

#: Seconds of a scheduled module, or None where it does not compile or run.
Measure = Callable[[Any], list[float] | None]


@dataclass
class Task:
    """A kernel to be tuned. ``calls``: in one run. ``simulated``: seconds of one call, as the simulator has them."""

    name: str
    module: Any
    calls: int
    simulated: float
    tried: dict[tuple[int, ...], float] = field(default_factory=dict)
    #: Calls of the dialect that it computes, as cost models spell them.
    dialect_calls: set[Call] = field(default_factory=set)

    @property
    def best(self) -> float:
        """Seconds of one call; simulated until something was measured."""
        return min(self.tried.values(), default=self.simulated)

    @property
    def worth(self) -> float:
        """Seconds of a run that may be won, as far as is known: less with each trial."""
        return self.calls * self.best / (1 + len(self.tried) / ROUND)


def tasks_of(lowered: Lowered, target: Target) -> list[Task]:
    """Distinct workloads, the longest simulated first."""
    found: dict[str, Task] = {}
    for name, built in lowered.kernels.items():
        if built.family not in TUNABLE:
            continue
        module, work = workload(built), _work(lowered, name)
        task = found.setdefault(module.script(), Task(name, module, 0, _simulated(work, target)))
        task.calls += lowered.calls.get(name, 0)
        if work.call is not None:
            task.dialect_calls.add(spell(work.call))
    return sorted(found.values(), key=lambda task: -task.calls * task.simulated)


def _work(lowered: Lowered, name: str) -> OpWork:
    run = lowered.examples[name]
    return work_of(run.target, _meta(run.args), _meta(run.kwargs), _meta(run.out))


def _simulated(work: OpWork, target: Target) -> float:
    return named_model("analytic", target).op_seconds(work, target).seconds


def _meta(value: Any) -> Any:
    """Tensors without data for values."""
    if isinstance(value, Value):
        return torch.empty(value.view.shape, dtype=value.dtype, device="meta")
    if isinstance(value, Mapping):
        return {key: _meta(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_meta(entry) for entry in value)
    return value


@dataclass
class Decisions:
    """Takes decisions by number and notes how many each could be."""

    chosen: tuple[int, ...]
    sizes: list[int] = field(default_factory=list)

    def __call__(self, schedule: Any, choices: Choices) -> Any:
        """The next decision; what there is no choice in is no decision."""
        n = len(choices.values)
        if n == 1:
            return choices.values[0]
        k = self.chosen[len(self.sizes)] if len(self.sizes) < len(self.chosen) else 0
        self.sizes.append(n)
        return schedule.sample_categorical(list(choices.values), [1.0 / n] * n, decision=min(k, n - 1))


def candidate(module: Any, chosen: tuple[int, ...]) -> tuple[Any, tuple[int, ...]]:
    """The schedule of some decisions, the first ones for those not named, and how many each could be."""
    from tvm import s_tir

    schedule, decisions = s_tir.Schedule(module), Decisions(chosen)
    schedule_gemm(schedule, decisions)
    return schedule, tuple(decisions.sizes)


def proposals(
    sizes: tuple[int, ...], tried: Mapping[tuple[int, ...], float], seed: int = 0
) -> Iterator[tuple[int, ...]]:
    """Decisions not tried: the default, neighbours of the best, then random ones. Ends where there are none."""
    default = (0,) * len(sizes)
    if default not in tried:
        yield default
        return
    best = min(tried, key=lambda chosen: tried[chosen])
    steps = itertools.chain.from_iterable(((d, k) for k in range(size)) for d, size in enumerate(sizes))
    near = [(*best[:d], k, *best[d + 1 :]) for d, k in steps]
    yield from (chosen for chosen in near if chosen not in tried)
    rest = math.prod(sizes) - len(tried)
    draw = random.Random(seed + len(tried))
    while rest > 0:
        chosen = tuple(draw.randrange(size) for size in sizes)
        if chosen not in tried:
            yield chosen
            return


class Search:
    """Tunes tasks until there is nothing left to try or no time. Raises nothing for a candidate that fails."""

    def __init__(
        self, database: Any, target: Any, measure: Measure, expired: Callable[[], bool], current: Path | None = None
    ) -> None:
        self.database, self.target, self.measure, self.expired = database, target, measure, expired
        #: Names the candidate that is being measured, for whoever finds out that it ended the process.
        self.current = current
        #: Candidates that are measured at once: one a device.
        self.together: int = max(1, getattr(measure, "devices", 1))
        #: Schedules measured by this search.
        self.trials = 0

    def run(self, tasks: list[Task], tell: Callable[[Task], None] = lambda task: None) -> None:
        """Measures, in rounds for the task that is worth most."""
        for task in tasks:
            self.recall(task)
        self._bury(tasks)
        open_tasks = [task for task in tasks if len(task.tried) < MOST_TRIALS]
        while open_tasks and not self.expired():
            task = max(open_tasks, key=lambda task: task.worth)
            if not self._round(task) or len(task.tried) >= MOST_TRIALS:
                open_tasks.remove(task)
            tell(task)

    def recall(self, task: Task) -> None:
        """What the database knows of a task."""
        if not self.database.has_workload(task.module):
            return
        for record in self.database.get_top_k(self.database.commit_workload(task.module), 10_000):
            decisions = tuple(int(value) for _, value in record.trace.decisions.items())
            task.tried[decisions] = seconds_of(record)

    def _bury(self, tasks: list[Task]) -> None:
        """Records the candidate that ended the process before this one, if there is one, as failed."""
        if self.current is None or not self.current.is_file():
            return
        fallen = json.loads(self.current.read_text(encoding="utf-8"))
        task = next((task for task in tasks if task.name == fallen["kernel"]), None)
        if task is not None and tuple(fallen["chosen"]) not in task.tried:
            self._record(task, tuple(fallen["chosen"]), [FAILED])

    def _round(self, task: Task) -> bool:
        """Some trials, as many at once as can be measured; False where nothing is left."""
        _, sizes = candidate(task.module, ())
        for _ in range(0, ROUND, self.together):
            chosen = list(itertools.islice(proposals(sizes, task.tried), self.together))
            if not chosen:
                return False
            if self.expired():
                return True
            self._trials(task, chosen)
        return True

    def _trials(self, task: Task, chosen: Sequence[tuple[int, ...]]) -> None:
        """Measures some schedules and records them."""
        if self.current is not None:
            self.current.write_text(json.dumps({"kernel": task.name, "chosen": chosen[0]}), encoding="utf-8")
        modules = [candidate(task.module, decisions)[0].mod for decisions in chosen]
        if len(modules) == 1:
            found = [self.measure(modules[0])]
        else:
            with ThreadPoolExecutor(self.together) as pool:
                found = list(pool.map(self.measure, modules))
        for decisions, seconds in zip(chosen, found, strict=True):
            self._record(task, decisions, seconds or [FAILED])
        self.trials += len(chosen)
        if self.current is not None:
            self.current.unlink()

    def _record(self, task: Task, chosen: tuple[int, ...], seconds: list[float]) -> None:
        from tvm.s_tir import meta_schedule as ms

        schedule, _ = candidate(task.module, chosen)
        task.tried[chosen] = sorted(seconds)[len(seconds) // 2]
        entry = self.database.commit_workload(task.module)
        info = ms.arg_info.ArgInfo.from_entry_func(task.module)
        self.database.commit_tuning_record(ms.database.TuningRecord(schedule.trace, entry, seconds, self.target, info))
