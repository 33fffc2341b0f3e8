"""The joint plan of a generation: all stages under one budget.

    result = generate_plan("svd", target="a100", memory="8GB")
    print(result.report.to_markdown())
    result.programs["unet"]

Memory of a stage's turn is what its program needs (:mod:`vgcomp.device_memory`), and beside that the weights that stay
and the tensors that the pipeline holds, as the allocator places them. At a change of stages what the allocator keeps
for nobody is given back; weights that come are copied from pinned memory, one stage's after another's, at the target's
``host_bytes_per_s``, and nothing runs meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vgcomp.alloc_trace import Alloc, Replay
from vgcomp.cost_models.analytic import AnalyticModel
from vgcomp.cost_models.base import CostModel
from vgcomp.errors import Infeasible, UsageError
from vgcomp.generation.planner import StagePlanner
from vgcomp.generation.report import GenerationReport, StageFigures, StageReport, Whole
from vgcomp.generation.residency import Arrangement, Link, Search, Smallest, arrange, smallest
from vgcomp.generation.stage import Answer, Beside, Stage, Weights
from vgcomp.lower_bound import lower_bound_bytes
from vgcomp.models import build
from vgcomp.models.pipelines import Pipeline, find_pipeline
from vgcomp.program import Program
from vgcomp.result import LowerBound, PassReport
from vgcomp.targets import Target, load_target
from vgcomp.units import format_bytes, parse_bytes

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class GenerationResult:
    """The report, and the planned program of every stage by its name."""

    report: GenerationReport
    programs: dict[str, Program]

    def save(self, directory: str | Path) -> None:
        """Writes every stage's program into a folder of its name, and ``report.json``."""
        folder = Path(directory)
        for name, program in self.programs.items():
            program.save(folder / name.replace(" ", "-"))
        (folder / "report.json").write_text(self.report.to_json(), encoding="utf-8")


class Generation:
    """Stages on a target, to be planned at any budget: what is computed for one serves the next."""

    def __init__(
        self,
        name: str,
        stages: Sequence[Stage],
        target: str | Target,
        cost_model: CostModel | None = None,
        progress: Progress | None = None,
    ) -> None:
        if not stages or len({stage.name for stage in stages}) != len(stages):
            raise UsageError(f"{name}: a generation has stages, each with a name of its own")
        self.name = name
        self.stages = tuple(stages)
        self.target = load_target(target)
        model = cost_model or AnalyticModel(self.target)
        self.planners = [StagePlanner(s, self.target, model, progress or _silent) for s in stages]
        self.link = Link(self.target.host_bytes_per_s)
        self.beside = beside_of(self.stages, self.target)

    @property
    def search(self) -> Search:
        return Search(self.planners, self.beside, self.link)

    def plan(self, memory: str | int) -> GenerationResult:
        """The plan of least latency within ``memory`` bytes. Raises Infeasible with the smallest budget found."""
        begin = time.perf_counter()
        budget = parse_bytes(memory)
        found = arrange(self.search, budget)
        if found is None:
            least = self.smallest()
            # Searching for the smallest tries other plans, and may find some that fit after all.
            found = arrange(self.search, budget) if least.need_bytes <= budget else None
        if found is None:
            raise self.infeasible(budget, least)
        return self._result(budget, found, time.perf_counter() - begin)

    def smallest(self) -> Smallest:
        """The smallest feasible budget, and the stage that needs it."""
        return smallest(self.search)

    def infeasible(self, budget: int, least: Smallest) -> Infeasible:
        """The error that names the smallest budget and what stands at its peak, in which stage."""
        stage = self.stages[least.stage]
        size = format_bytes(stage.program.weight_bytes())
        how = "streamed op by op" if least.answer.streamed else "on the device"
        return Infeasible(
            f"no plan of {self.name} fits {format_bytes(budget)}: {stage.name} takes "
            f"{format_bytes(least.need_bytes)} at the least, its {size} of weights {how}",
            smallest_bytes=least.need_bytes,
            culprit=f"{culprit_of(least.answer)} in {stage.name}",
        )

    def _result(self, budget: int, found: Arrangement, seconds: float) -> GenerationResult:
        everyone = frozenset(range(len(self.stages)))
        before = [self._figures(i, planner.before, everyone) for i, planner in enumerate(self.planners)]
        after = [self._figures(i, answer, found.kept) for i, answer in enumerate(found.answers)]
        bounds = [_bound(stage.program, answer) for stage, answer in zip(self.stages, found.answers, strict=True)]
        stages = tuple(self._stage_report(i, found, (before[i], after[i]), bounds[i]) for i in range(len(self.stages)))
        least = max(_floor(figures, bound) for figures, bound in zip(after, bounds, strict=True))
        report = GenerationReport(
            pipeline=self.name,
            target=self.target.name,
            budget_bytes=budget,
            host_bytes_per_s=self.link.bytes_per_s,
            before=self._whole(
                before, [stage.runs * f.latency_s for stage, f in zip(self.stages, before, strict=True)]
            ),
            after=self._whole(after, [s.seconds for s in stages], sum(s.copy_s for s in stages)),
            lower_bound_bytes=least,
            stages=stages,
            seconds=seconds,
        )
        programs = {s.name: _plan(a).program for s, a in zip(self.stages, found.answers, strict=True)}
        return GenerationResult(report, programs)

    def _whole(self, figures: Sequence[StageFigures], seconds: Sequence[float], copy_s: float = 0.0) -> Whole:
        peak = max(range(len(figures)), key=lambda i: figures[i].peak_bytes)
        return Whole(
            peak_bytes=figures[peak].peak_bytes,
            peak_stage=self.stages[peak].name,
            latency_s=sum(seconds),
            copy_s=copy_s,
        )

    def _stage_report(
        self, i: int, found: Arrangement, figures: tuple[StageFigures, StageFigures], bound: LowerBound
    ) -> StageReport:
        stage, answer = self.stages[i], found.answers[i]
        weights: Weights = "kept" if i in found.kept else "streamed" if answer.streamed else "loaded"
        copies = {"kept": 0, "loaded": 1, "streamed": stage.runs}[weights]
        return StageReport(
            name=stage.name,
            network=stage.program.name,
            runs=stage.runs,
            schedule=stage.schedule,
            weights=weights,
            weight_bytes=stage.program.weight_bytes(),
            copy_s=copies * self.link.seconds(stage.program.weight_bytes()),
            before=figures[0],
            after=figures[1],
            lower_bound_bytes=bound,
            passes=tuple(
                PassReport.model_validate(
                    {"name": r.name, "equivalence": r.equivalence, "changed": r.changed, "seconds": r.seconds}
                )
                for r in _plan(answer).records
            ),
            culprit=culprit_of(answer),
        )

    def _figures(self, i: int, answer: Answer, kept: frozenset[int]) -> StageFigures:
        plan, memory = _plan(answer), _plan(answer).memory
        held = self.beside(i, frozenset())
        others = self.beside(i, kept - {i}) - held
        parts = dict(memory.parts)
        if answer.need_bytes > memory.total_bytes:
            # The stage is through: what is made of its result is more than its run took.
            parts = {"weights": memory.weights, "context": memory.context}
            parts["frames out"] = answer.need_bytes - sum(parts.values())
        parts |= {"other weights": others, "held": held}
        return StageFigures(
            peak_bytes=answer.need_bytes + others + held,
            parts={name: size for name, size in parts.items() if size},
            kinds=dict(memory.kinds),
            peak_activation_bytes=plan.timeline.peak_activation_bytes,
            latency_s=answer.latency_s,
            flops=plan.timeline.flops,
            nodes=plan.program.n_nodes,
        )


