"""NSGA-II and U-NSGA-III through pymoo's ask and tell. Needs the extra ``vgcomp[search]``; see ``engines.named``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.unsga3 import UNSGA3
from pymoo.core.evaluator import Evaluator
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem as Variables
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.problems.static import StaticProblem
from pymoo.util.ref_dirs import get_reference_directions

from vgcomp.search.problem import Evaluation, Problem
from vgcomp.space import Candidate

_POPULATION = 24
#: Das and Dennis' partitions by the number of objectives: 24 and 21 directions.
_PARTITIONS = {2: 23, 3: 5}
#: What a failed evaluation is over the limits by: more than any that is only slow or large.
_FAILED = 1e6
#: Draws of a candidate that was not asked before, each one more change away; then the offspring stays as it is.
_DRAWS = 200

Genes = NDArray[np.int64]


class Genetic:
    """Populations of option numbers. Offspring that are known already are changed until they are new."""

    judges_all = False

    def __init__(self, problem: Problem, seed: int, algorithm: str) -> None:
        self.problem = problem
        self._rng = np.random.default_rng(seed)
        self._options = np.array([len(choice.options) for choice in problem.space.choices])
        self._asked: set[Candidate] = set()
        # Integers from 0 to one less than the options; one constraint, how far limits are missed.
        self._variables = Variables(
            n_var=len(self._options),
            n_obj=len(problem.objectives),
            n_ieq_constr=1,
            xl=np.zeros(len(self._options)),
            xu=self._options - 1,
            vtype=int,
        )
        self._algorithm = self._made(algorithm, seed)
        self._algorithm.setup(self._variables, termination=NoTermination())
        self._infills: Any = None
        self._worst = np.full(len(problem.objectives), -np.inf)

    def ask(self) -> Sequence[Candidate]:
        self._infills = self._algorithm.ask()
        if self._infills is None or not len(self._infills):
            return []
        fresh = np.array([self._fresh(genes) for genes in self._infills.get("X").astype(int)])
        self._infills.set("X", fresh)
        return [self.problem.space.from_genes(genes) for genes in fresh.tolist()]

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        whole = [e for e in evaluations if e.cost is not None and e.quality is not None]
        self._worst = np.vstack([self._worst, *(self.problem.vector(e) for e in whole)]).max(axis=0)
        values = np.array([self._values(e) for e in evaluations])
        over = np.array([[self._over(e)] for e in evaluations])
        Evaluator().eval(StaticProblem(self._variables, F=values, G=over), self._infills)
        self._algorithm.tell(infills=self._infills)

    def _made(self, algorithm: str, seed: int) -> Any:
        parts = {"crossover": UniformCrossover(prob=0.9), "mutation": _Redraw(self._options), "seed": seed}
        if algorithm == "nsga2":
            return NSGA2(pop_size=_POPULATION, sampling=self._first(_POPULATION), **parts)
        count = len(self.problem.objectives)
        directions = get_reference_directions("das-dennis", count, n_partitions=_PARTITIONS[count])
        selection = TournamentSelection(func_comp=_by_niche)
        first = self._first(len(directions))
        return UNSGA3(directions, pop_size=len(directions), sampling=first, selection=selection, **parts)

    def _first(self, count: int) -> Genes:
        """The barest and the last candidate, then random ones."""
        ends = np.array([np.zeros_like(self._options), self._options - 1])
        return np.vstack((ends, self._rng.integers(0, self._options, size=(count - 2, len(self._options)))))

    def _fresh(self, genes: Genes) -> Genes:
        """The same genes, or some that nobody asked for yet, near them; marked as asked."""
        candidate, found = self.problem.space.from_genes(genes.tolist()), genes
        for draw in range(_DRAWS):
            if candidate not in self._asked:
                break
            found = genes.copy()
            places = self._rng.choice(len(genes), size=min(len(genes), 1 + draw // 20), replace=False)
            found[places] = self._rng.integers(0, self._options[places])
            candidate = self.problem.space.from_genes(found.tolist())
        self._asked.add(candidate)
        return found

    def _values(self, evaluation: Evaluation) -> NDArray[np.float64]:
        """Its objectives; the worst known for one that has none, which its excess puts behind all others."""
        if evaluation.cost is None or evaluation.quality is None:
            return np.where(np.isfinite(self._worst), self._worst, 0.0)
        return np.array(self.problem.vector(evaluation))

    def _over(self, evaluation: Evaluation) -> float:
        if evaluation.cost is None or evaluation.failed:
            return _FAILED
        return sum(self.problem.limits.excess(evaluation.cost))


class _Redraw(Mutation):
    """Draws each gene anew with a chance of one over their number: options have no order that steps could follow."""

    def __init__(self, options: Genes) -> None:
        super().__init__()
        self._options = options

    def _do(self, problem: Any, X: Any, *args: Any, random_state: Any = None, **kwargs: Any) -> Any:
        drawn = random_state.integers(0, self._options, size=X.shape)
        return np.where(random_state.random(X.shape) < 1 / X.shape[1], drawn, X)


def _by_niche(pop: Any, P: Any, random_state: Any = None, **kwargs: Any) -> Any:
    """U-NSGA-III's tournament: fewer missed limits, then rank, then the nearer to the same niche's direction.

    As pymoo has it, but that ties are broken by the algorithm's own seed.
    """
    return np.array([[_better(pop[a], pop[b], a, b, random_state)] for a, b in P])


def _better(one: Any, other: Any, a: int, b: int, random_state: Any) -> int:
    if one.CV[0] != other.CV[0]:
        return a if one.CV[0] < other.CV[0] else b
    if one.get("niche") is not None and one.get("niche") == other.get("niche"):
        keys = [(i.get("rank"), i.get("dist_to_niche")) for i in (one, other)]
        if keys[0] != keys[1]:
            return a if keys[0] < keys[1] else b
    return int(random_state.choice([a, b]))
