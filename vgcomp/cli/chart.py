"""A memory timeline in text: full blocks are the program's, shaded ones what it no longer needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from vgcomp.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from vgcomp.simulate import Timeline

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_HEIGHT = 14


def chart(timeline: Timeline, *, before: Timeline | None = None, budget: int | None = None, width: int = 100) -> Text:
    """Live activation bytes over time, one column a stretch of it, each at its highest.

    ``before``: drawn in shades behind. ``budget``: bytes left for activations, drawn as a line.
    """
    end = max([timeline.latency_s] + ([before.latency_s] if before else [])) or 1.0
    front, back = _columns(timeline, width, end), _columns(before, width, end) if before else [0] * width
    top = max([1, *front, *back])
    rule = round(budget / top * _HEIGHT) if budget is not None and 0 < budget <= top else None
    lines = Text()
    for row in range(_HEIGHT, 0, -1):
        label = format_bytes(top * row / _HEIGHT) if row in (_HEIGHT, _HEIGHT // 2) else ""
        lines.append(f"{label:>10} │", style="dim")
        for a, b in zip(front, back, strict=True):
            lines.append(*_cell(a / top * _HEIGHT - (row - 1), b / top * _HEIGHT - (row - 1), row == rule))
        lines.append(f" budget {format_bytes(budget)}\n" if budget is not None and row == rule else "\n", style="red")
    lines.append(f"{'0':>10} └{'─' * width}\n", style="dim")
    return lines.append(f"{'':>12}0{format_seconds(end):>{width - 1}}", style="dim")


def _cell(front: float, back: float, ruled: bool) -> tuple[str, str]:
    """One character: how far the two curves reach into this row, 1 being all of it."""
    if front >= 1:
        return "█", "blue"
    if front * 8 >= 0.5:
        return _EIGHTHS[min(8, max(1, round(front * 8)))], "blue"
    if ruled:
        return "┄", "red"
    return ("░", "dim") if back >= 0.5 else (" ", "")


def _columns(timeline: Timeline, width: int, end: float) -> list[int]:
    columns = [0] * width
    for entry in timeline.entries:
        first = min(width - 1, int(entry.start_s / end * width))
        last = min(width - 1, int((entry.start_s + entry.duration_s) / end * width - 1e-9))
        for i in range(first, max(first, last) + 1):
            columns[i] = max(columns[i], entry.live_bytes)
    return columns
