"""The default engine: predicts all candidates from those evaluated, and asks for those that widen the front most.

Latency is nearly a sum over layers, quality nearly so, peak memory nearly a maximum: figures of a few dozen candidates
say a lot about all the others. Each objective has a predictor of its own (:mod:`vgcomp.search.engines.predictor`). A
generation is picked one by one, each the candidate that adds most to the volume that the known front and those picked
before it dominate; some are taken at the optimistic end of what the predictors think possible, so that a wrong model
is found out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vgcomp.search.engines.predictor import Form, Genes, Predictor, Values, balanced, fit
from vgcomp.search.engines.scripted import Script, Scripted
from vgcomp.search.problem import OBJECTIVES, Evaluation, Problem
from vgcomp.space import Candidate

GENERATION = 8
#: Standard deviations below the prediction, by place in the generation: the last two look where little is known.
_OPTIMISM = (0.0,) * 6 + (1.0, 2.0)
#: Points in the box of objectives whose share that is dominated stands for the volume.
_PROBES = 4096
#: Options up to this many are looked at alone first.
_ALONE = 64
#: How much more must be known before the predictors' forms are chosen anew.
_RECHOSEN = 1.2
#: Spaces up to this size are predicted whole.
_WHOLE = 20_000
#: In larger ones: rounds of change and recombination of the best predicted, and how many a round keeps.
_ROUNDS, _KEPT = 8, 600


class Surrogate(Scripted):
    """See the module."""

    judges_all = False

    def __init__(self, problem: Problem, seed: int = 0) -> None:
        self.problem = problem
        self._rng = np.random.default_rng(seed)
        self._options = [len(choice.options) for choice in problem.space.choices]
        self._known: dict[Candidate, Evaluation] = {}
        self._forms: list[Form] | None = None
        self._chosen_at = 0
        super().__init__(self._run())

    def _run(self) -> Script:
        self._learn((yield self._first()))
        while generation := self._next():
            self._learn((yield generation))

    def _learn(self, evaluations: Sequence[Evaluation]) -> None:
        self._known |= {evaluation.candidate: evaluation for evaluation in evaluations}

    def _first(self) -> list[Candidate]:
        """The barest and the last candidate, each option alone, and balanced ones that see each option once more.

        Alone, an option shows what it takes, which a maximum over several hides. Where choices are many, balanced ones
        do instead.
        """
        barest = [0] * len(self._options)
        alone = [
            [*barest[:place], option, *barest[place + 1 :]]
            for place, size in enumerate(self._options)
            for option in range(1, size)
        ]
        few = len(alone) < _ALONE
        count = max(self._options) * (1 if few else 3)
        rows = [barest, [size - 1 for size in self._options], *(alone if few else [])]
        rows += balanced(self._options, count, self._rng).tolist()
        return list(dict.fromkeys(self.problem.space.from_genes(row) for row in rows))

    def _next(self) -> list[Candidate]:
        models = self._models()
        if models is None:
            return self._random(GENERATION)
        pool = self._pool(models)
        if not len(pool):
            return []
        chosen = self._picked(models, pool)
        return [self.problem.space.from_genes(genes) for genes in pool[chosen].tolist()]

    def _models(self) -> _Models | None:
        """None where too little is known to predict from."""
        priced = [e for e in self._known.values() if e.cost is not None]
        judged = [e for e in priced if e.quality is not None]
        if len(judged) < 2 or len(priced) < 2:
            return None
        if len(self._known) >= _RECHOSEN * self._chosen_at:
            self._forms, self._chosen_at = None, len(self._known)
        costs, most = self._genes(priced), max(self._options)
        figures = (
            (self._genes(judged), np.array([-e.quality for e in judged if e.quality is not None])),
            (costs, np.array([e.cost.latency_s for e in priced if e.cost is not None])),
            (costs, np.array([float(e.cost.peak_bytes) for e in priced if e.cost is not None])),
        )
        forms: Sequence[Form | None] = self._forms or [None] * len(figures)
        fitted = [fit(genes, values, most, form) for (genes, values), form in zip(figures, forms, strict=True)]
        self._forms = [predictor.form for predictor in fitted]
        return _Models(self.problem, fitted)

    def _genes(self, evaluations: Sequence[Evaluation]) -> Genes:
        return np.array([self.problem.space.genes(e.candidate) for e in evaluations])

    def _random(self, count: int) -> list[Candidate]:
        """Candidates that nobody asked for, in no order; fewer where the space ends."""
        found: dict[Candidate, None] = {}
        for _ in range(100 * count):
            candidate = self.problem.space.from_genes(self._rng.integers(0, self._options).tolist())
            if candidate not in self._known:
                found[candidate] = None
            if len(found) == count:
                break
        return list(found)

    # -- whom to consider ----------------------------------------------------------------------------

    def _pool(self, models: _Models) -> Genes:
        """Candidates not evaluated yet: all of a small space, the most promising of a large one."""
        if self.problem.space.size <= _WHOLE:
            return self._unknown(np.indices(self._options).reshape(len(self._options), -1).T)
        best = self._genes(self.problem.front(self._known.values()) or list(self._known.values()))
        pool = np.vstack((best, self._rng.integers(0, self._options, size=(_KEPT, len(self._options)))))
        for _ in range(_ROUNDS):
            pool = np.unique(np.vstack((pool, self._changed(pool), self._crossed(pool))), axis=0)
            pool = pool[models.promising(pool, _KEPT)]
        return self._unknown(pool)

    def _unknown(self, genes: Genes) -> Genes:
        known = {self.problem.space.genes(candidate) for candidate in self._known}
        return genes[[tuple(row) not in known for row in genes.tolist()]]

    def _changed(self, genes: Genes) -> Genes:
        """Each with one choice drawn anew."""
        changed, rows = genes.copy(), np.arange(len(genes))
        places = self._rng.integers(0, genes.shape[1], size=len(genes))
        changed[rows, places] = self._rng.integers(0, np.array(self._options)[places])
        return changed

    def _crossed(self, genes: Genes) -> Genes:
        """Each with half of another's choices."""
        partners = genes[self._rng.permutation(len(genes))]
        return np.where(self._rng.random(genes.shape) < 0.5, genes, partners)

    # -- whom to pick --------------------------------------------------------------------------------

    def _picked(self, models: _Models, pool: Genes) -> list[int]:
        """Numbers of a generation's candidates, by what they should add to the dominated volume."""
        admitted = [e for e in self._known.values() if self.problem.admits(e)]
        if not admitted:
            return models.nearest(pool)[:GENERATION]
        points = np.array([self.problem.vector(e) for e in admitted])
        expected = models.vectors(pool, 0.0)
        low, high = np.minimum(points.min(0), expected.min(0)), self._corner(np.vstack((points, expected)).max(0))
        probes = _Probes(low + self._rng.random((_PROBES, len(low))) * (high - low))
        for point in points:
            probes.cover(point)
        chosen: list[int] = []
        for optimism in _OPTIMISM[: len(pool)]:
            number = self._best(models, pool, probes, optimism, chosen)
            probes.cover(models.vectors(pool[[number]], optimism)[0])
            chosen.append(number)
        return chosen

    def _corner(self, worst: Values) -> Values:
        """Where the volume ends: at the limits, and at the worst that is known or expected where nothing is limited."""
        limits = {"latency": self.problem.limits.latency_s, "memory": self.problem.limits.memory_bytes}
        return np.array([limits.get(name) or w for name, w in zip(self.problem.objectives, worst, strict=True)])

    def _best(self, models: _Models, pool: Genes, probes: _Probes, optimism: float, chosen: Sequence[int]) -> int:
        """The one that covers most probes; where none covers any, the one that might with the most luck."""
        for luck in (optimism, 2.0, 4.0):
            gains = probes.gains(models.vectors(pool, luck), models.fits(pool, luck))
            gains[list(chosen)] = -1
            if gains.max() > 0:
                return int(gains.argmax())
        doubt = models.doubt(pool)
        doubt[list(chosen)] = -1.0
        return int(doubt.argmax())


