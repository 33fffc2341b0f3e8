"""Bytes and seconds, read from text and written for people.

``GB`` is decimal (10^9 bytes), ``GiB`` binary (2^30), as on a device's data sheet and in a memory
profiler respectively; a bare letter follows the decimal one (``8G`` == ``8GB``).
"""

from __future__ import annotations

import re

from vgcomp.errors import UsageError

KB, MB, GB, TB = 10**3, 10**6, 10**9, 10**12
KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40

_SCALES = {
    "": 1,
    "b": 1,
    "k": KB,
    "kb": KB,
    "kib": KIB,
    "m": MB,
    "mb": MB,
    "mib": MIB,
    "g": GB,
    "gb": GB,
    "gib": GIB,
    "t": TB,
    "tb": TB,
    "tib": TIB,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([a-zA-Z]*)\s*", re.ASCII)


def parse_bytes(value: int | str) -> int:
    """Bytes of ``6GB``, ``512MiB``, ``8G``, ``1.5 GiB``, ``4096`` or an int. More than nothing, or UsageError."""
    size = _parse(value)
    if size <= 0:
        raise UsageError(f"{value!r} is not a memory size: it must be more than 0 bytes, for example 6GB or 512MiB")
    return size


def _parse(value: int | str) -> int:
    if isinstance(value, int):
        return value
    match = _SIZE.fullmatch(value)
    scale = _SCALES.get(match[2].lower()) if match else None
    if match is None or scale is None:
        raise UsageError(
            f"{value!r} is not a memory size: write a number and a unit, for example 6GB, 512MiB or 8000000000"
        )
    whole, _, decimals = match[1].partition(".")
    # Exact: 1.1GB is 1100000000 bytes, not what a float makes of it.
    return (int((whole or "0") + decimals) * scale) // 10 ** len(decimals)


def format_bytes(n: float, *, binary: bool = True) -> str:
    """``3.54 GiB`` (or ``3.80 GB``): three significant digits, in the largest unit that gives at least 1."""
    base = 1024.0 if binary else 1000.0
    units = ("B", "KiB", "MiB", "GiB", "TiB") if binary else ("B", "KB", "MB", "GB", "TB")
    return _scaled(n, base, units)


def budget_text(n: int) -> str:
    """``2385MiB``: bytes rounded up, so that a budget printed is one that :func:`parse_bytes` finds large enough."""
    return f"{-(-n // MIB)}MiB"


def format_count(n: float, unit: str = "") -> str:
    """``1.53 B`` parameters, ``44.6 T`` FLOPs: three significant digits with K, M, B, T."""
    return _scaled(n, 1000.0, tuple(f"{p}{unit}" for p in ("", "K", "M", "B", "T", "Q"))).rstrip()


def _scaled(n: float, base: float, units: tuple[str, ...]) -> str:
    value, index = float(n), 0
    # 999.6 would print as "1000": step up when rounding reaches the base.
    while index + 1 < len(units) and _round3(abs(value)) >= base:
        value, index = value / base, index + 1
    if index == 0:
        return f"{value:.0f} {units[0]}"
    return f"{value:.{_decimals(value)}f} {units[index]}"


def _decimals(value: float) -> int:
    size = abs(value)
    if size < 9.995:
        return 2
    return 1 if size < 99.95 else 0


def _round3(value: float) -> float:
    return round(value, _decimals(value))


def format_seconds(seconds: float) -> str:
    """``12.3 ms``; from a minute on ``2 min 05 s``."""
    if seconds >= 59.95:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        value = seconds / scale
        if _round3(value) >= 1.0:
            return f"{value:.{_decimals(value)}f} {unit}"
    return "0 s" if seconds == 0 else f"{seconds / 1e-9:.{_decimals(seconds / 1e-9)}f} ns"
