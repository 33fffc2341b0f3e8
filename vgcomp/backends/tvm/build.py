"""Compiles a Program in a child process: a crash or a hang of the compiler is one line, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vgcomp import errors
from vgcomp.backends.tvm.platform import HERE, Platform, platform_of, require_tools
from vgcomp.backends.tvm.require import require_tvm
from vgcomp.errors import Unavailable, VgcompError
from vgcomp.program import Program
from vgcomp.targets import Target

#: A network of thousands of kernels takes minutes; more than this is a hang.
TIME_LIMIT_S = 3600.0

#: What the child processes run.
WORKER = ("-m", "vgcomp.backends.tvm.worker")
TUNER = ("-m", "vgcomp.backends.tvm.tune_worker")
#: Schedules that may end the tuner before it is given up.
MOST_FALLS = 8


@dataclass(frozen=True)
class Library:
    """What the compiler made. ``weights``: their order as arguments. Bytes: the arena's, and with the inputs'.

    ``files``: names of the library and what belongs to it.
    """

    weights: tuple[str, ...]
    arena_bytes: int
    planned_bytes: int
    kernels: int
    tuned_kernels: int
    target: dict[str, str]
    seconds: float
    files: tuple[str, ...]


def check_target(target: Target, arch: str | None = None) -> Platform:
    """What artifacts for a target are compiled for.

    Raises Unavailable where TVM or a compiler for the device is missing, UsageError for an architecture it lacks.
    """
    require_tvm()
    platform = platform_of(target, arch)
    require_tools(platform)
    return platform


def build_library(
    program: Program,
    folder_out: Path,
    platform: Platform = HERE,
    *,
    time_limit_s: float = TIME_LIMIT_S,
    tuned: bool = True,
) -> Library:
    """Compiles ``program`` into the folder ``folder_out``, which exists; weights need no data.

    Raises Unavailable (exit code 5) where TVM or a compiler is missing, dies or takes longer than the limit.
    """
    require_tvm()
    require_tools(platform)
    with tempfile.TemporaryDirectory(prefix="vgcomp-tvm-") as name:
        folder = Path(name)
        program.without_data(frozenset(program.weights)).save(folder / "program")
        (folder / "platform.json").write_text(json.dumps({**asdict(platform), "tuned": tuned}), encoding="utf-8")
        answer = _answer(folder, time_limit_s)
        files = sorted(entry.name for entry in (folder / "out").iterdir())
        for file in files:
            shutil.copyfile(folder / "out" / file, folder_out / file)
    return Library(**{**answer, "weights": tuple(answer["weights"])}, files=tuple(files))


@dataclass(frozen=True)
class Tuning:
    """What tuning did. ``trials``: schedules measured, those that failed among them."""

    workloads: int
    trials: int
    seconds: float


def tune(
    program: Program,
    target: Target,
    seconds: float,
    *,
    database: Path | None = None,
    rpc: str | None = None,
    progress: Callable[[str, float], None] = lambda stage, fraction: None,
) -> Tuning:
    """Measures schedules of the kernels of ``program`` for about ``seconds``; what was measured before is not again.

    ``database``: folder of the records, by default the user's for this processor. ``rpc``: ``HOST:PORT/KEY`` of a
    tracker and the devices to measure on. Raises Unavailable where TVM is missing or its process fails repeatedly.
    """
    require_tvm()
    with tempfile.TemporaryDirectory(prefix="vgcomp-tune-") as name:
        folder = Path(name)
        program.without_data(frozenset(program.weights)).save(folder / "program")
        begin, fell = time.monotonic(), 0
        while True:
            given = {
                "target": target.name, "seconds": begin + seconds - time.monotonic(),
                "database": str(database) if database else None, "rpc": rpc,
            }  # fmt: skip
            (folder / "tune.json").write_text(json.dumps(given), encoding="utf-8")
            code = _tell_progress(folder, begin, seconds, progress)
            if code == 0:
                return Tuning(**_read_answer(folder))
            fell += 1
            if fell > MOST_FALLS or not (folder / "current").exists():
                raise Unavailable(f"TVM's tuner failed ({_reason(code, folder / 'log')}); what it measured is kept")


def _tell_progress(folder: Path, begin: float, seconds: float, progress: Callable[[str, float], None]) -> int:
    """Runs the tuner, passing on what it says; its exit code."""
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen([sys.executable, *TUNER, str(folder)], stdout=subprocess.PIPE, stderr=log, text=True)
        assert child.stdout is not None
        try:
            for line in child.stdout:
                if line.startswith("{"):
                    said = json.loads(line)
                    stage = f"tuning {said['kernel']}, {said['trials']} schedules measured"
                    progress(stage, min(1.0, (time.monotonic() - begin) / max(seconds, 1e-9)))
            return child.wait()
        finally:
            child.kill()
            child.stdout.close()


def _answer(folder: Path, time_limit_s: float) -> dict[str, Any]:
    command = [sys.executable, *WORKER, str(folder)]
    with (folder / "log").open("wb") as log:
        try:
            done = subprocess.run(command, stdout=log, stderr=log, timeout=time_limit_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise Unavailable(
                f"TVM did not finish compiling within {time_limit_s:.0f} s and was stopped; "
                "try fewer slices, or another --emit"
            ) from error
    if done.returncode != 0:
        raise Unavailable(f"TVM failed to compile the network ({_reason(done.returncode, folder / 'log')})")
    return _read_answer(folder)


def _read_answer(folder: Path) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    if "error" in answer:
        kind = getattr(errors, answer["kind"])
        assert issubclass(kind, VgcompError)
        raise kind(answer["error"])
    return answer


def _reason(code: int, log: Path) -> str:
    """A signal's name, or the last line that the compiler wrote."""
    if code < 0:
        return f"it was killed by {signal.Signals(-code).name}"
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else f"exit code {code}"
