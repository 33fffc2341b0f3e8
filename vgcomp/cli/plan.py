"""``vgcomp plan``: the memory timeline, and what stands at its peak."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vgcomp.cli import options
from vgcomp.cli.console import out, progress, say, table

if TYPE_CHECKING:
    from vgcomp.simulate import Timeline


def plan(
    model: options.Source,
    settings: options.Set = None,
    target: options.Target = options.DEFAULT_TARGET,
    mem: options.Memory = None,
    passes: options.Passes = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Tensors listed at the peak.")] = 12,
    cost_model: options.CostModel = options.CostModelName.analytic,
) -> None:
    """Show the memory timeline and what is alive at its peak; with --mem or --passes, before and after."""
    from vgcomp.cli.source import load_source
    from vgcomp.cost_models import named_model
    from vgcomp.simulate import simulate
    from vgcomp.targets import load_target
    from vgcomp.units import format_bytes, format_seconds, parse_bytes

    device = load_target(target)
    budget = parse_bytes(mem) if mem is not None else None
    costs = named_model(cost_model.value, device)
    with progress() as tell:
        tell(f"reading {model}", 0.0)
        program = load_source(model, settings or [])
        before = None
        if mem is None and passes is None:
            timeline = simulate(program, device, costs)
        else:
            from vgcomp.optimize import optimize

            before, timeline = optimize(
                program, target=device, memory=budget, passes=passes, progress=tell, cost_model=costs
            ).timelines
    _print_chart(timeline, before, budget)
    say(
        f"Peak {format_bytes(timeline.peak_activation_bytes)} of activations, "
        f"{format_bytes(timeline.peak_bytes)} with weights; {format_seconds(timeline.latency_s)} on {device.name}"
    )
    say(_at_peak(timeline, top))


def _print_chart(timeline: Timeline, before: Timeline | None, budget: int | None) -> None:
    from vgcomp.cli.chart import chart

    console = out()
    if not console.is_terminal:
        return  # a picture is for eyes; the figures follow
    room = budget - timeline.weight_bytes if budget is not None else None
    console.print(chart(timeline, before=before, budget=room, width=max(20, min(120, console.width - 34))))


def _at_peak(timeline: Timeline, top: int) -> Table:
    """The buffers that are alive at the peak, largest first."""
    from vgcomp import ir
    from vgcomp.units import format_bytes

    node = timeline.peak_node
    found = table(f"Alive at the peak, while {node.name} runs" if node else "Alive", "Shape", "Dtype", "Kind", ">Bytes")
    if node is None:
        return found
    at = list(node.graph.nodes).index(node)
    live = [b for b in timeline.liveness.buffers if b.first <= at <= b.last and b.size]
    live.sort(key=lambda buffer: -buffer.size)
    for buffer in live[:top]:
        value = ir.val(buffer.nodes[0]) if buffer.nodes else None
        shape = "×".join(map(str, value.shape)) if value is not None else "-"
        dtype = str(value.dtype).removeprefix("torch.") if value is not None else "-"
        name = buffer.nodes[0].name if buffer.nodes else "-"
        found.add_row(name, shape, dtype, buffer.kind, format_bytes(buffer.size))
    if len(live) > top:
        rest = sum(buffer.size for buffer in live[top:])
        found.add_row(f"{len(live) - top} more", "", "", "", format_bytes(rest))
    inside = timeline.peak_activation_bytes - sum(buffer.size for buffer in live)
    if inside > 0:
        found.add_row(f"inside {node.name}", "", "", "slices, carries, workspace", format_bytes(inside))
    return found
