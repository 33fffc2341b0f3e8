"""Algorithm A1 [SnapGen-V, appendix A]: temporal layers are removed while latency T or memory M is missed, else added.

First a coarse search: each layer alone in the barest network gives the look-up table of latency and memory, and layers
that miss a limit even alone are out. Then, until nothing changes,

    T not satisfied      A⁻ with the least ΔQ/ΔLatency   (quality that is lost for each second saved)
    M not satisfied      A⁻ with the least ΔQ/ΔMemory
    otherwise            A⁺ with the greatest {ΔQ/ΔLatency, ΔQ/ΔMemory}, of those that the limits leave room for

where A⁻ takes the layer of one position away and A⁺ puts one where there is none, so that no position has two kinds.
The paper measures every action by its VBench score; here Q is the search's own quality. What it leaves open is decided
so: the start has at each position the layer that does most alone; of an addition's two ratios the one counts that uses
up its limit sooner; an addition that the table says does not fit is not evaluated; when nothing changes any more, the
next start is a random one. A choice without the option ``none`` goes one option down (A⁻) or up (A⁺).
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from vgcomp.compiled_cost.cost import Cost
from vgcomp.errors import UsageError
from vgcomp.search.engines.scripted import Script, Scripted
from vgcomp.search.problem import Evaluation, Problem
from vgcomp.space import Candidate, Choice, Option

NONE = "none"


@dataclass(frozen=True)
class Step:
    """One action that was executed. Differences are the action's: an A⁻ has negative ones where it saves.

    ``descent``: 0 for the first start; ``condition``: what made it; ``seconds``, ``peak_bytes``: after it.
    """

    descent: int
    condition: str
    action: str
    quality: float
    latency_s: float
    memory_bytes: int
    after: Evaluation

    @property
    def per_second(self) -> float | None:
        """ΔQ/ΔLatency, None where latency stays."""
        return self.quality / self.latency_s if self.latency_s else None

    @property
    def per_byte(self) -> float | None:
        """ΔQ/ΔMemory, None where memory stays."""
        return self.quality / self.memory_bytes if self.memory_bytes else None


@dataclass(frozen=True)
class _Action:
    """``text``: as the paper writes it."""

    text: str
    result: Candidate


class AlgorithmA1(Scripted):
    """Raises UsageError where neither latency nor memory is limited: without them nothing is ever removed."""

    judges_all = True

    def __init__(self, problem: Problem, seed: int = 0) -> None:
        if problem.limits.latency_s is None and problem.limits.memory_bytes is None:
            raise UsageError("Algorithm A1 works towards limits: give --latency or --mem, or take another --engine")
        self.problem = problem
        #: What was executed, in order.
        self.trace: list[Step] = []
        #: Layers that the coarse search took out, as ``selfattention3d[mid]``.
        self.eliminated: list[str] = []
        self._rng = random.Random(seed)
        self._table: dict[tuple[int, Option], Cost] = {}
        self._allowed = [choice.options for choice in problem.space.choices]
        super().__init__(self._run())

    def _run(self) -> Script:
        start = yield from self._coarse()
        descent = 0
        while True:
            yield from self._evolve(start, descent)
            descent += 1
            start = tuple(self._rng.choice(options) for options in self._allowed)

    def _coarse(self) -> Generator[list[Candidate], Sequence[Evaluation], Candidate]:
        """Fills the table, drops what misses a limit alone, and gives the first start."""
        base = tuple(choice.options[0] for choice in self.problem.space.choices)
        places = [(i, o) for i, choice in enumerate(self.problem.space.choices) for o in choice.options[1:]]
        bare, *singles = yield [base, *(_changed(base, i, option) for i, option in places)]
        found = dict(zip(places, singles, strict=True))
        self._table = {place: e.cost for place, e in found.items() if e.cost is not None}
        if bare.cost is not None:
            self._table |= dict.fromkeys(enumerate(base), bare.cost)
        self._allowed = [
            (options[0], *(o for o in options[1:] if self._fits_alone(found[i, o])))
            for i, options in enumerate(self._allowed)
        ]
        kept = [(i, option) for i, options in enumerate(self._allowed) for option in options]
        choices = self.problem.space.choices
        self.eliminated = [_change(choices[i], base[i], o) for i, o in places if (i, o) not in kept]
        worth = {place: e.quality for place, e in found.items() if e.quality is not None}
        worth |= {(i, option): bare.quality for i, option in enumerate(base) if bare.quality is not None}
        return tuple(
            max(options, key=lambda o: worth.get((i, o), float("-inf"))) for i, options in enumerate(self._allowed)
        )

    def _fits_alone(self, alone: Evaluation) -> bool:
        return alone.cost is not None and self.problem.limits.met(alone.cost)

    def _evolve(self, start: Candidate, descent: int) -> Script:
        """Executes actions until none helps."""
        (current,) = yield [start]
        while current.cost is not None and current.quality is not None:
            over_latency, over_memory = self.problem.limits.excess(current.cost)
            if over_latency or over_memory:
                actions = list(self._removals(current.candidate))
            else:
                actions = [a for a in self._additions(current.candidate) if self._may_fit(a, current)]
            if not actions:
                return
            results = yield [action.result for action in actions]
            steps = [
                self._step(descent, _condition(over_latency, over_memory), action, current, result)
                for action, result in zip(actions, results, strict=True)
                if result.cost is not None and result.quality is not None
            ]
            chosen = self._removal(steps, over_latency) if over_latency or over_memory else self._addition(steps)
            if chosen is None:
                return
            self.trace.append(chosen)
            current = chosen.after

    def _step(self, descent: int, condition: str, action: _Action, before: Evaluation, after: Evaluation) -> Step:
        assert before.cost is not None and after.cost is not None
        assert before.quality is not None and after.quality is not None
        return Step(
            descent,
            condition,
            action.text,
            after.quality - before.quality,
            after.cost.latency_s - before.cost.latency_s,
            after.cost.peak_bytes - before.cost.peak_bytes,
            after,
        )

    def _removal(self, steps: Sequence[Step], over_latency: float) -> Step | None:
        """The one that loses least for what it saves of the limit that is missed; None where none saves anything."""
        if over_latency:
            saving = [(step.quality / step.latency_s, step) for step in steps if step.latency_s < 0]
        else:
            saving = [(step.quality / step.memory_bytes, step) for step in steps if step.memory_bytes < 0]
        return min(saving, key=lambda pair: pair[0])[1] if saving else None

    def _addition(self, steps: Sequence[Step]) -> Step | None:
        """The one that wins most for what it uses, within the limits; None where none wins anything."""
        winning = [step for step in steps if step.quality > 0 and self.problem.admits(step.after)]
        return max(winning, key=lambda step: step.quality / self._use(step), default=None)

    def _use(self, step: Step) -> float:
        """The share of a limit that an addition uses up, the larger of the two; never nothing."""
        limits = self.problem.limits
        latency = 0.0 if limits.latency_s is None else step.latency_s / limits.latency_s
        memory = 0.0 if limits.memory_bytes is None else step.memory_bytes / limits.memory_bytes
        return max(latency, memory, 1e-9)

    def _may_fit(self, addition: _Action, current: Evaluation) -> bool:
        """Whether the table's latencies leave room for it. Memory is no sum: each layer fits it alone."""
        limit = self.problem.limits.latency_s
        if limit is None or current.cost is None:
            return True
        pairs = enumerate(zip(current.candidate, addition.result, strict=True))
        ((place, (before, after)),) = [(i, pair) for i, pair in pairs if pair[0] != pair[1]]
        known = self._table.get((place, before)), self._table.get((place, after))
        if known[0] is None or known[1] is None:
            return True
        return current.cost.latency_s + known[1].latency_s - known[0].latency_s <= limit

    def _removals(self, candidate: Candidate) -> Iterator[_Action]:
        for i, (choice, option) in enumerate(zip(self.problem.space.choices, candidate, strict=True)):
            lower = _below(choice, option, self._allowed[i])
            if lower is not None:
                yield _Action(f"A⁻ {_change(choice, option, lower)}", _changed(candidate, i, lower))

    def _additions(self, candidate: Candidate) -> Iterator[_Action]:
        for i, (choice, option) in enumerate(zip(self.problem.space.choices, candidate, strict=True)):
            for higher in _above(choice, option, self._allowed[i]):
                yield _Action(f"A⁺ {_change(choice, option, higher)}", _changed(candidate, i, higher))


