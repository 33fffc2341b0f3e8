"""Compiles a Program in a child process: a crash or a hang of the compiler is one line, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vgcomp import errors
from vgcomp.backends.tvm.require import require_tvm
from vgcomp.errors import Unavailable, UsageError, VgcompError
from vgcomp.program import Program
from vgcomp.targets import Target

#: A network of thousands of kernels takes minutes; more than this is a hang.
TIME_LIMIT_S = 3600.0

#: What the child process runs.
WORKER = ("-m", "vgcomp.backends.tvm.worker")


@dataclass(frozen=True)
class Library:
    """What the compiler made. ``weights``: their order as arguments. Bytes: the arena's, and with the inputs'."""

    weights: tuple[str, ...]
    arena_bytes: int
    planned_bytes: int
    kernels: int
    target: dict[str, str]
    seconds: float


def check_target(target: Target) -> None:
    """Raises Unavailable without TVM, UsageError for a device that it cannot compile for here."""
    require_tvm()
    if target.kind != "cpu":
        raise UsageError(
            f"the TVM backend compiles for this machine's CPU, not for {target.name}: "
            "use --target cpu, or another --emit"
        )


def build_library(program: Program, path: Path, *, time_limit_s: float = TIME_LIMIT_S) -> Library:
    """Compiles ``program`` to the shared library ``path``; weights need no data.

    Raises Unavailable (exit code 5) where TVM is missing, dies or takes longer than the limit.
    """
    require_tvm()
    with tempfile.TemporaryDirectory(prefix="vgcomp-tvm-") as name:
        folder = Path(name)
        program.without_data(frozenset(program.weights)).save(folder / "program")
        answer = _answer(folder, time_limit_s)
        shutil.copyfile(folder / "model.so", path)
    return Library(**{**answer, "weights": tuple(answer["weights"])})


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
