"""vgcomp: rewrites a video-diffusion network so that it fits a memory budget at the least latency.

    import vgcomp
    program = vgcomp.capture(module, example_inputs)      # or vgcomp.load("model.onnx")
    result = vgcomp.optimize(program, target="a100", memory="8GB")
    result.module()(*inputs)
    vgcomp.wrap(pipe, target="a100", memory="8GB")        # a pipeline of diffusers, in place

Names are resolved on first use: ``import vgcomp`` alone is cheap, and ``vgcomp --help`` stays quick.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vgcomp.capture import capture
    from vgcomp.generation.wrapping import unwrap, wrap
    from vgcomp.load import load
    from vgcomp.onnx_import import load_onnx
    from vgcomp.optimize import OptimizeResult, optimize
    from vgcomp.program import Program

__version__ = "0.1.0"

_EXPORTS = {
    "capture": "vgcomp.capture",
    "load": "vgcomp.load",
    "load_onnx": "vgcomp.onnx_import",
    "optimize": "vgcomp.optimize",
    "OptimizeResult": "vgcomp.optimize",
    "Program": "vgcomp.program",
    "unwrap": "vgcomp.generation.wrapping",
    "wrap": "vgcomp.generation.wrapping",
}

__all__ = ["OptimizeResult", "Program", "__version__", "capture", "load", "load_onnx", "optimize", "unwrap", "wrap"]


def __getattr__(name: str) -> Any:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'vgcomp' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Importing ``vgcomp.capture``, by whomever, would bind the submodule to this name; the function must win."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _EXPORTS and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted(__all__)