def _condition(over_latency: float, over_memory: float) -> str:
    if over_latency:
        return "T not satisfied"
    return "M not satisfied" if over_memory else "satisfied"


def _below(choice: Choice, option: Option, allowed: Sequence[Option]) -> Option | None:
    """What removing a choice's layer leaves; None where there is nothing to remove."""
    if NONE in choice.options:
        return None if option == NONE else NONE
    lower = [o for o in allowed if choice.options.index(o) < choice.options.index(option)]
    return lower[-1] if lower else None


def _above(choice: Choice, option: Option, allowed: Sequence[Option]) -> Sequence[Option]:
    """What can be put there, in the place of nothing or of the option just below."""
    if NONE in choice.options:
        return [o for o in allowed if o != NONE] if option == NONE else ()
    return [o for o in allowed if choice.options.index(o) > choice.options.index(option)][:1]


def _change(choice: Choice, before: Option, after: Option) -> str:
    """``selfattention3d[mid]``, the layer that comes or goes; ``width 64→48`` where there is none to name."""
    if NONE in choice.options:
        return f"{after if before == NONE else before}[{choice.name.partition('.')[2] or choice.name}]"
    return f"{choice.name} {before}→{after}"


def _changed(candidate: Candidate, place: int, option: Option) -> Candidate:
    return (*candidate[:place], option, *candidate[place + 1 :])
