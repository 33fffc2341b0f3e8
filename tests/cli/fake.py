"""A stand-in for the optimizer, for what the command line does around it.

It takes the program as it is, and obeys two variables. VGCOMP_FAKE: ``sleep`` (until interrupted), ``front`` (to
report one), or the name of an error to raise. VGCOMP_FAKE_ROOM: bytes that a file may have; a write beyond fails, as
on a full disk.
"""

from __future__ import annotations

import os
import resource
import sys
import time
import types
from typing import Any

from vgcomp.cli.main import run
from vgcomp.errors import CheckFailed, Infeasible, InternalError, Unavailable
from vgcomp.result import Report

ERRORS = {
    "infeasible": Infeasible("no plan fits 1.00 MB", smallest_bytes=2_500_000_001, culprit="up_blocks_3_conv1"),
    "check": CheckFailed("output 'sample' differs by 0.2 of its largest value"),
    "unavailable": Unavailable("the onnx backend needs onnxruntime: pip install vgcomp"),
    "internal": InternalError("pass slice-and-group failed on tiny: KeyError: 'x'"),
    "bug": KeyError("x"),
    "memory": MemoryError(),
}


def optimize(program: Any, **_: Any) -> Any:
    from tests.report import sample
    from vgcomp.cost_models import AnalyticModel
    from vgcomp.simulate import simulate
    from vgcomp.targets import load_target

    wish = os.environ.get("VGCOMP_FAKE", "")
    if wish == "sleep":
        print("optimizing", file=sys.stderr, flush=True)
        time.sleep(60)
    if wish in ERRORS:
        raise ERRORS[wish]
    front = sample.dear_front() if wish == "front" else ()
    report: Report = sample.report(model=program.name, artifacts=(), check={"status": "skipped"}, front=front)
    timeline = simulate(program, load_target("a100"), AnalyticModel())
    return sample.FakeResult(program, report, (timeline, timeline), sample.result().explanations)


def module() -> types.ModuleType:
    made = types.ModuleType("vgcomp.optimize")
    made.optimize = optimize  # type: ignore[attr-defined]
    return made


if __name__ == "__main__":
    if room := os.environ.get("VGCOMP_FAKE_ROOM"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(room), int(room)))
    sys.modules["vgcomp.optimize"] = module()
    run()