class _Models:
    """Predictors of the three figures, quality's negative first. What was predicted of a pool is kept."""

    def __init__(self, problem: Problem, predictors: Sequence[Predictor]) -> None:
        self._limits = problem.limits
        self._predictors = predictors
        self._columns = [OBJECTIVES.index(name) for name in problem.objectives]
        self._kept: tuple[Genes, Values, Values] | None = None

    def _predicted(self, genes: Genes) -> tuple[Values, Values]:
        """(n, 3) means and standard deviations."""
        if self._kept is None or self._kept[0] is not genes:
            pairs = [predictor.predict(genes) for predictor in self._predictors]
            self._kept = (genes, np.stack([p[0] for p in pairs], 1), np.stack([p[1] for p in pairs], 1))
        return self._kept[1:]

    def vectors(self, genes: Genes, optimism: float) -> Values:
        """Objectives, so many standard deviations below the prediction."""
        mean, deviation = self._predicted(genes)
        return (mean - optimism * deviation)[:, self._columns]

    def excess(self, genes: Genes, optimism: float) -> Values:
        """How far limits are missed, relative to them."""
        mean, deviation = self._predicted(genes)
        figures = mean - optimism * deviation
        over = np.zeros(len(genes))
        for column, limit in ((1, self._limits.latency_s), (2, self._limits.memory_bytes)):
            over += 0.0 if limit is None else np.maximum(0.0, figures[:, column] / limit - 1)
        return over

    def fits(self, genes: Genes, optimism: float) -> NDArray[np.bool_]:
        return self.excess(genes, optimism) == 0

    def nearest(self, genes: Genes) -> list[int]:
        """All, those first that should miss the limits least."""
        return [int(i) for i in np.argsort(self.excess(genes, 0.0), kind="stable")]

    def doubt(self, genes: Genes) -> Values:
        """How little is known: standard deviations, each in units of its figure's largest, added up."""
        _, deviation = self._predicted(genes)
        return np.asarray((deviation / (deviation.max(0) + 1e-300)).sum(1))

    def promising(self, genes: Genes, count: int) -> NDArray[np.intp]:
        """Numbers of the best by how many others dominate them, missed limits counting as being dominated by all."""
        vectors = self.vectors(genes, 0.5)
        rank = np.zeros(len(genes))
        for start in range(0, len(genes), 256):
            part = vectors[start : start + 256]
            rank[start : start + 256] = _below(vectors, part).sum(0)
        rank += len(genes) * (1 + self.excess(genes, 0.5)) * ~self.fits(genes, 0.5)
        return np.argsort(rank, kind="stable")[:count]


