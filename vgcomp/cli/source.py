"""What the user names, with its ``--set`` settings, as a Program; and the checks that come before long work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vgcomp.errors import UsageError
from vgcomp.load import Setting, is_saved, load

if TYPE_CHECKING:
    from vgcomp.program import Program

__all__ = ["is_saved", "load_source", "parse_settings"]


def load_source(source: str, settings: Sequence[str]) -> Program:
    """The Program that ``source`` and ``--set name=value`` options name. Errors as in :func:`vgcomp.load.load`."""
    return load(source, **parse_settings(settings))


def parse_settings(settings: Sequence[str]) -> dict[str, Setting]:
    """``["frames=14", "dtype=float16"]`` -> ``{"frames": 14, "dtype": "float16"}``."""
    values: dict[str, Setting] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name or not value.strip():
            raise UsageError(f"--set {text}: write name=value, for example --set frames=14")
        if name in values:
            raise UsageError(f"--set {name} is given twice")
        values[name] = _read(value.strip())
    return values


def _read(text: str) -> Setting:
    """A number or a truth value where it reads as one, else the text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
