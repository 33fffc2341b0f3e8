"""PSNR against measured seconds as one still picture: a panel a network, the front of all schedules drawn in."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Row = dict[str, Any]
Point = tuple[float, float]

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _GAP = 560, 400, 56, 64, 52, 24

_COLOURS = {
    "least-error": "#1f6feb",
    "algorithm-1-effect": "#2da44e",
    "algorithm-1": "#d97706",
    "uniform": "#6b7280",
}
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #5c6470; } .title { font-size: 15px; font-weight: 650; }
.grid { stroke: #8884; } .front { stroke: #111; stroke-dasharray: 4 4; fill: none; } .line { fill: none; }
@media (prefers-color-scheme: dark) { text { fill: #a3abb8; } .front { stroke: #ddd; } }
"""


def pareto_svg(raw: Row, names: Mapping[str, str]) -> str:
    """A whole SVG file. ``names``: of the ways to choose full steps, as the legend has them."""
    panels = []
    for place, (network, about) in enumerate(raw["about"].items()):
        rows = [row for row in raw["rows"] if row["network"] == network]
        body = "\n".join(_panel(network, about, rows, names))
        panels.append(f'<g transform="translate({place * _WIDTH} 0)">\n{body}\n</g>')
    size = f'viewBox="0 0 {_WIDTH * len(panels)} {_HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<style>{_STYLE}</style>\n' + (
        "\n".join(panels) + "\n</svg>\n"
    )


def _panel(network: str, about: Row, rows: Sequence[Row], names: Mapping[str, str]) -> list[str]:
    points = [_point(row) for row in rows]
    right = max([about["full_s"], *(x for x, _ in points)]) * 1.05
    low, high = math.floor(min(y for _, y in points)) - 1, math.ceil(max(y for _, y in points)) + 1

    def at(point: Point) -> str:
        x = _LEFT + point[0] / right * (_WIDTH - _LEFT - _GAP)
        y = _TOP + (high - point[1]) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{x:.1f} {y:.1f}"

    drawn = [f'<text class="title" x="{_LEFT}" y="20">{escape(network)}: PSNR to the full schedule, dB</text>']
    drawn += _legend(names)
    for level in range(5 * math.ceil(low / 5), high + 1, 5):
        drawn.append(f'<path class="grid" d="M{at((0, level))} L{at((right, level))}"/>')
        drawn.append(_text(at((0, level)), str(level), "end", -6, 4))
    for tick in range(5):
        x = right * tick / 4
        drawn.append(_text(at((x, low)), f"{x:.2f}", "middle", 0, 18))
    drawn.append(_text(at((right / 2, low)), "seconds a clip, measured; upright: all steps full", "middle", 0, 38))
    drawn.append(f'<path class="front" d="M{at((about["full_s"], low))} L{at((about["full_s"], high))}"/>')
    drawn.append(f'<path class="front" d="M{" L".join(at(point) for point in _front(points))}"/>')
    for rule, colour in _COLOURS.items():
        line = sorted((row for row in rows if row["rule"] == rule and row["cut"] == about["chosen"]), key=_point)
        drawn.append(f'<path class="line" stroke="{colour}" d="M{" L".join(at(_point(row)) for row in line)}"/>')
    drawn += [_dot(row, at(_point(row)), row["cut"] == about["chosen"]) for row in rows]
    return drawn


def _point(row: Row) -> Point:
    return row["measured_s"], statistics.mean(row["psnrs"])


def _front(points: Sequence[Point]) -> list[Point]:
    """Those that nothing faster beats."""
    found: list[Point] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if not found or point[1] > found[-1][1]:
            found.append(point)
    return found


def _dot(row: Row, place: str, is_chosen: bool) -> str:
    x, y = place.split()
    colour, hover = _COLOURS[row["rule"]], escape(f"{row['cut']}, {row['full']} full, {row['fewer_flops']:.2f}x")
    look = f'fill="{colour}"' if is_chosen else f'fill="none" stroke="{colour}"'
    return f'<circle cx="{x}" cy="{y}" r="{4 if is_chosen else 3}" {look}><title>{hover}</title></circle>'


def _legend(names: Mapping[str, str]) -> list[str]:
    found, x = [], _LEFT
    for rule, name in names.items():
        found.append(f'<circle cx="{x}" cy="38" r="4" fill="{_COLOURS[rule]}"/>')
        found.append(_text(f"{x + 8} 42", name, "start", 0, 0))
        x += 20 + 7 * len(name)
    note = "dots: the chosen cut; rings: other cuts; dashed: the front"
    return [*found, _text(f"{_LEFT} 58", note, "start", 0, 0)]


def _text(place: str, what: str, anchor: str, dx: int, dy: int) -> str:
    x, y = place.split()
    return f'<text x="{x}" y="{y}" dx="{dx}" dy="{dy}" text-anchor="{anchor}">{escape(what)}</text>'