class _Probes:
    """Points that no candidate dominates yet."""

    def __init__(self, points: Values) -> None:
        self._points = points
        self._covering = points[:0]

    def cover(self, vector: Values) -> None:
        """Takes away the points that this one dominates."""
        self._points = self._points[~(vector <= self._points).all(1)]
        self._covering = np.vstack((self._covering[~(vector <= self._covering).all(1)], vector))

    def gains(self, vectors: Values, wanted: NDArray[np.bool_]) -> Values:
        """How many each of (n, objectives) vectors would cover, of those wanted; 0 for the others."""
        counts = np.zeros(len(vectors))
        rows = np.flatnonzero(wanted)
        # Most are dominated already, which is quickly seen.
        ahead = [~_below(self._covering, part).any(0) for part in _parts(vectors[rows])]
        rows = rows[np.concatenate(ahead)] if ahead else rows
        covered = [_below(part, self._points).sum(1) for part in _parts(vectors[rows])]
        counts[rows] = np.concatenate(covered) if covered else 0
        return counts


def _below(one: Values, other: Values) -> NDArray[np.bool_]:
    """(n, objectives), (m, objectives) -> (n, m): where the one is no larger in any."""
    found = one[:, None, 0] <= other[None, :, 0]
    for column in range(1, one.shape[1]):
        found &= one[:, None, column] <= other[None, :, column]
    return found


def _parts(rows: Values) -> list[Values]:
    """Rows in parts whose comparison with all others fits in memory."""
    return [rows[start : start + 1024] for start in range(0, len(rows), 1024)]
