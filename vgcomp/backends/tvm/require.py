"""TVM is an extra: imported when first needed, and its absence is one clear line."""

from __future__ import annotations

import importlib.util
import os

from vgcomp.errors import Unavailable


def require_tvm() -> None:
    """Raises Unavailable where TVM is not installed. Call it before the modules that import ``tvm``."""
    if importlib.util.find_spec("tvm") is None:
        raise Unavailable("the TVM backend needs apache-tvm, which is not installed: pip install 'vgcomp[tvm]'")
    # Its thread pool pins threads to cores by default, against everything else that runs in the process.
    os.environ.setdefault("TVM_BIND_THREADS", "0")
