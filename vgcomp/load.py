"""One way in for everything that has a name: a zoo network, an ONNX file, a saved Program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vgcomp.errors import UsageError

if TYPE_CHECKING:
    from vgcomp.program import Program

#: The file that makes a folder a saved Program.
_SAVED = "program.json"

Setting = int | float | bool | str


def load(source: str | Path, **settings: Setting) -> Program:
    """A Program from a zoo name, a ``.onnx`` file, or a folder that ``Program.save`` wrote.

    ``settings``: a zoo network's (``frames=14``), or sizes of an ONNX file's dynamic dimensions.
    Raises UsageError for what is neither, ModelError for a damaged or unsupported one.
    """
    path = Path(source)
    if path.is_dir():
        return _load_saved(path, settings)
    if path.suffix.lower() == ".onnx":
        return _load_onnx(path, settings)
    if isinstance(source, str) and not path.exists() and (not _looks_like_path(source) or _in_zoo(source)):
        return _build(source, settings)
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    raise UsageError(
        f"{path} is not a model: give a .onnx file, a folder saved by vgcomp, or a name from `vgcomp models`"
    )


def is_saved(source: str | Path) -> bool:
    """True for a folder that ``Program.save`` wrote."""
    return (Path(source) / _SAVED).is_file()


def _in_zoo(name: str) -> bool:
    """A zoo name may have a dot in it, as ``wan-1.3b``."""
    from vgcomp.models import MODELS

    return name in MODELS


def _looks_like_path(source: str) -> bool:
    return "/" in source or "\\" in source or source in (".", "..", "") or "." in Path(source).suffix


def _load_saved(path: Path, settings: dict[str, Setting]) -> Program:
    from vgcomp.program import Program

    if not is_saved(path):
        raise UsageError(f"{path} is a directory without {_SAVED}: give a .onnx file or a folder saved by vgcomp")
    if settings:
        raise UsageError(f"{path} is a saved program: its shapes are fixed, so {', '.join(settings)} cannot be set")
    return Program.load(path)


def _load_onnx(path: Path, settings: dict[str, Setting]) -> Program:
    from vgcomp.onnx_import import load_onnx

    if not path.exists():
        raise UsageError(f"{path} does not exist")
    for name, value in settings.items():
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise UsageError(f"{name}={value}: the size of a dynamic dimension is a whole number above 0")
    return load_onnx(path, {name: int(value) for name, value in settings.items()})


def _build(name: str, settings: dict[str, Setting]) -> Program:
    from vgcomp.models import build

    return build(name, **settings)
