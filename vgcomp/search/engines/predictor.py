"""Predicts a figure of candidates from those evaluated: effects of each choice, of pairs of them, or of all together.

Gaussian-process regression over options, in three kernels that differ in how far choices act on each other. Which one,
and how much noise, is decided by the leave-one-out error, which has a closed form [Rasmussen and Williams 2006, 5.4.2].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Genes = NDArray[np.int64]
Values = NDArray[np.float64]

#: Share of the kernel's own scale that is taken as noise: figures are exact, models of them are not.
_NOISE = (1e-6, 1e-3, 1e-1)
#: The kernels by how far they see: each choice for itself, pairs, all.
_REACHES = ("single", "pairs", "all")
#: Weight that a choice without any effect so far keeps, relative to the mean.
_FLOOR = 0.05


@dataclass(frozen=True)
class Predictor:
    """A fit. ``error``: the leave-one-out root mean square error, in the figure's unit."""

    genes: Genes
    weights: Values
    reach: str
    mean: float
    coefficients: Values
    inverse: Values
    scale: float
    error: float

    def predict(self, genes: Genes) -> tuple[Values, Values]:
        """Means and standard deviations of candidates, (n, choices) option numbers -> two of (n,)."""
        across = _kernel(genes, self.genes, self.weights, self.reach)
        own = _own(self.weights, self.reach)
        variance = own - np.einsum("ij,jk,ik->i", across, self.inverse, across, optimize=True)
        return self.mean + across @ self.coefficients, np.sqrt(np.maximum(variance, 0.0) * self.scale)


def fit(genes: Genes, values: Values) -> Predictor:
    """The best of the kernels by leave-one-out error, for (n, choices) option numbers and (n,) figures."""
    flat = np.full(genes.shape[1], 1 / genes.shape[1])
    first = _fitted(genes, values, flat, "single", 1e-3)
    weights = _importance(first)
    tried = [_fitted(genes, values, w, reach, noise) for w in (flat, weights) for reach in _REACHES for noise in _NOISE]
    return min(tried, key=lambda predictor: predictor.error)


def _fitted(genes: Genes, values: Values, weights: Values, reach: str, noise: float) -> Predictor:
    mean = float(values.mean())
    kernel = _kernel(genes, genes, weights, reach) + noise * _own(weights, reach) * np.eye(len(genes))
    inverse: Values = np.linalg.inv(kernel).astype(np.float64)
    coefficients = inverse @ (values - mean)
    left_out = coefficients / np.diag(inverse)
    scale = float((values - mean) @ coefficients / len(values))
    return Predictor(
        genes, weights, reach, mean, coefficients, inverse, max(scale, 0.0), float(np.sqrt((left_out**2).mean()))
    )


def _importance(additive: Predictor) -> Values:
    """How much each choice moves the figure, as weights that sum to one: the spread of its options' effects."""
    spread = np.array([_effects(additive, i).std() for i in range(additive.genes.shape[1])])
    spread = spread + _FLOOR * (spread.mean() or 1.0)
    return spread / spread.sum()


def _effects(additive: Predictor, place: int) -> Values:
    column = additive.genes[:, place]
    sums = np.zeros(int(column.max()) + 1)
    np.add.at(sums, column, additive.coefficients)
    return sums


def _kernel(one: Genes, other: Genes, weights: Values, reach: str) -> Values:
    """(n, choices), (m, choices) -> (n, m): the weighted share of choices that agree, as the reach takes it."""
    agree = np.zeros((len(one), len(other)))
    for place, weight in enumerate(weights):
        agree += weight * (one[:, place, None] == other[None, :, place])
    if reach == "single":
        return 1.0 + agree
    if reach == "pairs":
        return 1.0 + agree + agree**2
    return np.exp(3.0 * (agree - 1.0))


def _own(weights: Values, reach: str) -> float:
    """The kernel of a candidate with itself."""
    return float({"single": 2.0, "pairs": 3.0, "all": 1.0}[reach])


def balanced(options: Sequence[int], count: int, rng: np.random.Generator) -> Genes:
    """(count, choices) option numbers in which each choice has each of its options as often as the others."""
    columns = [np.resize(rng.permutation(size), count) for size in options]
    return np.stack([rng.permutation(column) for column in columns], axis=1)
