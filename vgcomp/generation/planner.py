"""A stage's answers by planning its program: how fast within so many bytes, and how few bytes at all.

Passes that do not depend on the budget run once, and one slicer serves every budget. What was asked is remembered.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

from vgcomp import ir
from vgcomp.cost_models.base import CostModel
from vgcomp.device_memory import DeviceMemory, device_memory, fixed_bytes, loaded_bytes
from vgcomp.generation.residency import Link
from vgcomp.generation.stage import Answer, Plan, Stage
from vgcomp.generation.streaming import most_weights, weights_at_use
from vgcomp.passes.base import PassContext
from vgcomp.passes.pipeline import PipelineResult, run_pipeline
from vgcomp.passes.slice_and_group import beside, peak_culprit, within
from vgcomp.program import PassRecord, Program
from vgcomp.simulate import Timeline, simulate
from vgcomp.slicing.engine import CHEAP, ROUGH, Slicer, Solution
from vgcomp.targets import Target

#: What comes before slicing, and after it.
FIRST, LAST = ("canonicalize", "schedule"), ("assign-buffers",)
#: Plans that are tried for one room with streamed weights.
TRIES = 3

Progress = Callable[[str, float], None]


class StagePlanner:
    """Answers for one stage on one target; see :class:`~vgcomp.generation.stage.Planner`."""

    def __init__(self, stage: Stage, target: Target, cost_model: CostModel, progress: Progress) -> None:
        self.stage = stage
        self.name, self.runs = stage.name, stage.runs
        self._link = Link(target.host_bytes_per_s)
        self._context = PassContext(target, cost_model, progress=self._named(progress))
        self._known: dict[bool, list[Answer]] = {False: [], True: []}
        self._asked: dict[tuple[bool, bool], list[tuple[int, Answer | None]]] = {}

    def _named(self, progress: Progress) -> Progress:
        return lambda what, fraction: progress(f"{self.stage.name}: {what}", fraction)

    # -- facts ----------------------------------------------------------------------------------------

    @property
    def weight_bytes(self) -> int:
        return self.stage.program.weight_bytes()

    @cached_property
    def before(self) -> Answer:
        """The program as it was given."""
        return self._answer(self.stage.program, ())

    @cached_property
    def floor_bytes(self) -> int:
        """The process' share, and the stage's inputs or outputs; with one memory the weights too."""
        program, target = self.stage.program, self._context.target
        ends = max(sum(ir.nbytes(ir.val(n)) for n in nodes) for nodes in (program.inputs, program.outputs))
        whole = self._link.bytes_per_s is None
        return ends + (loaded_bytes(program, target) if whole else fixed_bytes(target))

    @cached_property
    def _prepared(self) -> PipelineResult:
        return run_pipeline(self.stage.program, FIRST, self._context)

    @cached_property
    def _unsliced(self) -> Answer:
        return self._finished(self._prepared.program)

    @cached_property
    def _unsliced_streamed(self) -> Answer:
        return self._streamed(self._unsliced)

    @cached_property
    def _slicer(self) -> Slicer:
        context = self._context
        return Slicer(self._prepared.program, context.target, context.cost_model, context.progress)

    # -- answers --------------------------------------------------------------------------------------

    def fastest(self, room: int, most_s: float = math.inf, *, streamed: bool = False) -> Answer | None:
        if self._unsliced.latency_s + (self._link.seconds(self.weight_bytes) if streamed else 0.0) >= most_s:
            return None
        unsliced = self._unsliced_streamed if streamed else self._unsliced
        if unsliced.need_bytes <= room:
            return unsliced
        if room < self.floor_bytes or (not streamed and room <= beside(self._slicer) + self._slicer.floor):
            return None
        # Where only a plan that costs next to nothing is of use, regions need not be nested.
        nested = most_s > CHEAP * unsliced.latency_s
        asked = self._asked.setdefault((streamed, nested), [])
        fitting = [a for a in self._known[streamed] if a.need_bytes <= room]
        # Nothing was found for more than this, or what was found then is small enough.
        served = any(other >= room and (a is None or a.need_bytes <= room) for other, a in asked)
        if not served:
            answer = self._plan_streamed(room, nested) if streamed else self._plan(room, nested)
            asked.append((room, answer))
            fitting += [] if answer is None else [answer]
        best = min(fitting, key=lambda a: a.latency_s, default=None)
        return best if best is not None and best.latency_s < most_s else None

    def smallest(self, *, streamed: bool = True) -> Answer:
        """The answer of least need; without ``streamed``, with all weights on the device."""
        return min(self._least[: None if streamed else 1], key=lambda a: a.need_bytes)

    @cached_property
    def _least(self) -> tuple[Answer, ...]:
        """The answers of least need, with all weights on the device and, where there is a host, with streamed ones."""
        slicer = self._slicer
        ways = [self._unsliced, self._known_answer(self._sliced(slicer.smallest(ROUGH, beside(slicer))))]
        found = [min(ways, key=lambda a: a.need_bytes)]
        if self._link.bytes_per_s is not None:
            found.append(min(map(self._streamed, ways), key=lambda a: a.need_bytes))
        for answer in found:
            self._known_answer(answer)
            for nested in (True, False):
                # Who asks for just as much is told of this one, and nothing is searched again.
                self._asked.setdefault((answer.streamed, nested), []).append((answer.need_bytes, answer))
        return tuple(found)

    def _plan(self, room: int, nested: bool) -> Answer | None:
        solution = within(self._slicer, room, nested=nested)
        if solution is None:
            return None
        answer = self._known_answer(self._sliced(solution))
        return answer if answer.need_bytes <= room else None

    def _plan_streamed(self, room: int, nested: bool) -> Answer | None:
        """Slices for what the largest op's weights leave; what they need together is known only then."""
        slicer, target = self._slicer, self._context.target
        left = room - fixed_bytes(target) - most_weights(self._prepared.program)
        for _ in range(TRIES):
            solution = within(slicer, beside(slicer) + left, nested=nested) if left > slicer.floor else None
            if solution is None:
                return None
            answer = self._known_answer(self._streamed(self._sliced(solution)))
            if answer.need_bytes <= room:
                return answer
            left -= answer.need_bytes - room
        return None

    def _known_answer(self, answer: Answer) -> Answer:
        self._known[answer.streamed].append(answer)
        return answer

    # -- figures --------------------------------------------------------------------------------------

    def _sliced(self, solution: Solution) -> Answer:
        loops = sum(ir.is_loop(node) for node in solution.program.graph.nodes)
        stats = {"loops": loops, "peak_activation_bytes": solution.peak}
        record = PassRecord("slice-and-group", "reassociated", loops > 0, 0.0, {**stats})
        return self._finished(solution.program, (record,))

    def _finished(self, program: Program, sliced: tuple[PassRecord, ...] = ()) -> Answer:
        done = run_pipeline(program, LAST, self._context)
        return self._answer(done.program, (*self._prepared.records, *sliced, *done.records))

    def _answer(self, program: Program, records: tuple[PassRecord, ...]) -> Answer:
        target = self._context.target
        timeline = simulate(program, target, self._context.cost_model)
        memory = device_memory(program, target)
        after = loaded_bytes(program, target) + self.stage.after if self.stage.after else 0
        return Answer(
            max(memory.total_bytes, after), timeline.latency_s, plan=_plan_of(program, memory, timeline, records)
        )

    def _streamed(self, answer: Answer) -> Answer:
        """The same program with weights that come op by op; every run copies them all."""
        plan = answer.plan
        assert plan is not None
        target = self._context.target
        program = weights_at_use(plan.program)
        memory = device_memory(program, target, streamed=True)
        after = fixed_bytes(target) + self.stage.after
        seconds = answer.latency_s + self._link.seconds(self.weight_bytes)
        need = max(memory.total_bytes, after)
        return Answer(need, seconds, True, Plan(program, memory, plan.records, plan.timeline, plan.culprit))


def _plan_of(program: Program, memory: DeviceMemory, timeline: Timeline, records: tuple[PassRecord, ...]) -> Plan:
    return Plan(program, memory, records, timeline, peak_culprit(program))
