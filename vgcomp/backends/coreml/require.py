"""coremltools is an extra: imported when first needed, and its absence is one clear line."""

from __future__ import annotations

import importlib.util
import logging
import warnings

from vgcomp.errors import Unavailable


def require_coreml() -> None:
    """Raises Unavailable where coremltools is not installed. Call it before the modules that import it."""
    if importlib.util.find_spec("coremltools") is None:
        raise Unavailable("the Core ML backend needs coremltools, which is not installed: pip install 'vgcomp[coreml]'")
    # Off a Mac it warns of the frameworks it cannot load, which only running a model would need.
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="coremltools")