def generate_plan(
    pipeline: str | Pipeline,
    *,
    target: str | Target,
    memory: str | int | None = None,
    settings: Mapping[str, Any] | None = None,
    cost_model: CostModel | None = None,
    progress: Progress | None = None,
) -> GenerationResult:
    """Plans a pipeline of the zoo. ``memory``: None for all that the target has for one application.

    Raises UsageError, Infeasible (with the smallest budget that can be met).
    """
    begin = time.perf_counter()
    found = find_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
    device = load_target(target)
    chosen = found.settings(settings or {})
    generation = Generation(found.name, stages_of(found, settings or {}), device, cost_model, progress)
    result = generation.plan(device.usable_bytes if memory is None else memory)
    more = {"sampler": found.sampler, "settings": vars(chosen), "seconds": time.perf_counter() - begin}
    report = result.report.model_copy(update=more)
    return GenerationResult(report, result.programs)


def stages_of(pipeline: Pipeline, settings: Mapping[str, Any]) -> list[Stage]:
    """The stages of a pipeline of the zoo, their programs built."""
    return [
        Stage(part.name, build(part.network, **part.settings), part.runs, part.schedule, part.held, part.after)
        for part in pipeline.stages(pipeline.settings(settings))
    ]


def beside_of(stages: Sequence[Stage], target: Target) -> Beside:
    """What lies beside a stage, as the target's allocator places it."""
    weights = [[weight.nbytes for weight in stage.program.weights.values()] for stage in stages]

    @lru_cache(maxsize=4096)
    def beside(stage: int, kept: frozenset[int]) -> int:
        sizes = [size for i in sorted(kept) for size in weights[i]] + list(stages[stage].held)
        if target.hands_out != "caching":
            return sum(sizes)
        return Replay().run(Alloc(i, size) for i, size in enumerate(sizes)).allocator.reserved_bytes

    return beside


def culprit_of(answer: Answer) -> str:
    """What stands at an answer's peak."""
    plan = _plan(answer)
    return plan.culprit if answer.need_bytes <= plan.memory.total_bytes else "the frames on their way out"


def _plan(answer: Answer) -> Any:
    assert answer.plan is not None, "planners of programs say what they planned"
    return answer.plan


def _bound(program: Program, answer: Answer) -> LowerBound:
    planned = lower_bound_bytes(_plan(answer).program, inplace=True).bytes
    return LowerBound(unsliced=lower_bound_bytes(program).bytes, result=planned)


def _floor(figures: StageFigures, bound: LowerBound) -> int:
    """Bytes of a turn that no order of the planned program's ops goes below."""
    parts = figures.parts
    return bound.result + sum(parts.get(name, 0) for name in ("weights", "context", "other weights", "held"))


def _silent(stage: str, fraction: float) -> None:
    """For those who do not listen."""
