"""Finds and reads target files: by path, in the directories of ``VGCOMP_TARGETS``, or our own."""

from __future__ import annotations

import difflib
import functools
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vgcomp.errors import Unavailable, UsageError
from vgcomp.fields import first_problem
from vgcomp.targets.target import Target
from vgcomp.units import parse_bytes

#: Directories (separated as in ``PATH``) that are searched before the targets that come with vgcomp.
ENV_DIRS = "VGCOMP_TARGETS"

_OWN_DIR = Path(__file__).parent
_SIZES = ("memory_bytes", "app_memory_bytes", "cache_bytes", "context_bytes", "blas_workspace_bytes")


def load_target(target: str | Path | Target) -> Target:
    """The target of that name, or in that TOML file (anything with a ``/`` or ending in ``.toml``).

    Errors: Unavailable for a name that no file has; UsageError, naming file and field, for a bad file.
    """
    if isinstance(target, Target):
        return target
    text = str(target)
    if isinstance(target, Path) or text.endswith(".toml") or "/" in text or os.sep in text:
        return _read(Path(target))
    for directory in _directories():
        path = directory / f"{text.lower()}.toml"
        if path.is_file():
            return _read(path)
    raise Unavailable(_unknown(text))


def target_names() -> tuple[str, ...]:
    """Names that ``load_target`` finds, sorted; the user's directories included."""
    return tuple(sorted({path.stem for directory in _directories() for path in directory.glob("*.toml")}))


def _directories() -> Iterator[Path]:
    for entry in os.environ.get(ENV_DIRS, "").split(os.pathsep):
        if not entry:
            continue
        directory = Path(entry).expanduser()
        if not directory.is_dir():
            raise UsageError(f"{ENV_DIRS} names {entry!r}, which is not a directory: correct or unset it")
        yield directory
    yield _OWN_DIR


def _unknown(name: str) -> str:
    names = target_names()
    close = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"unknown target {name!r}{hint}; there are {', '.join(names)}, or give the path of a .toml file"


def _read(path: Path) -> Target:
    try:
        stat = path.stat()
        if not path.is_file():
            raise UsageError(
                f"target file {path} is not a file: give a .toml file or one of {', '.join(target_names())}"
            )
    except OSError as error:
        raise UsageError(
            f"target file {path}: {error.strerror}; targets by name are {', '.join(target_names())}"
        ) from None
    # Same file, same contents: one Target object, whose derived constants cost models cache.
    return _read_cached(path.resolve(), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=64)
def _read_cached(path: Path, _mtime_ns: int, _size: int) -> Target:
    try:
        fields: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"target file {path} is not valid TOML: {error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"target file {path} is not valid TOML: it is not UTF-8 text") from None
    except OSError as error:
        raise UsageError(f"target file {path}: {error.strerror}") from None
    fields.setdefault("name", path.stem)
    fields.setdefault("title", fields["name"])
    for key in _SIZES:
        if isinstance(fields.get(key), str):
            fields[key] = _size_field(path, key, fields[key])
    try:
        return Target.model_validate(fields)
    except ValidationError as error:
        raise UsageError(f"target file {path}: {first_problem(error, Target.model_fields)}") from None


def _size_field(path: Path, key: str, text: str) -> int:
    try:
        return parse_bytes(text)
    except UsageError as error:
        raise UsageError(f"target file {path}: field {key!r}: {error}") from None
