"""Workers as actors of a Ray cluster. Needs the extra ``vgcomp[ray]``; see :mod:`vgcomp.search.require`.

The other machines have vgcomp installed, and the modules that evaluators name. An actor that is lost, with its process,
its node or its memory, is a lost worker like any other: its candidate is given to another one.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from vgcomp.errors import Unavailable, UsageError, VgcompError
from vgcomp.search.crew import Report
from vgcomp.search.evaluator import Evaluator, reason
from vgcomp.space import Candidate

#: Actors in a row that may be lost before they are ready.
_FALSE_STARTS = 3
#: Seconds to wait for a cluster's port.
_PATIENCE = 10.0


@dataclass
class _Worker:
    """``pending``: what it is doing; loading, until it is ready."""

    actor: Any
    pending: Any
    ready: bool = False


class RayCrew:
    """``jobs`` actors, by default one a CPU of the cluster (or as many as its GPUs are enough for)."""

    def __init__(self, evaluator: Evaluator, address: str, jobs: int | None, gpus: float = 0.0) -> None:
        # A program that has connected by itself keeps its connection.
        self._ours = not ray.is_initialized()
        if self._ours:
            _connect(address, jobs)
        self._evaluator = ray.put(evaluator)
        self._actor = ray.remote(_Actor).options(num_cpus=1, num_gpus=gpus, max_restarts=0, max_task_retries=0)
        self._false_starts = 0
        self._workers = [self._started() for _ in range(jobs or _room(gpus))]

    def idle(self) -> Sequence[int]:
        return [slot for slot, worker in enumerate(self._workers) if worker.ready and worker.pending is None]

    def start(self, slot: int, candidate: Candidate) -> None:
        worker = self._workers[slot]
        worker.pending = worker.actor.evaluate.remote(candidate)

    def wait(self, timeout: float | None) -> Sequence[Report]:
        pending = {worker.pending: slot for slot, worker in enumerate(self._workers) if worker.pending is not None}
        ended, _ = ray.wait(list(pending), num_returns=1, timeout=timeout)
        more, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0)
        slots = sorted({pending[ref] for ref in (*ended, *more)})
        return [report for slot in slots if (report := self._heard(slot)) is not None]

    def stop(self, slot: int) -> None:
        ray.kill(self._workers[slot].actor)
        self._workers[slot] = self._started()

    def close(self) -> None:
        for worker in self._workers:
            ray.kill(worker.actor)
        self._workers = []
        if self._ours:
            ray.shutdown()

    def _heard(self, slot: int) -> Report | None:
        worker = self._workers[slot]
        try:
            result = ray.get(worker.pending)
        except RayActorError:
            return self._gone(slot)
        except RayError as error:  # an evaluator's own exceptions are results, so this is the loading
            raise UsageError(f"the evaluator cannot be loaded on the cluster: {reason(error)}") from error
        worker.pending = None
        if worker.ready:
            return Report(slot, result)
        if isinstance(result, VgcompError):
            raise result
        worker.ready, self._false_starts = True, 0
        return None

    def _gone(self, slot: int) -> Report | None:
        was_ready = self._workers[slot].ready
        self._false_starts += not was_ready
        if self._false_starts > _FALSE_STARTS:
            raise VgcompError("the cluster's workers end before they begin: try fewer --jobs")
        self._workers[slot] = self._started()
        return Report(slot, None) if was_ready else None

    def _started(self) -> _Worker:
        actor = self._actor.remote()
        return _Worker(actor, actor.load.remote(self._evaluator))


class _Actor:
    """A worker's process on the cluster."""

    def load(self, evaluator: Evaluator) -> VgcompError | None:
        """What is missing is a result: Ray would wrap it if it were raised."""
        try:
            self._opened = evaluator.ready()
        except VgcompError as error:
            return error
        return None

    def evaluate(self, candidate: Candidate) -> Any:
        return self._opened.evaluate(candidate)


def _connect(address: str, jobs: int | None) -> None:
    """Raises Unavailable where there is no cluster."""
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    _check_port(address)
    try:
        if address == "local":
            ray.init(address="local", num_cpus=jobs, include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise Unavailable(f"no Ray cluster answers at {address!r}: {reason(error)}") from error


def _check_port(address: str) -> None:
    """Raises Unavailable where nothing listens: Ray itself would try for minutes, then end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except OSError as error:
        raise Unavailable(f"no Ray cluster answers at {address!r}: {reason(error)}") from error


def _room(gpus: float) -> int:
    resources = ray.cluster_resources()
    room = int(resources.get("CPU", 1))
    return max(1, min(room, int(resources.get("GPU", 0) / gpus)) if gpus else room)
