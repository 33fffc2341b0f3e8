"""The slicer: for one program and one device, the best plan at any budget, exact to the byte."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property

from torch import fx

from vgcomp.cost_models.base import CostModel
from vgcomp.memory import Workspace, analyse
from vgcomp.program import Program
from vgcomp.simulate import simulate, workspace_of
from vgcomp.slicing.choices import Plan
from vgcomp.slicing.fit import Fitted, fit
from vgcomp.slicing.nested import Nester
from vgcomp.slicing.plan import PlanSpace, plan_space
from vgcomp.slicing.prepare import assign_reuse, split_attentions, split_group_norms
from vgcomp.slicing.problem import Problem, make_problem
from vgcomp.slicing.rewrite import drop_dead
from vgcomp.targets import Target

#: Budgets that one plan space serves: from this fraction of the largest up to it.
BAND = 0.6
#: For one budget: how far below it an op is sliced too, where that helps what runs beside it.
HEADROOM = 0.8
#: How far a slice may be above the budget where its body may be sliced again.
HOPE = 8.0
#: Latency, relative to the unsliced program's, that counts as almost no cost.
CHEAP = 1.03
#: Beyond this latency the front gets one point a band; with the first point beyond the other it ends.
DEAR = 2.0
DEAREST = 8.0
#: The same, as a ratio, where a rough answer will do: what to tell who asked for far too little.
ROUGH = 1.06
#: How many times less than the unsliced program a plan may take, as far as anybody has seen.
MOST_SAVED = 64
#: Relative width at which the search for the smallest budget stops.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Solution:
    """A sliced program with its exact peak in bytes, and its simulated seconds.

    As in all of the slicer, activation bytes have what the target's ops hold inside themselves in them.
    """

    program: Program
    peak: int
    seconds: float
    plan: Plan


class Slicer:
    """Plans for one program; what is computed for one budget serves the next."""

    def __init__(
        self,
        program: Program,
        target: Target,
        cost_model: CostModel,
        progress: Callable[[str, float], None] | None = None,
    ) -> None:
        self.program = program
        self.target = target
        self.cost_model = cost_model
        self.workspace: Workspace = workspace_of(target)
        self.progress = progress or (lambda stage, fraction: None)
        self.unsliced = analyse(program.graph, workspace=self.workspace).peak
        graph = program.copy().graph
        drop_dead(graph)
        split_group_norms(graph)
        split_attentions(graph)
        assign_reuse(graph)
        self.problem = make_problem(graph, target, cost_model, analyse(graph, workspace=self.workspace), self.workspace)
        self._spaces: dict[tuple[int, int], PlanSpace] = {}
        self._nesters: dict[tuple[int, int], Nester] = {}
        self._bodies: dict[Hashable, Problem] = {}
        #: By band: the largest budget for which no nested plan was found.
        self._failed: dict[tuple[int, int], int] = {}

    @property
    def floor(self) -> int:
        """Activation bytes that are live whatever the plan: inputs, and outputs at the end."""
        return int(max(self.problem.crossing[0], self.problem.crossing[-1]))

    def solve(self, budget: int, band: tuple[int, int] | None = None) -> Solution | None:
        """The least-latency plan within ``budget`` activation bytes; None if none was found.

        Regions are nested only where plans without that cost latency, or there are none.
        """
        band = band or band_of(budget)
        plain = self.plain(budget, band)
        if plain is not None and self.is_cheap(plain):
            return plain
        found = [solution for solution in (plain, self.nested(budget, band)) if solution is not None]
        return min(found, key=lambda solution: solution.seconds, default=None)

    def plain(self, budget: int, band: tuple[int, int]) -> Solution | None:
        """The least-latency plan without nested regions: seconds, where nested ones may take minutes."""
        return self._solution(fit(self._space(band), budget, self.live))

    def nested(self, budget: int, band: tuple[int, int]) -> Solution | None:
        """The least-latency plan with nested regions where they pay."""
        if budget <= self._failed.get(band, 0):
            return None
        nester = self._nester(band)
        nester.explore(budget, self.live)
        found = self._solution(fit(nester.space, budget, self.live))
        if found is None:
            self._failed[band] = max(budget, self._failed.get(band, 0))
        return found

    def is_cheap(self, solution: Solution) -> bool:
        """True where it costs next to nothing: regions need not be nested to do better."""
        return solution.seconds <= CHEAP * self._unsliced_seconds

    def live(self, graph: fx.Graph) -> list[int]:
        """Activation bytes alive at each node of a graph for this program."""
        return analyse(graph, workspace=self.workspace).at

    def seconds(self, graph: fx.Graph) -> float:
        """Simulated seconds of a graph for this program."""
        return simulate(self.program.with_graph(graph), self.target, self.cost_model).latency_s

    def _solution(self, fitted: Fitted | None) -> Solution | None:
        if fitted is None:
            return None
        program = self.program.with_graph(fitted.graph)
        return Solution(program, fitted.peak, self.seconds(fitted.graph), fitted.plan)

    def smallest(self, within: float = 1.0 + TOLERANCE, beside: int = 0) -> Solution:
        """The plan of least memory: budgets bisected by ratio, each with the few edges that matter to it alone.

        Plain plans first, soon found or soon known not to be; regions are nested only for less than those need.
        ``within``: ratio of the result to a budget for which no plan was found, both with the bytes ``beside`` them
        that every plan takes. Searches are not exhaustive at any budget, so that a plan of a little less may exist.
        """
        unsliced = self._unsliced_solution()
        least = max(self.floor, unsliced.peak // MOST_SAVED, 1)

        def near(low: int, high: int) -> bool:
            return high - low <= 1 or high + beside <= (low + beside) * within

        flat = self._least(unsliced, least, near, lambda budget: self.plain(budget, band_of(budget)))
        return self._least(flat, least, near, self.solve)

    def _least(
        self,
        best: Solution,
        low: int,
        near: Callable[[int, int], bool],
        solve: Callable[[int], Solution | None],
    ) -> Solution:
        """The smallest between a budget that is too little and a plan that there is."""
        high = best.peak
        while not near(low, high):
            middle = max(low + 1, int((low * high) ** 0.5))
            self.progress(f"smallest budget, {middle >> 20} MiB", 0.5)
            found = solve(middle)
            if found is None:
                low = middle
            else:
                best, high = found, min(found.peak, middle)
        return best

    def _bisect(self, best: Solution, low: int, high: int, band: tuple[int, int]) -> Solution:
        while high - low > TOLERANCE * high:
            middle = (low + high) // 2
            found = self.solve(middle, band)
            if found is None:
                low = middle
            else:
                best, high = found, found.peak
        return best

    def front(self, points_a_band: int = 3) -> list[Solution]:
        """The Pareto front of peak against latency, fastest first and smallest last.

        It ends where no plan fits, or where plans take many times the latency: whoever wants less memory still may ask
        for it. Where the latency passes ``CHEAP`` times the unsliced one's, and at the smallest budget, it is searched
        more closely: these are the points that people ask for.
        """
        unsliced = self._unsliced_solution()
        found, high = [unsliced], unsliced.peak
        cheap = CHEAP * unsliced.seconds
        while True:
            low = max(int(high * BAND), self.floor)
            band = (low, high)
            self.progress(f"plans below {high >> 20} MiB", self.floor / high)
            above = high
            points = points_a_band if found[-1].seconds < DEAR * unsliced.seconds else 1
            for k in range(1, points + 1):
                budget = int(high * (low / high) ** (k / points))
                solution = self.solve(budget, band)
                if _is_cheap(found, cheap) and (solution is None or solution.seconds > cheap):
                    found.extend(self._last_cheap(budget, above, band, cheap))
                if solution is None:
                    fitting = min((s for s in found if s.peak <= above), key=lambda s: s.peak, default=found[-1])
                    return pareto([*found, self._bisect(fitting, budget, min(fitting.peak, above), band)])
                found.append(solution)
                above = budget
                if solution.seconds > DEAREST * unsliced.seconds:
                    return pareto(found)
            high = low
            if low <= self.floor:
                return pareto(found)

    def _last_cheap(self, low: int, high: int, band: tuple[int, int], seconds: float) -> list[Solution]:
        """Plans found in bisecting for the smallest budget that takes at most ``seconds``."""
        found: list[Solution] = []
        while high - low > 2 * TOLERANCE * high:
            middle = (low + high) // 2
            solution = self.solve(middle, band)
            if solution is None or solution.seconds > seconds:
                low = middle
            else:
                high = min(middle, solution.peak)
            found.extend([solution] if solution is not None else [])
        return found

    @cached_property
    def _unsliced_seconds(self) -> float:
        return self.seconds(self.program.graph)

    def _unsliced_solution(self) -> Solution:
        seconds = self._unsliced_seconds
        return Solution(self.program, self.unsliced, seconds, Plan((), self.unsliced, seconds))

    def _space(self, band: tuple[int, int]) -> PlanSpace:
        if band not in self._spaces:
            self._spaces.clear()  # one band at a time: a space holds a million edges
            self._spaces[band] = plan_space(self.problem, *band)
        return self._spaces[band]

    def _nester(self, band: tuple[int, int]) -> Nester:
        if band not in self._nesters:
            self._nesters.clear()
            space = plan_space(self.problem, *band, HOPE)
            self._nesters[band] = Nester(space, self.target, self.cost_model, self.workspace, self._bodies)
        return self._nesters[band]


def band_of(budget: int) -> tuple[int, int]:
    """The budgets that are thought of in planning for one alone, or for one a little less."""
    return int(budget * HEADROOM), budget


def pareto(found: list[Solution]) -> list[Solution]:
    """Those that no other beats in both peak and latency, fastest first."""
    kept: list[Solution] = []
    for solution in sorted(found, key=lambda s: (s.seconds, s.peak)):
        if not kept or solution.peak < kept[-1].peak:
            kept.append(solution)
    return kept


def _is_cheap(found: list[Solution], seconds: float) -> bool:
    """True where the smallest so far takes at most ``seconds``."""
    return min(found, key=lambda s: s.peak).seconds <= seconds
