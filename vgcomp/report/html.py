"""The report as one HTML file: styles, script and data inside, nothing fetched from anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from vgcomp.report import summary
from vgcomp.report.data import Point, Region, curve, regions
from vgcomp.report.source import Reportable
from vgcomp.result import Explanation, PassReport, Report
from vgcomp.units import format_bytes, format_seconds, parse_bytes

_EQUIVALENCE_CLASS = {"exact": "good", "reassociated": "plain", "approximate": "note"}
_CHECK_CLASS = {"passed": "good", "failed": "bad", "skipped": "plain"}

#: Explanations listed on the page; the command line's `explain` lists them all.
_MAX_EXPLANATIONS = 400

# default-src 'none': a browser refuses whatever a later edit might try to load.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>
{css}
</style>
</head>
<body>
<main>
{body}
</main>
<script type="application/json" id="data">{data}</script>
<script>
{js}
</script>
</body>
</html>
"""


def html_text(result: Reportable) -> str:
    """The whole page."""
    report = result.report
    before, after = result.timelines
    found = regions(result.program, after)
    body = [
        _header(report),
        _tiles(report),
        _timeline_section(report),
        _regions_section(found),
        _columns([_passes_section(report.passes), _facts_section(report)]),
        _front_section(report),
        _why_section(result.explanations),
        _footer(report),
    ]
    return _PAGE.format(
        title=escape(f"{report.model} on {report.target}: vgcomp report"),
        css=_asset("report.css"),
        js=_asset("report.js"),
        body="\n".join(filter(None, body)),
        data=_data(report, curve(before), curve(after)),
    )


def _asset(name: str) -> str:
    return files("vgcomp.report").joinpath(name).read_text(encoding="utf-8").strip()


def _data(report: Report, before: Sequence[Point], after: Sequence[Point]) -> str:
    """The script's input. ``<`` is escaped, or a node's name could end the element."""
    strings: dict[str, int] = {}
    content: dict[str, object] = {
        "model": report.model,
        "budget_bytes": report.budget_bytes,
        "weight_bytes": report.after.weight_bytes,
        # Weights many times the activations would press the curves flat.
        "show_weights": report.after.weight_bytes <= 2 * report.before.peak_activation_bytes,
        "lower_bound": report.lower_bound_bytes.model_dump(),
        "before": _columns_of(before, strings),
        "after": _columns_of(after, strings),
        "strings": strings,
    }
    content["strings"] = list(strings)
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _columns_of(points: Sequence[Point], strings: dict[str, int]) -> dict[str, object]:
    def index(text: str) -> int:
        return strings.setdefault(text, len(strings))

    end = points[-1].start_s + points[-1].duration_s if points else 0.0
    return {
        "start": [_short(p.start_s) for p in points],
        "duration": [_short(p.duration_s) for p in points],
        "bytes": [p.live_bytes for p in points],
        "name": [index(p.name) for p in points],
        "op": [index(p.op) for p in points],
        "bound": [index(p.bound) for p in points],
        "end": end,
    }


def _short(seconds: float) -> float:
    """Nanoseconds are plenty, and shorter to write."""
    return round(seconds, 9)


def _header(report: Report) -> str:
    budget = f"budget {format_bytes(report.budget_bytes)}" if report.budget_bytes is not None else "no budget"
    return f"""<header><div>
<div class="eyebrow">vgcomp report</div>
<h1>{escape(report.model)}</h1>
<div class="sub">on {escape(report.target)}, {budget}</div>
</div><button id="theme" type="button" aria-label="Switch between light and dark">Light / dark</button></header>"""


