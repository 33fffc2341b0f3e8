"""What the written reports show beyond the JSON schema: timelines, regions, and who says what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, fx

from vgcomp import ir

if TYPE_CHECKING:
    from vgcomp.program import Program
    from vgcomp.simulate import Entry, Timeline

#: Points a drawn curve has at most; more than any screen is wide, and a page stays under a megabyte.
MAX_POINTS = 6000


@dataclass(frozen=True)
class Point:
    """One op of a timeline, or several short ones together: then it is the one with the most live bytes."""

    start_s: float
    duration_s: float
    live_bytes: int
    name: str
    op: str
    bound: str


@dataclass(frozen=True)
class Region:
    """One sliced loop of a program, for people.

    ``ops``: distinct ops of its largest body. ``bodies``: distinct programs that the slices run.
    ``result_bytes``: of all its results; ``in_place``: how many of them take an operand's buffer.
    """

    name: str
    note: str
    axis: str
    slices: int
    bodies: int
    ops: int
    results: int
    in_place: int
    combined: int
    result_bytes: int
    start_s: float
    seconds: float
    peak_bytes: int


def curve(timeline: Timeline, limit: int = MAX_POINTS) -> list[Point]:
    """The memory curve of a timeline, in time order, its peak kept whatever ``limit`` is."""
    entries = list(timeline.entries)
    width = max(1, -(-len(entries) // limit))
    points = []
    for i in range(0, len(entries), width):
        group = entries[i : i + width]
        top = max(group, key=lambda entry: entry.live_bytes)
        end = group[-1].start_s + group[-1].duration_s
        points.append(
            Point(group[0].start_s, end - group[0].start_s, top.live_bytes, top.name, _what(top), str(top.bound))
        )
    return points


def regions(program: Program, timeline: Timeline) -> list[Region]:
    """Every sliced loop of the program, in the order in which they run."""
    spans = _spans(timeline)
    return [_region(node, spans) for node in program.graph.nodes if ir.is_loop(node)]


def _what(entry: Entry) -> str:
    """``convolution``, or ``convolution, 14 slices in frames_0``."""
    op = op_text(entry.op)
    return f"{op}, {entry.slices} slices in {entry.in_loop}" if entry.in_loop else op


def op_text(op: object) -> str:
    """``aten.convolution.default`` -> ``convolution``: an overload's name is noise to a reader."""
    text = str(op)
    parts = text.split(".")
    return parts[1] if len(parts) == 3 else text


@dataclass
class _Span:
    start_s: float
    seconds: float
    peak_bytes: int


def _spans(timeline: Timeline) -> dict[str, _Span]:
    """Time and peak of every loop, by the name of its node."""
    spans: dict[str, _Span] = {}
    for entry in timeline.entries:
        if entry.in_loop is None:
            continue
        span = spans.setdefault(entry.in_loop, _Span(entry.start_s, 0.0, 0))
        span.seconds += entry.duration_s
        span.peak_bytes = max(span.peak_bytes, entry.live_bytes)
    return spans


def _region(node: fx.Node, spans: dict[str, _Span]) -> Region:
    loop = ir.loop_of(node)
    span = spans.get(node.name, _Span(0.0, 0.0, 0))
    values: Sequence[Tensor] = node.meta["val"]
    return Region(
        name=loop.name,
        note=loop.note,
        axis=_axes_text(loop),
        slices=loop.n_slices,
        bodies=len(loop.bodies),
        ops=max(_count_ops(body.graph) for body in loop.bodies),
        results=len(loop.results),
        in_place=sum(result.into is not None for result in loop.results),
        combined=sum(result.combine is not None for result in loop.results),
        result_bytes=sum(ir.nbytes(value) for value in values),
        start_s=span.start_s,
        seconds=span.seconds,
        peak_bytes=span.peak_bytes,
    )


def _count_ops(graph: fx.Graph) -> int:
    return sum(1 for node in graph.nodes if node.op == "call_function")


def _axes_text(loop: ir.Loop) -> str:
    """``dim 0 of 14``: the axis of the first result, or of the first operand where all results are combined."""
    axes = [result.axis for result in loop.results if result.axis] or [axis for axis in loop.operand_axes if axis]
    if not axes:
        return "–"
    axis = axes[0]
    factor = "" if axis.whole_dim else f" ({axis.outer}×[{axis.extent}]×{axis.inner})"
    return f"dim {axis.dim} of {axis.extent}{factor}"
