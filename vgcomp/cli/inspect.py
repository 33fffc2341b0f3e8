"""``vgcomp inspect``: what a network is made of, and what it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vgcomp.cli import options
from vgcomp.cli.console import progress, say, table

if TYPE_CHECKING:
    from torch import fx

    from vgcomp.program import Program
    from vgcomp.simulate import Timeline


def inspect(
    model: options.Source,
    settings: options.Set = None,
    target: options.Target = options.DEFAULT_TARGET,
    text: Annotated[bool, typer.Option("--text", help="Print the program itself, one node a line.")] = False,
) -> None:
    """Show inputs, ops, MACs, parameters, the memory peak and the bound below which no order of the ops goes."""
    from vgcomp.cli.source import load_source
    from vgcomp.cost_models import AnalyticModel
    from vgcomp.lower_bound import lower_bound_bytes
    from vgcomp.simulate import simulate
    from vgcomp.targets import load_target

    device = load_target(target)
    with progress() as tell:
        tell(f"reading {model}", 0.0)
        program = load_source(model, settings or [])
        if not text:
            tell("simulating", 0.4)
            timeline = simulate(program, device, AnalyticModel())
            tell("bounding", 0.7)
            bound = lower_bound_bytes(program).bytes
    if text:
        say(program.text().rstrip("\n"))
        return
    figures = _figures(program, timeline, bound, device.name)
    say(_interface(program), figures, _ops(program, timeline), *_temporal(program))


def _interface(program: Program) -> Table:
    from vgcomp import ir

    found = table(program.name, "Shape", "Dtype")
    pairs = (*zip(program.input_names, program.inputs), *zip(program.output_names, program.outputs))
    for i, (name, node) in enumerate(pairs):
        value = ir.val(node)
        side = "input" if i < len(program.inputs) else "output"
        found.add_row(f"{side} {name}", "×".join(map(str, value.shape)), str(value.dtype).removeprefix("torch."))
    return found


def _figures(program: Program, timeline: Timeline, bound: int, target: str) -> Table:
    from vgcomp.units import format_bytes, format_count, format_seconds

    found = table("", "")
    found.show_header = False
    rows = (
        ("Nodes", str(program.n_nodes)),
        ("Parameters", format_count(program.parameters())),
        ("Weights", format_bytes(program.weight_bytes())),
        ("MACs", format_count(sum(entry.macs for entry in _counts(program)))),
        ("Peak of activations", format_bytes(timeline.peak_activation_bytes)),
        ("Peak with weights", format_bytes(timeline.peak_bytes)),
        ("At the peak", timeline.peak_node.name if timeline.peak_node else "-"),
        ("Lower bound, any order", format_bytes(bound)),
        (f"Latency on {target}", f"{format_seconds(timeline.latency_s)} (simulated)"),
    )
    for row in rows:
        found.add_row(*row)
    return found


def _temporal(program: Program) -> list[Table]:
    """The layers that mix frames, in the order in which they run; nothing for a network of images."""
    from vgcomp import ir
    from vgcomp.temporal import temporal_layers
    from vgcomp.units import format_count

    if any(ir.is_loop(node) for node in program.graph.nodes):
        return []
    layers = temporal_layers(program)
    found = table("Temporal layer", "B×T×C×H×W", "What it does", ">FLOPs")
    for layer in layers:
        found.add_row(layer.name, layer.shape, ", ".join(layer.does), format_count(layer.flops))
    return [found] if layers else []


def _ops(program: Program, timeline: Timeline) -> Table:
    """One line an op, those that take longest first."""
    from vgcomp.report.data import op_text
    from vgcomp.units import format_bytes, format_count

    seconds: dict[str, float] = {}
    for entry in timeline.entries:
        seconds[op_text(entry.op)] = seconds.get(op_text(entry.op), 0.0) + entry.duration_s
    rows: dict[str, _Count] = {}
    for item in _counts(program):
        row = rows.setdefault(op_text(item.op), _Count(item.op))
        row.runs += item.runs
        row.macs += item.macs
        row.out_bytes += item.out_bytes
    total = timeline.latency_s or 1.0
    found = table("Op", ">Runs", ">MACs", ">Bytes put out", ">Time")
    for name, row in sorted(rows.items(), key=lambda item: (-seconds.get(item[0], 0.0), item[0])):
        macs = format_count(row.macs) if row.macs else "-"
        share = f"{seconds.get(name, 0.0) / total:.1%}"
        found.add_row(name, str(row.runs), macs, format_bytes(row.out_bytes), share)
    return found


@dataclass
class _Count:
    """``runs``: how often, every slice of a loop counted."""

    op: str
    runs: int = 0
    macs: float = 0.0
    out_bytes: int = 0


def _counts(program: Program) -> Iterator[_Count]:
    return _graph_counts(program.graph, 1)


def _graph_counts(graph: fx.Graph, times: int) -> Iterator[_Count]:
    from torch import fx

    from vgcomp import ir
    from vgcomp.cost_models import work_of

    for node in graph.nodes:
        if node.op != "call_function" or ir.is_getitem(node):
            continue
        if ir.is_loop(node):
            loop = ir.loop_of(node)
            for index, body in enumerate(loop.bodies):
                runs = sum(step.body == index for step in loop.steps)
                yield from _graph_counts(body.graph, times * runs)
            continue
        args, kwargs = fx.map_arg((node.args, node.kwargs), ir.val)  # type: ignore[misc]
        work = work_of(node.target, args, kwargs, ir.val(node))  # type: ignore[arg-type]
        yield _Count(str(node.target), times, times * work.matrix_flops / 2, times * ir.nbytes(ir.val(node)))