def _tiles(report: Report) -> str:
    before, after = report.before, report.after
    ratio = report.latency_ratio
    peak, unit = _same_unit(before.peak_activation_bytes, after.peak_activation_bytes)
    saved = 1 - report.activation_ratio
    tiles = [
        _tile(
            "Peak of activations",
            f'<span class="from">{peak[0]}</span><span class="arrow"> → </span><span class="to">{peak[1]}</span> '
            f'<span class="unit">{unit}</span>',
            f"{abs(saved):.0%} {'less' if saved >= 0 else 'more'}: inputs, outputs and temporaries, no weights",
        ),
        _tile(
            "Latency, simulated",
            f"×{ratio:.3f}",
            f"{format_seconds(before.latency_s)} → {format_seconds(after.latency_s)}",
        ),
        _tile("Memory needed", _number(after.peak_bytes), _headroom(report)),
        _tile(
            "Lower bound, any order",
            _number(report.lower_bound_bytes.unsliced),
            f"activations of the unsliced graph; the result's: {format_bytes(report.lower_bound_bytes.result)}",
        ),
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _tile(label: str, value: str, detail: str) -> str:
    return (
        f'<div class="card tile"><div class="label">{label}</div><div class="value">{value}</div>'
        f'<div class="detail">{detail}</div></div>'
    )


def _number(size: int) -> str:
    value, unit = format_bytes(size).split(" ")
    return f'{value} <span class="unit">{unit}</span>'


def _same_unit(before: int, after: int) -> tuple[tuple[str, str], str]:
    """Both figures in the larger one's unit, so that they compare at a glance; the small one with its own if tiny."""
    unit = format_bytes(max(before, after)).split(" ")[1]
    scale = parse_bytes(f"1{unit}")

    def text(size: int) -> str:
        value, own_unit = format_bytes(size).split(" ")
        if own_unit == unit:
            return value
        return f"{size / scale:.2f}" if size * 20 >= scale or size == 0 else f"{value} {own_unit}"

    return (text(before), text(after)), unit


def _headroom(report: Report) -> str:
    if report.budget_bytes is None:
        return f"weights {format_bytes(report.after.weight_bytes)}"
    room = report.budget_bytes - report.after.peak_bytes
    left = f"{format_bytes(room)} to spare" if room >= 0 else f"{format_bytes(-room)} too much"
    return f"budget {format_bytes(report.budget_bytes)}, {left}"


def _timeline_section(report: Report) -> str:
    key = '<span><i style="background:var(--{0})"></i>{1}</span>'
    rule = '<span><i class="rule" style="border-color:var(--{0})"></i>{1}</span>'
    legend = [key.format("before", "before"), key.format("after", "after"), key.format("weights", "weights")]
    if report.budget_bytes is not None:
        legend.append(rule.format("budget", f"budget {format_bytes(report.budget_bytes)}"))
    legend.append(rule.format("bound", "lower bound on activations, unsliced, any order"))
    with_weights = str(report.after.weight_bytes <= 2 * report.before.peak_activation_bytes).lower()
    return f"""<section class="card">
<div class="head"><h2>Live memory over time</h2><div class="controls">
<button id="reset" type="button" hidden>Reset zoom</button>
<button id="weights" type="button" aria-pressed="{with_weights}">With weights</button>
<button id="align" type="button" aria-pressed="false">Align ends</button>
</div></div>
<div class="legend">{"".join(legend)}</div>
<div class="chart" id="timeline" tabindex="0" aria-label="Memory timeline; arrow keys move from op to op">\
<div class="tip" id="tip" role="status"></div></div>
<noscript><p class="sub">The chart needs JavaScript; the tables below do not.</p></noscript>
<div class="hint">Point at an op for its name and bytes. Drag to zoom, double-click to reset, ← → to step.</div>
</section>"""


def _regions_section(found: Sequence[Region]) -> str:
    if not found:
        return _section("Regions", "", '<p class="sub">No region was sliced: the program fits as it is.</p>')
    rows = (
        f'<tr data-start="{r.start_s:.9f}" data-seconds="{r.seconds:.9f}"><td><code>{escape(r.name)}</code>'
        f'<div class="sub">{escape(r.note)}</div></td><td>{escape(r.axis)}</td>'
        f'<td class="n">{r.slices}</td><td class="n">{r.ops}</td><td class="n">{r.bodies}</td>'
        f'<td class="n">{format_bytes(r.result_bytes)}</td><td>{_results_text(r)}</td>'
        f'<td class="n">{format_bytes(r.peak_bytes)}</td><td class="n">{format_seconds(r.seconds)}</td></tr>'
        for r in found
    )
    head = ("Region", "Axis", "n:Slices", "n:Ops", "n:Bodies", "n:Results", "Written", "n:Live at most", "n:Time")
    slices = sum(r.slices for r in found)
    count = f"{len(found)} sliced loop{'s' * (len(found) != 1)}, {slices} slices; a row shows its stretch above"
    return _section("Regions", count, _table(head, rows))


def _results_text(region: Region) -> str:
    parts = [
        (region.in_place, "in place"),
        (region.combined, "combined"),
        (region.results - region.in_place - region.combined, "new buffer"),
    ]
    if region.results == 1:
        return next(text for count, text in parts if count)
    return ", ".join(f"{count} {text}" for count, text in parts if count)


def _passes_section(passes: Sequence[PassReport]) -> str:
    rows = (
        f"<tr><td><code>{escape(p.name)}</code></td>"
        f"<td>{_pill(p.equivalence, _EQUIVALENCE_CLASS[p.equivalence])}</td>"
        f'<td>{"changed" if p.changed else "no change"}</td><td class="n">{format_seconds(p.seconds)}</td></tr>'
        for p in passes
    )
    return _section("Passes", "in order", _table(("Pass", "Equivalence", "Effect", "n:Took"), rows))


def _facts_section(report: Report) -> str:
    table = _table(("", "n:Before", "n:After"), (_figures_row(*row) for row in summary.figures(report)))
    return _section("Figures", "", table, _check_pill(report))


def _figures_row(label: str, *figures: str) -> str:
    return f"<tr><td>{label}</td>{_numbers(figures)}</tr>"


def _numbers(texts: Iterable[str]) -> str:
    return "".join(f'<td class="n">{text}</td>' for text in texts)


def _check_pill(report: Report) -> str:
    check = report.check
    text = {"passed": "checked", "failed": "check failed", "skipped": "not checked"}[check.status]
    if check.max_abs_error is not None:
        text += f": max error {check.max_abs_error:.2g}"
    if check.shape:
        text += f", {'full shape' if check.shape == 'full' else check.shape}"
    return _pill(text, _CHECK_CLASS[check.status])


def _front_section(report: Report) -> str:
    if not report.front:
        return ""
    largest = report.front[0].peak_activation_bytes
    rows = (
        f"<tr>{_numbers(row)}<td>{_bar(point.peak_activation_bytes, largest)}</td></tr>"
        for row, point in zip(summary.front_rows(report), summary.shown_points(report), strict=True)
    )
    head = ("n:Activations", "n:Memory needed", "n:Latency", "n:Ratio", "")
    more = summary.left_out_text(report)
    note = f'<p class="sub">{more}</p>' if more else ""
    return _section("Memory against latency", "plans that no other beats in both", _table(head, rows) + note)


def _bar(value: int, largest: int) -> str:
    width = 100 * value / largest if largest else 0
    return (
        '<svg width="260" height="10" role="presentation"><rect width="260" height="10" rx="3" fill="var(--grid)"/>'
        f'<rect width="{2.6 * width:.1f}" height="10" rx="3" fill="var(--after)"/></svg>'
    )


def _why_section(explanations: Sequence[Explanation]) -> str:
    if not explanations:
        return ""
    shown = explanations[:_MAX_EXPLANATIONS]
    rows = (
        f"<tr><td><code>{escape(e.node)}</code></td><td><code>{escape(e.pass_name)}</code></td>"
        f"<td>{escape(e.reason)}</td></tr>"
        for e in shown
    )
    more = f"the first {len(shown)} of " if len(shown) < len(explanations) else ""
    return f"""<section class="card" id="why"><details><summary>Why not more\
<span class="sub">{more}{len(explanations)} rewrites that did not apply, and why</span></summary>
<input type="search" id="filter" placeholder="Filter by node, pass or reason" aria-label="Filter">
<div class="scroll">{_table(("Node", "Pass", "Reason"), rows)}</div></details></section>"""


def _footer(report: Report) -> str:
    written = (
        f" Written: {', '.join(f'<code>{escape(a)}</code>' for a in report.artifacts)}." if report.artifacts else ""
    )
    return (
        "<footer>Sizes and times are simulated by one cost model, before and after alike. "
        f"The compiler took {format_seconds(report.seconds)}.{written}</footer>"
    )


def _section(title: str, sub: str, content: str, aside: str = "") -> str:
    aside = aside or f'<span class="sub">{sub}</span>'
    return (
        f'<section class="card"><div class="head"><h2>{title}</h2>{aside}</div>'
        f'<div class="scroll">{content}</div></section>'
    )


def _columns(sections: Iterable[str]) -> str:
    return f'<div class="two">{"".join(sections)}</div>'


def _table(head: Sequence[str], rows: Iterable[str]) -> str:
    """A heading that begins with ``n:`` is a column of numbers."""
    cells = "".join(
        f'<th class="n">{escape(text[2:])}</th>' if text.startswith("n:") else f"<th>{escape(text)}</th>"
        for text in head
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _pill(text: str, kind: str) -> str:
    return f'<span class="pill {kind}">{escape(text)}</span>'
