"""Times a scheduled kernel, on this machine or on devices behind TVM's RPC tracker."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from vgcomp.errors import Unavailable

#: Seconds that one of the repeated measurements should take at least, and how many there are.
_LEAST_S, _REPEATS = 0.02, 3


def built(module: Any, target: Any) -> Any:
    """The library of one kernel; None where it does not compile."""
    import tvm

    try:
        with tvm.transform.PassContext(config={"tirx.UnrollLoop": {"explicit_unroll": True}}):
            return tvm.compile(module, target).mod
    except Exception:
        return None


class Local:
    """On this machine, in this process."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def __call__(self, module: Any) -> list[float] | None:
        """Seconds of each repetition."""
        import tvm

        library = built(module, self.target)
        return None if library is None else _timed(library, tvm.cpu(), module)


class Remote:
    """On a device that a tracker hands out: ``HOST:PORT/KEY``. Each call takes the next device that is free."""

    def __init__(self, address: str, target: Any) -> None:
        from tvm import rpc

        place, _, self.key = address.partition("/")
        host, _, port = place.rpartition(":")
        self.target = target
        self._address = (host, int(port))
        servers = rpc.connect_tracker(*self._address).summary()["server_info"]
        #: How many there are of the kind.
        self.devices = sum(server["key"].removeprefix("server:") == self.key for server in servers)
        if self.devices == 0:
            raise Unavailable(f"the tracker at {place} has no device {self.key!r}: start one with tvm.exec.rpc_server")

    def __call__(self, module: Any) -> list[float] | None:
        """Seconds of each repetition."""
        library = built(module, self.target)
        if library is None:
            return None
        from tvm import rpc

        session = rpc.connect_tracker(*self._address).request(self.key, session_timeout=120)
        with tempfile.TemporaryDirectory(prefix="vgcomp-tune-") as folder:
            path = Path(folder) / "kernel.so"
            library.export_library(str(path))
            session.upload(str(path))
            return _timed(session.load_module("kernel.so"), session.cpu(), module)


def _timed(library: Any, device: Any, module: Any) -> list[float] | None:
    import numpy as np
    import tvm

    function = module["main"]
    draw = np.random.default_rng(0)
    arguments = []
    for parameter in function.params:
        shape = tuple(int(size) for size in parameter.shape)
        values = draw.uniform(0.1, 1.0, shape).astype(str(parameter.dtype))
        arguments.append(tvm.runtime.tensor(values, device))
    try:
        once = library.time_evaluator("main", device, number=1, repeat=2)(*arguments).results[-1]
        number = max(1, int(_LEAST_S / max(once, 1e-7)))
        return [
            float(s) for s in library.time_evaluator("main", device, number=number, repeat=_REPEATS)(*arguments).results
        ]
    except Exception:
        return None
