"""Asked before the modules that import an extra's packages."""

from __future__ import annotations

import importlib.util

from vgcomp.errors import Unavailable


def require_pymoo(engine: str) -> None:
    """Raises Unavailable where pymoo is not installed."""
    if importlib.util.find_spec("pymoo") is None:
        raise Unavailable(f"the engine {engine} needs pymoo, which is not installed: pip install 'vgcomp[search]'")


def require_ray() -> None:
    """Raises Unavailable where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise Unavailable("--ray needs ray, which is not installed: pip install 'vgcomp[ray]'")
