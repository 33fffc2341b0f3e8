"""``optimize``: a program, a device and a budget in; the program rewritten, with the figures, out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vgcomp.cost_models.analytic import AnalyticModel
from vgcomp.cost_models.base import CostModel
from vgcomp.crosscheck import Checked, crosscheck
from vgcomp.device_memory import DeviceMemory, device_memory, fixed_bytes
from vgcomp.errors import Infeasible
from vgcomp.lower_bound import lower_bound_bytes
from vgcomp.memory import peak_activation_bytes
from vgcomp.passes.base import Pass, PassContext, no_progress
from vgcomp.passes.pipeline import PipelineResult, run_pipeline
from vgcomp.passes.registry import build_pipeline
from vgcomp.passes.slice_and_group import SliceAndGroup
from vgcomp.program import PassRecord, Program
from vgcomp.result import CheckReport, Explanation, FrontPoint, LowerBound, Measures, PassReport, Report
from vgcomp.simulate import Timeline, simulate
from vgcomp.slicing.engine import Slicer, Solution
from vgcomp.targets import Target, load_target
from vgcomp.units import format_bytes, parse_bytes
from vgcomp.verify import verify

if TYPE_CHECKING:
    from vgcomp.backends.torch_module import TorchModule

#: The default pipeline, in order.
DEFAULT_PIPELINE: tuple[str, ...] = (
    "canonicalize",  # fewer and plainer ops first: everything after it looks at each of them
    "schedule",  # before slicing, which cuts the order into intervals and cannot change it
    "slice-and-group",  # decides the plan; knows that what follows will reuse buffers
    # pipeline-slices has its place here, for who asks for it: it needs the loops, and gains about a percent so far.
    "assign-buffers",  # last, since every rewrite may shorten or lengthen a life
)

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class OptimizeResult:
    """The optimized program and all that is known of it. ``timelines``: before and after."""

    program: Program
    report: Report
    timelines: tuple[Timeline, Timeline]
    explanations: tuple[Explanation, ...] = ()
    #: The programs of the report's front, in its order; empty where a budget was given.
    front: tuple[Program, ...] = ()

    def module(self) -> TorchModule:
        """The program as a torch module. Raises ModelError where weights are absent."""
        from vgcomp.backends.torch_module import TorchModule

        return TorchModule(self.program)

    def save(self, directory: str | Path) -> None:
        """Writes the program (see ``Program.save``) and ``report.json`` into a folder."""
        folder = Path(directory)
        self.program.save(folder)
        (folder / "report.json").write_text(self.report.to_json(), encoding="utf-8")


def optimize(
    program: Program,
    *,
    target: str | Target,
    memory: str | int | None = None,
    passes: str | Sequence[str | Pass] | None = None,
    check: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    cost_model: CostModel | None = None,
) -> OptimizeResult:
    """Rewrites ``program`` to run on ``target`` within ``memory`` bytes at the least simulated latency.

    ``memory``: bytes that the device has for all of it (weights, activations, workspaces, what the allocator loses, the
    process itself; see :mod:`vgcomp.device_memory`), as a number or as text (``"6GB"``). None
    asks for the Pareto front of peak against latency; the program then returned is the fastest of it.
    ``check`` runs both programs on the same random inputs and compares.

    Raises UsageError, ModelError, Infeasible (with the smallest budget that can be met) and CheckFailed.
    """
    begin = time.perf_counter()
    device = load_target(target)
    budget = None if memory is None else parse_bytes(memory)
    model = cost_model or AnalyticModel(device)
    context = PassContext(device, model, budget, progress or no_progress)
    pipeline = build_pipeline(passes if passes is not None else DEFAULT_PIPELINE)
    before = simulate(program, device, model)
    done = run_pipeline(program, pipeline, context)
    slices = any(isinstance(item, SliceAndGroup) for item in pipeline)
    front = _front(done, context) if budget is None and slices else []
    after = simulate(done.program, device, model)
    needs = device_memory(done.program, device)
    _hold_budget(program, after, needs, budget)
    checked = _checked(done, pipeline, context, seed) if check else CheckReport()
    report = Report(
        model=program.name,
        target=device.name,
        budget_bytes=budget,
        before=_measures(program, before, device_memory(program, device)),
        after=_measures(done.program, after, needs),
        lower_bound_bytes=LowerBound(
            unsliced=lower_bound_bytes(program).bytes, result=lower_bound_bytes(done.program, inplace=True).bytes
        ),
        passes=tuple(_pass_report(record) for record in done.records),
        front=tuple(_point(solution, memory) for solution, memory in front),
        check=checked,
        latency_sources=after.sources,
        seconds=time.perf_counter() - begin,
    )
    programs = tuple(solution.program for solution, _ in front)
    return OptimizeResult(done.program, report, (before, after), done.explanations, programs)


def _front(done: PipelineResult, context: PassContext) -> list[tuple[Solution, DeviceMemory]]:
    """The front of what the pipeline made of the program: a point that the device needs no less for is left out."""
    slicer = Slicer(done.program, context.target, context.cost_model, context.progress)
    front: list[tuple[Solution, DeviceMemory]] = []
    for solution in slicer.front():
        memory = device_memory(solution.program, context.target)
        if not front or memory.total_bytes < front[-1][1].total_bytes:
            verify(solution.program)
            front.append((solution, memory))
    return front


def _checked(done: PipelineResult, pipeline: Sequence[Pass], context: PassContext, seed: int) -> CheckReport:
    """The optimized program's outputs against the unmodified one's, or its subnet's where one was extracted."""
    first, later = pipeline[: done.prepared], pipeline[done.prepared :]

    def prepare(network: Program) -> Program:
        return run_pipeline(network, first, replace(context, progress=no_progress)).program

    def repeat(other: Program, activation_bytes: int) -> Program:
        budget = other.weight_bytes() + activation_bytes + fixed_bytes(context.target)
        try:
            return run_pipeline(other, later, replace(context, memory=budget, progress=no_progress)).program
        except Infeasible as error:
            smallest = replace(context, memory=error.smallest_bytes, progress=no_progress)
            return run_pipeline(other, later, smallest).program

    rank = {"exact": 0, "reassociated": 1, "approximate": 2}
    changed = (r.equivalence for r in done.records[done.prepared :] if r.changed)
    worst = max(changed, key=rank.__getitem__, default="exact")
    return crosscheck(Checked(done.reference, done.program, worst, repeat, prepare), seed=seed)  # type: ignore[arg-type]


