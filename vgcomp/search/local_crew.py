"""Workers as processes of this machine, spawned: a crash or a hang of one takes nothing else with it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from vgcomp.errors import UsageError, VgcompError
from vgcomp.search.crew import Report
from vgcomp.search.evaluator import Evaluator, reason
from vgcomp.space import Candidate

_SPAWN = multiprocessing.get_context("spawn")

#: Workers in a row that may end before they are ready; more, and something is wrong that trying will not mend.
_FALSE_STARTS = 3


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    busy: bool = False


class LocalCrew:
    """``jobs`` processes. Each takes its share of the machine's cores for torch's threads."""

    def __init__(self, evaluator: Evaluator, jobs: int) -> None:
        if jobs < 1:
            raise UsageError(f"--jobs {jobs}: at least one worker is needed")
        self._evaluator = pickle.dumps(evaluator)
        self._threads = max(1, cores() // jobs)
        self._false_starts = 0
        self._workers: list[_Worker] = []
        try:
            for _ in range(jobs):
                self._workers.append(self._started())
        except BaseException:
            self.close()
            raise

    def idle(self) -> Sequence[int]:
        return [slot for slot, worker in enumerate(self._workers) if worker.ready and not worker.busy]

    def start(self, slot: int, candidate: Candidate) -> None:
        worker = self._workers[slot]
        worker.busy = True
        with contextlib.suppress(BrokenPipeError):  # it has just ended, which the next wait() finds
            worker.pipe.send(candidate)

    def wait(self, timeout: float | None) -> Sequence[Report]:
        signs: dict[Any, int] = {}
        for slot, worker in enumerate(self._workers):
            signs |= {worker.pipe: slot, worker.process.sentinel: slot}
        slots = sorted({signs[sign] for sign in wait(list(signs), timeout)})
        return [report for slot in slots if (report := self._heard(slot)) is not None]

    def stop(self, slot: int) -> None:
        self._end(self._workers[slot])
        self._workers[slot] = self._started()

    def close(self) -> None:
        for worker in self._workers:
            self._end(worker)
        self._workers = []

    def _heard(self, slot: int) -> Report | None:
        """What a worker has to say, or that it is no more."""
        worker = self._workers[slot]
        if not worker.pipe.poll():
            return None if worker.process.is_alive() else self._gone(slot)
        try:
            kind, content = worker.pipe.recv()  # one that ended may have spoken before
        except (EOFError, OSError):
            return self._gone(slot)
        if kind == "unusable":
            raise content
        if kind == "ready":
            worker.ready, self._false_starts = True, 0
            return None
        worker.busy = False
        return Report(slot, content)

    def _gone(self, slot: int) -> Report | None:
        worker = self._workers[slot]
        if not worker.ready:
            self._false_starts += 1
        if self._false_starts > _FALSE_STARTS:
            code = worker.process.exitcode
            raise VgcompError(f"workers end before they begin, the last with code {code}: try fewer --jobs")
        self.stop(slot)
        return Report(slot, None) if worker.busy else None

    def _started(self) -> _Worker:
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_work, args=(theirs, self._evaluator, self._threads), daemon=True)
        process.start()
        # Only the worker holds its end now, so that its death closes it.
        theirs.close()
        return _Worker(process, ours)

    def _end(self, worker: _Worker) -> None:
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(pipe: Connection, evaluator: bytes, threads: int) -> None:
    """A worker's life: load, then evaluate whatever comes, until the search ends or goes away."""
    # An interrupt reaches the whole group of processes; the search answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # before torch is loaded
    os.dup2(sys.stderr.fileno(), 1)  # stdout is the search's: what evaluators print is no result
    try:
        opened = pickle.loads(evaluator).ready()
    except VgcompError as error:
        pipe.send(("unusable", error))
        return
    except Exception as error:
        pipe.send(("unusable", UsageError(f"the evaluator cannot be loaded: {reason(error)}")))
        return
    pipe.send(("ready", None))
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            pipe.send(("done", opened.evaluate(pipe.recv())))


def _leave_with_parent() -> None:
    """Ends this process when the search has been killed, even while an evaluator hangs."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
