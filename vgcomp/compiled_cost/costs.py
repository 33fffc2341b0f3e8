"""Costs of candidates from parts that were compiled before: milliseconds where the whole compiler takes seconds.

    costs = CompiledCosts(find_space("snapgen-v"), "a18pro", "3GB")
    costs.cost(candidate)

Where choices act at places of their own (:mod:`vgcomp.compiled_cost.cuts`), a candidate's program is put together from
pieces of others (:mod:`vgcomp.compiled_cost.pieces`) and simulated and planned by the same rules: the figures are those
of the whole compiler, not near them. A candidate with a piece never met is built, and met. The whole compiler is asked
(``full`` counts how often)

* where the budget asks for slices;
* in spaces whose choices change the whole network, and on devices with a caching allocator, whose state is no sum of
  pieces.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vgcomp import ir
from vgcomp.compiled_cost.cost import Cost
from vgcomp.compiled_cost.cuts import NotLocal
from vgcomp.compiled_cost.memo import Memo, conditioning
from vgcomp.compiled_cost.pieces import Linked
from vgcomp.compiled_cost.pipeline import Compiler, Figures, cost_of
from vgcomp.compiled_cost.trace import Trace, arena_bytes, latency_s, live_bytes, trace_of
from vgcomp.cost_models.base import CostModel
from vgcomp.optimize import DEFAULT_PIPELINE
from vgcomp.passes.base import Pass
from vgcomp.passes.canonicalize import Canonicalize
from vgcomp.passes.pipeline import run_pipeline
from vgcomp.program import Program
from vgcomp.simulate import Setup
from vgcomp.space import Candidate, Space
from vgcomp.targets import Target


@dataclass
class Counts:
    """How candidates were costed: linked from known pieces, built to meet new ones, by the whole compiler."""

    linked: int = 0
    built: int = 0
    full: int = 0


class CompiledCosts:
    """See the module's text. Figures are exact: those of :class:`~vgcomp.compiled_cost.pipeline.FullCosts`."""

    def __init__(
        self,
        space: Space,
        target: str | Target,
        memory: str | int | None = None,
        cost_model: CostModel | None = None,
        passes: tuple[str | Pass, ...] = DEFAULT_PIPELINE,
    ) -> None:
        self.compiler = Compiler.of(space, target, memory, cost_model, passes)
        self.counts = Counts()
        self._setup = Setup(self.compiler.target, self.compiler.model)
        self._known: dict[Candidate, Cost] = {}
        #: At the three stages: as built, before slices are thought of, after all passes.
        self._memos: list[Memo] = []
        self._sliced: set[Candidate] = set()
        self._local = self.compiler.target.hands_out != "caching" and bool(space.choices)
        self._inputs: list[int] = []

    @property
    def is_local(self) -> bool:
        """False where every candidate goes through the whole compiler."""
        self.prepare()
        return self._local

    def cost(self, candidate: Candidate) -> Cost:
        """What a candidate costs. Raises UsageError for one that is not of the space."""
        self.compiler.space.genes(candidate)
        if candidate not in self._known:
            self._known[candidate] = self._cost(candidate)
        return self._known[candidate]

    def prepare(self) -> None:
        """Finds where choices act and meets every option once; the first :meth:`cost` does it by itself."""
        if not self._local or self._memos:
            return
        try:
            self._memos = self._begun()
            for candidate in _every_option(self.compiler.space):
                self._meet(candidate, self.compiler.built(candidate))
        except NotLocal:
            self._local = False

    def meet_pairs(self) -> None:
        """Meets every pair of options of two choices, for long searches: fewer pieces are new after it.

        As many programs are built as the square of the most options of a choice, more where that is no prime number.
        """
        self.prepare()
        for candidate in _every_pair(self.compiler.space):
            if self._local and not self._wholes(candidate):
                self._local = self._meets(candidate, self.compiler.built(candidate))

    def places(self) -> dict[str, tuple[int, ...]]:
        """By choice, the shape of what the call before its place makes; empty where choices have no places."""
        if not self.is_local:
            return {}
        names = [choice.name for choice in self.compiler.space.choices]
        return {names[choice]: shape for choice, shape in self._memos[-1].places()}

    def is_sliced(self, candidate: Candidate) -> bool:
        """True where only slices bring a candidate within the budget."""
        self.cost(candidate)
        return candidate in self._sliced

    def whole_scores_bytes(self, candidate: Candidate) -> int | None:
        """What the device must have for the candidate as it was built where attention's scores are held whole.

        None in spaces whose candidates go through the whole compiler.
        """
        self.cost(candidate)
        whole = self._memos[0].whole(candidate) if self.is_local else None
        return None if whole is None else self._peak(whole, scores=True)

    def _cost(self, candidate: Candidate) -> Cost:
        self.prepare()
        program = None
        if self._local and not self._wholes(candidate):
            program = self.compiler.built(candidate)
            self._local = self._meets(candidate, program)
        wholes = self._wholes(candidate) if self._local else []
        if wholes:
            self.counts.linked += program is None
            built, scheduled, done = wholes
            memory = self.compiler.memory
            if memory is None or self._peak(scheduled) <= memory:
                return cost_of(self._figures(built), self._figures(done), memory)
        self.counts.full += 1
        program = program or self.compiler.built(candidate)
        result, found = self.compiler.compiled(program)
        if any(ir.is_loop(node) for node in result.graph.nodes):
            self._sliced.add(candidate)
        return cost_of(self.compiler.figures(program), self.compiler.figures(result), self.compiler.memory, found)

    # -- pieces

    def _begun(self) -> list[Memo]:
        """Memos of the three stages, with their cuts."""
        space = self.compiler.space
        base = self._traces(self.compiler.built(_first(space)))
        others = {i: self._traces(self.compiler.built(_single(space, i))) for i in range(len(space.choices))}
        given = conditioning(base[0], [traces[0] for traces in others.values()])
        self._inputs = list(base[0].inputs.values())
        # As built, nothing equal is merged but views; canonicalize merges what is small.
        stages = [Memo(given, 0), Memo(given, self._merged), Memo(given, self._merged)]
        for k, memo in enumerate(stages):
            memo.begin(base[k], {i: (traces[k],) for i, traces in others.items()})
            memo.learn(_first(space), base[k])
            for i, traces in others.items():
                memo.learn(_single(space, i), traces[k])
        return stages

    @property
    def _merged(self) -> int:
        sizes = [item.cheap_bytes for item in self.compiler.before if isinstance(item, Canonicalize)]
        return max(sizes, default=0)

    def _meet(self, candidate: Candidate, program: Program) -> None:
        self.counts.built += 1
        for memo, trace in zip(self._memos, self._traces(program), strict=True):
            memo.learn(candidate, trace)

    def _meets(self, candidate: Candidate, program: Program) -> bool:
        try:
            self._meet(candidate, program)
        except NotLocal:
            return False
        return True

    def _traces(self, program: Program) -> list[Trace]:
        scheduled = run_pipeline(program, self.compiler.before, self.compiler.context).program
        done = run_pipeline(scheduled, self.compiler.after, self.compiler.context).program
        return [trace_of(item, self._setup) for item in (program, scheduled, done)]

    def _wholes(self, candidate: Candidate) -> list[Linked]:
        """The candidate at the three stages; nothing where a piece is missing."""
        found = [memo.whole(candidate) for memo in self._memos]
        return [whole for whole in found if whole is not None] if None not in found else []

    # -- figures

    def _figures(self, whole: Linked) -> Figures:
        latency = latency_s(whole.seconds, self._setup, len(whole.weights))
        return Figures(latency, self._peak(whole), sum(whole.weights.values()), whole.flops)

    def _peak(self, whole: Linked, *, scores: bool = False) -> int:
        beside = sum(whole.weights.values()) + self.compiler.target.context_bytes
        lives = [*whole.lives, *whole.scores] if scores else whole.lives
        if self.compiler.target.hands_out == "arena":
            return beside + arena_bytes(lives, self._inputs, whole.n)
        live = live_bytes(lives, whole.n, sum(self._inputs))
        return beside + max(a + b for a, b in zip(live, whole.extra, strict=True))


def _first(space: Space) -> Candidate:
    return tuple(choice.options[0] for choice in space.choices)


def _single(space: Space, changed: int) -> Candidate:
    """The first candidate with one choice at another option."""
    first = _first(space)
    options = space.choices[changed].options
    return (*first[:changed], options[-1], *first[changed + 1 :])


def _every_option(space: Space) -> Sequence[Candidate]:
    """Candidates in which every option of every choice is met."""
    every = range(1, _most(space))
    return [tuple(choice.options[k % len(choice.options)] for choice in space.choices) for k in every]


def _every_pair(space: Space) -> Iterator[Candidate]:
    """Candidates in which any options of any two choices meet: an orthogonal array of strength two (Bush, 1952).

    It has a column more than its prime number of levels; of more choices, those that share a column meet in part.
    """
    levels = next(n for n in itertools.count(2) if n >= _most(space) and all(n % d for d in range(2, n)))
    for a, b in itertools.product(range(levels), repeat=2):
        columns = [(a + m * b) % levels for m in range(levels)] + [b]
        yield tuple(
            choice.options[columns[i % len(columns)] % len(choice.options)] for i, choice in enumerate(space.choices)
        )


def _most(space: Space) -> int:
    return max(len(choice.options) for choice in space.choices)