def _pass_report(record: PassRecord) -> PassReport:
    """The record's line of the report; pydantic checks that its equivalence is one of the three."""
    return PassReport.model_validate(
        {"name": record.name, "equivalence": record.equivalence, "changed": record.changed, "seconds": record.seconds}
    )


def _point(solution: Solution, memory: DeviceMemory) -> FrontPoint:
    return FrontPoint(
        peak_bytes=memory.total_bytes,
        peak_activation_bytes=peak_activation_bytes(solution.program),  # the plan's own peak has workspaces in it
        latency_s=solution.seconds,
    )


def _measures(program: Program, timeline: Timeline, memory: DeviceMemory) -> Measures:
    return Measures(
        peak_bytes=memory.total_bytes,
        peak_activation_bytes=timeline.peak_activation_bytes,
        weight_bytes=timeline.weight_bytes,
        latency_s=timeline.latency_s,
        flops=timeline.flops,
        nodes=program.n_nodes,
        parts={name: size for name, size in memory.parts.items() if size},
    )


def _hold_budget(program: Program, after: Timeline, needs: DeviceMemory, budget: int | None) -> None:
    """A pipeline without slicing may well miss the budget: that is an answer, not a success."""
    if budget is None or needs.total_bytes <= budget:
        return
    culprit = str(after.peak_node)
    raise Infeasible(
        f"these passes bring {program.name} to {format_bytes(needs.total_bytes)}, over the budget of "
        f"{format_bytes(budget)}, with {culprit} at the peak: add slice-and-group",
        smallest_bytes=needs.total_bytes,
        culprit=culprit,
    )
