"""The front as one HTML file: a plot of quality against latency, and a table; nothing is fetched from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from math import floor, log10

from vgcomp.search.problem import Evaluation
from vgcomp.search.result import Outcome, limits_text, options_text
from vgcomp.units import format_bytes, format_seconds

_WIDTH, _HEIGHT = 1080, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 24, 20, 48

_STYLE = """
.plot text { fill: var(--soft); font-size: 12px; }
.plot .grid { stroke: var(--grid); }
.plot .other { fill: var(--before); fill-opacity: .28; }
.plot .front { fill: var(--after); stroke: var(--card); stroke-width: 1.5; }
.plot .limit { stroke: var(--budget); stroke-dasharray: 7 5; }
.plot text.limit { fill: var(--budget); stroke: none; }
.plot circle:hover { stroke: var(--ink); stroke-width: 2; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>
{css}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def page_text(outcome: Outcome) -> str:
    """The whole page."""
    css = files("vgcomp.report").joinpath("report.css").read_text(encoding="utf-8")
    body = [_header(outcome), _tiles(outcome), _plot_section(outcome), _front_section(outcome), _trace_section(outcome)]
    title = f"{outcome.problem.space.name} on {outcome.target}: vgcomp search"
    return _PAGE.format(title=escape(title), css=css + _STYLE, body="\n".join(filter(None, body)))


def _header(outcome: Outcome) -> str:
    sub = f"on {outcome.target}, within {limits_text(outcome.problem.limits)}; engine {outcome.engine}"
    return f"""<header><div>
<div class="eyebrow">vgcomp search</div>
<h1>{escape(outcome.problem.space.name)}</h1>
<div class="sub">{escape(sub)}, seed {outcome.seed}, quality by {escape(outcome.quality)}</div>
</div></header>"""


def _tiles(outcome: Outcome) -> str:
    front, figures = outcome.found.front, outcome.figures()
    tiles = [
        ("Front", str(len(front)), f"of {outcome.problem.space.size:,} candidates"),
        (
            "Evaluated",
            str(figures["evaluations"]),
            f"{figures['failed']} failed, {figures['resumed']} from the journal",
        ),
    ]
    if front:
        best = front[0]
        assert best.cost is not None
        detail = f"{format_seconds(best.cost.latency_s)}, {format_bytes(best.cost.peak_bytes)}"
        tiles.append(("Best quality", f"{best.quality:.4g}", detail))
    tiles.append(("Hypervolume", f"{figures['hypervolume']:.4g}", figures["hypervolume_unit"]))
    cards = (
        f'<div class="card tile"><div class="label">{label}</div><div class="value">{value}</div>'
        f'<div class="detail">{escape(detail)}</div></div>'
        for label, value, detail in tiles
    )
    return f'<div class="tiles">{"".join(cards)}</div>'


def _plot_section(outcome: Outcome) -> str:
    legend = (
        '<span><i style="background:var(--after)"></i>front, larger where it needs more memory</span>'
        '<span><i style="background:var(--before)"></i>evaluated</span>'
    )
    return f"""<section class="card">
<div class="head"><h2>Quality against latency</h2><div class="sub">point at one for its options</div></div>
<div class="legend">{legend}</div>
{_plot(outcome)}
</section>"""


def _plot(outcome: Outcome) -> str:
    whole = [e for e in outcome.found.evaluations if e.cost is not None and e.quality is not None]
    if not whole:
        return '<p class="sub">No candidate has both.</p>'
    limit = outcome.problem.limits.latency_s
    latencies = [e.cost.latency_s for e in whole if e.cost is not None]
    x = _Scale([*latencies, *([limit] if limit is not None else [])], _LEFT, _WIDTH - _RIGHT)
    y = _Scale([e.quality for e in whole if e.quality is not None], _HEIGHT - _BOTTOM, _TOP)
    front = outcome.found.front
    top = max((e.cost.peak_bytes for e in front if e.cost is not None), default=1)
    dots = [_dot(e, x, y, "other", 3.0) for e in whole if e not in front]
    for e in front:
        assert e.cost is not None
        dots.append(_dot(e, x, y, "front", 4 + 6 * (e.cost.peak_bytes / top) ** 2))
    return (
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Quality against latency">'
        + "".join((*_grid(x, y), *_limit(limit, x), *dots))
        + "</svg>"
    )


class _Scale:
    """Values along an axis, with a little room at both ends."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        room = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
        self.low, self.high, self.start, self.end = low - room, high + room, start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round numbers along it, six or so."""
        span = self.high - self.low
        power = 10.0 ** floor(log10(span / 6))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power * 6 >= span)
        first = -(-self.low // step)
        return [(first + i) * step for i in range(int((self.high - first * step) / step + 1e-9) + 1)]


def _dot(evaluation: Evaluation, x: _Scale, y: _Scale, kind: str, radius: float) -> str:
    cost, quality = evaluation.cost, evaluation.quality
    assert cost is not None and quality is not None
    figures = f"{quality:.5g}, {format_seconds(cost.latency_s)}, {format_bytes(cost.peak_bytes)}"
    return (
        f'<circle class="{kind}" cx="{x(cost.latency_s):.1f}" cy="{y(quality):.1f}" r="{radius:.1f}">'
        f"<title>{figures}\n{escape(options_text(evaluation))}</title></circle>"
    )


def _grid(x: _Scale, y: _Scale) -> Iterable[str]:
    bottom = _HEIGHT - _BOTTOM
    for value in y.ticks():
        yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        yield f'<text x="{_LEFT - 10}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.4g}</text>'
    for value in x.ticks():
        yield f'<text x="{x(value):.1f}" y="{bottom + 20}" text-anchor="middle">{format_seconds(value)}</text>'
    yield f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end">latency of one run, compiled</text>'
    yield f'<text x="{_LEFT}" y="{_TOP - 6}">quality</text>'


def _limit(limit: float | None, x: _Scale) -> list[str]:
    if limit is None:
        return []
    at = f"{x(limit):.1f}"
    return [
        f'<line class="limit" x1="{at}" x2="{at}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>',
        f'<text class="limit" x="{at}" y="{_TOP + 12}" text-anchor="end" dx="-6">T {format_seconds(limit)}</text>',
    ]


def _front_section(outcome: Outcome) -> str:
    rows = []
    for number, e in enumerate(outcome.found.front, 1):
        assert e.cost is not None
        figures = (f"{e.quality:.5g}", format_seconds(e.cost.latency_s), format_bytes(e.cost.peak_bytes))
        cells = "".join(f'<td class="n">{figure}</td>' for figure in figures)
        rows.append(f"<tr><td>{number}</td>{cells}<td><code>{escape(options_text(e))}</code></td></tr>")
    names = "+".join(choice.name for choice in outcome.problem.space.choices)
    return _table(
        "Front", names, ("", "n:Quality", "n:Latency", "n:Memory needed", "Options, in the order above"), rows
    )


def _trace_section(outcome: Outcome) -> str:
    if not outcome.trace:
        return ""
    rows = []
    for step in outcome.trace:
        assert step.after.cost is not None
        rows.append(
            f'<tr><td class="n">{step.descent}</td><td>{step.condition}</td><td><code>{escape(step.action)}</code></td>'
            f'<td class="n">{step.quality:+.4g}</td><td class="n">{1e3 * step.latency_s:+.3g} ms</td>'
            f'<td class="n">{step.memory_bytes / 2**20:+.4g} MiB</td>'
            f'<td class="n">{format_seconds(step.after.cost.latency_s)}</td>'
            f'<td class="n">{format_bytes(step.after.cost.peak_bytes)}</td></tr>'
        )
    head = ("n:Start", "Condition", "Action", "n:ΔQ", "n:ΔLatency", "n:ΔMemory", "n:Latency", "n:Memory")
    return _table("Algorithm A1", "actions in order", head, rows)


def _table(title: str, note: str, head: Sequence[str], rows: Iterable[str]) -> str:
    cells = "".join(f"<th>{h}</th>" if not h.startswith("n:") else f'<th class="n">{h[2:]}</th>' for h in head)
    return (
        f'<section class="card"><div class="head"><h2>{title}</h2><div class="sub">{escape(note)}</div></div>'
        f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        "</section>"
    )
