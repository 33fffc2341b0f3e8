"""The two memory timelines as one still picture, for a README or a slide; light and dark by itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import floor, log10

from vgcomp.report.data import Point, curve
from vgcomp.report.source import Reportable
from vgcomp.result import Report
from vgcomp.units import format_bytes, format_seconds, parse_bytes

_WIDTH, _HEIGHT = 960, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 24, 64, 36

_STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #5c6470; }
.title { font-size: 17px; font-weight: 650; fill: #1b1f26; }
.mark { font-weight: 650; }
.grid { stroke: #e4e2dd; }
.before { stroke: #7d8799; fill: #7d8799; } .after { stroke: #1f5fd6; fill: #1f5fd6; }
.budget { stroke: #c2410c; } .bound { stroke: #15803d; }
text.before, text.after { stroke: none; }
text.budget { fill: #c2410c; stroke: none; } text.bound { fill: #15803d; stroke: none; }
path { fill-opacity: .2; stroke-width: 1.6; }
@media (prefers-color-scheme: dark) {
  text { fill: #a3abb8; } .title { fill: #e8eaee; } .grid { stroke: #2a303a; }
  .before { stroke: #8b96a9; fill: #8b96a9; } .after { stroke: #6ea8ff; fill: #6ea8ff; }
  .budget { stroke: #ff9a62; } .bound { stroke: #5fce84; }
  text.budget { fill: #ff9a62; } text.bound { fill: #5fce84; }
}
"""


def svg_text(result: Reportable) -> str:
    """A whole SVG file: live activation bytes over simulated time, before and after."""
    report = result.report
    before, after = (curve(timeline, limit=1500) for timeline in result.timelines)
    end = max(_end(before), _end(after)) or 1.0
    top = max(1, *(point.live_bytes for point in (*before, *after))) * 1.05
    body = [
        _heading(report),
        *_grid(top, end),
        _area("before", before, top, end),
        _area("after", after, top, end),
        *_rules(report, top),
        _peak("before", before, top, end),
        _peak("after", after, top, end),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Live memory over time, before and after">\n<style>{_STYLE}</style>\n'
        + "\n".join(filter(None, body))
        + "\n</svg>\n"
    )


def _heading(report: Report) -> str:
    before, after = report.before.peak_activation_bytes, report.after.peak_activation_bytes
    return (
        f'<text class="title" x="{_LEFT}" y="26">{escape(report.model)} on {escape(report.target)}: '
        f"{format_bytes(before)} → {format_bytes(after)} of activations, ×{report.latency_ratio:.3f} latency</text>"
        f'<text class="before mark" x="{_LEFT}" y="48">unmodified</text>'
        f'<text class="after mark" x="{_LEFT + 92}" y="48">optimized</text>'
    )


def _x(seconds: float, end: float) -> float:
    return _LEFT + seconds / end * (_WIDTH - _LEFT - _RIGHT)


def _y(size: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - size / top * (_HEIGHT - _TOP - _BOTTOM)


def _end(points: Sequence[Point]) -> float:
    return points[-1].start_s + points[-1].duration_s if points else 0.0


def _area(kind: str, points: Sequence[Point], top: float, end: float) -> str:
    if not points:
        return ""
    floor_y = f"{_y(0, top):.1f}"
    steps = (f"V{_y(p.live_bytes, top):.1f}H{_x(p.start_s + p.duration_s, end):.1f}" for p in points)
    return f'<path class="{kind}" d="M{_x(points[0].start_s, end):.1f},{floor_y}{"".join(steps)}V{floor_y}Z"/>'


def _peak(kind: str, points: Sequence[Point], top: float, end: float) -> str:
    if not points:
        return ""
    highest = max(points, key=lambda point: point.live_bytes)
    x = _x(highest.start_s, end)
    side = "end" if x > _WIDTH * 0.75 else "start" if x < _WIDTH * 0.15 else "middle"
    y = _y(highest.live_bytes, top) - 7
    size = format_bytes(highest.live_bytes)
    return f'<text class="{kind} mark" x="{x:.1f}" y="{y:.1f}" text-anchor="{side}">{size}</text>'


def _rules(report: Report, top: float) -> list[str]:
    rules = [("bound", report.lower_bound_bytes.unsliced, "lower bound of any unsliced order", "2 4")]
    if report.budget_bytes is not None:
        rest = report.after.peak_bytes - report.after.peak_activation_bytes
        rules.append(("budget", report.budget_bytes - rest, "budget less what is no activation", "7 5"))
    return [_rule(kind, size, text, dash, top) for kind, size, text, dash in rules if 0 < size <= top]


def _rule(kind: str, size: int, text: str, dash: str, top: float) -> str:
    y = _y(size, top)
    ends = f'x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
    return (
        f'<line class="{kind}" {ends} stroke-dasharray="{dash}"/>'
        f'<text class="{kind}" x="{_LEFT + 6}" y="{y - 6:.1f}">{text}, {format_bytes(size)}</text>'
    )


def _grid(top: float, end: float) -> list[str]:
    unit = parse_bytes("1" + format_bytes(top).split(" ")[1])
    lines = []
    for value in _ticks(top / unit, 5):
        y = _y(value * unit, top)
        label = f"{value:g} {format_bytes(unit).split(' ')[1]}" if value else "0"
        lines.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
        )
    base = _HEIGHT - 12
    lines.append(f'<text x="{_LEFT}" y="{base}">0</text>')
    lines.append(f'<text x="{_WIDTH - _RIGHT}" y="{base}" text-anchor="end">{format_seconds(end)}, simulated</text>')
    return lines


def _ticks(top: float, count: int) -> list[float]:
    """Round numbers from 0 to ``top``."""
    power = 10.0 ** floor(log10(top / count))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power * count >= top)
    return [i * step for i in range(int(top / step + 1e-9) + 1)]
