"""The compiler's own process: reads a saved Program, writes the library and what is known of it.

    python -m vgcomp.backends.tvm.worker FOLDER

FOLDER holds ``program/`` and ``platform.json``; ``out/`` and ``answer.json`` appear in it. A mistake of the user's is
an answer too; anything else ends the process, and its parent tells.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from vgcomp.backends.tvm.compile import compile_library, host_target
from vgcomp.backends.tvm.lower import lower
from vgcomp.backends.tvm.platform import HERE, Platform
from vgcomp.backends.tvm.tuned import Tuned
from vgcomp.errors import VgcompError
from vgcomp.program import Program


def compile_folder(folder: Path) -> dict[str, Any]:
    """The answer: weights in the order of ``main``'s arguments, planned bytes, kernels, seconds."""
    begin = time.perf_counter()
    given = json.loads((folder / "platform.json").read_text(encoding="utf-8"))
    platform = Platform(given["kind"], tuple(given["arch"]), given["triple"])
    lowered = lower(Program.load(folder / "program"), platform.device)
    (folder / "out").mkdir()
    tuned = Tuned.of(host_target()[1]["mcpu"]) if given["tuned"] and platform == HERE else Tuned([])
    described = compile_library(lowered, platform, folder / "out", tuned)
    return {
        "weights": list(lowered.weight_names),
        "planned_bytes": lowered.plan.planned_bytes,
        "arena_bytes": lowered.plan.main.size,
        "kernels": len(lowered.kernels),
        "tuned_kernels": tuned.found,
        "target": described,
        "seconds": time.perf_counter() - begin,
    }


def main(folder: Path) -> None:
    """Compiles and leaves the answer."""
    try:
        answer = compile_folder(folder)
    except VgcompError as error:
        answer = {"error": str(error), "kind": type(error).__name__}
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
