"""Predicts a figure of candidates from those evaluated: effects of each choice, of pairs of them, or of all together.

Gaussian-process regression over options, in three kernels that differ in how far choices act on each other, around a
mean or around a maximum: a peak of memory is the largest of what stands at each place, and an option's own part of it
can be no more than the least peak that it was ever seen in. Which of these, and how much noise, is decided by the
leave-one-out error, which has a closed form [Rasmussen and Williams 2006, 5.4.2].
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

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
class Form:
    """``largest``: around a maximum; ``weighted``: choices that move the figure more count more."""

    largest: bool
    weighted: bool
    reach: str
    noise: float


FORMS = tuple(Form(*parts) for parts in itertools.product((False, True), (False, True), _REACHES, _NOISE))
_PLAIN = Form(largest=False, weighted=False, reach="single", noise=1e-3)


@dataclass(frozen=True)
class Largest:
    """What is expected before the kernel says more: the largest of the options' parts, or the mean without them.

    ``parts``: (choices, options), no more than the least figure that the option was seen in.
    """

    mean: float
    parts: Values | None = None

    def __call__(self, genes: Genes) -> Values:
        if self.parts is None:
            return np.full(len(genes), self.mean)
        return np.asarray(self.parts[np.arange(genes.shape[1]), genes].max(axis=1))


@dataclass(frozen=True)
class Predictor:
    """A fit. ``error``: the leave-one-out root mean square error, in the figure's unit."""

    form: Form
    base: Largest
    genes: Genes
    weights: Values
    coefficients: Values
    inverse: Values
    scale: float
    error: float

    def predict(self, genes: Genes) -> tuple[Values, Values]:
        """Means and standard deviations of candidates, (n, choices) option numbers -> two of (n,)."""
        across = _kernel(genes, self.genes, self.weights, self.form.reach)
        variance = _own(self.form.reach) - ((across @ self.inverse) * across).sum(axis=1)
        return self.base(genes) + across @ self.coefficients, np.sqrt(np.maximum(variance, 0.0) * self.scale)


def fit(genes: Genes, values: Values, options: int, form: Form | None = None) -> Predictor:
    """A predictor from (n, choices) option numbers and (n,) figures. ``options``: that a choice has at most.

    In the form given, or in the one of the least leave-one-out error.
    """
    data = _Data(genes, values, options)
    forms = FORMS if form is None else (form,)
    return min((data.fitted(form) for form in forms), key=lambda predictor: predictor.error)


class _Data:
    """What was evaluated, and what all fits of it share."""

    def __init__(self, genes: Genes, values: Values, options: int) -> None:
        self._genes, self._values, self._options = genes, values, options
        self._flat = np.full(genes.shape[1], 1 / genes.shape[1])

    @cached_property
    def _bases(self) -> tuple[tuple[Largest, Values], tuple[Largest, Values]]:
        """Each base, and what it leaves to the kernels."""
        made = (_mean(self._values), _largest(self._genes, self._values, self._options))
        return tuple((base, self._values - said) for base, said in made)  # type: ignore[return-value]

    @cached_property
    def _weights(self) -> tuple[Values, Values]:
        """The importance of choices, for each base."""
        return tuple(  # type: ignore[return-value]
            _importance(_fitted(_PLAIN, base, self._genes, rest, self._flat)) for base, rest in self._bases
        )

    def fitted(self, form: Form) -> Predictor:
        base, rest = self._bases[form.largest]
        return _fitted(form, base, self._genes, rest, self._weights[form.largest] if form.weighted else self._flat)


def _mean(values: Values) -> tuple[Largest, Values]:
    mean = float(values.mean())
    return Largest(mean), np.full(len(values), mean)


def _largest(genes: Genes, values: Values, options: int) -> tuple[Largest, Values]:
    """The base of maxima, and what it says of each candidate without having seen it."""
    # Of an option that was never seen nothing is known: it is taken to be the least.
    parts = np.full((genes.shape[1], options), values.min())
    seconds = parts.copy()
    for place in range(genes.shape[1]):
        for option in np.unique(genes[:, place]):
            seen = np.sort(values[genes[:, place] == option])
            parts[place, option], seconds[place, option] = seen[0], seen[min(1, len(seen) - 1)]
    places = np.arange(genes.shape[1])
    first, second = parts[places, genes], seconds[places, genes]
    left_out = np.where(values[:, None] <= first, second, first).max(axis=1)
    return Largest(float(values.mean()), parts), left_out


def _fitted(form: Form, base: Largest, genes: Genes, rest: Values, weights: Values) -> Predictor:
    """Ridge regression of what the base leaves, in the kernel's space."""
    kernel = _kernel(genes, genes, weights, form.reach) + form.noise * _own(form.reach) * np.eye(len(genes))
    inverse: Values = np.linalg.inv(kernel).astype(np.float64)
    coefficients = inverse @ rest
    error = float(np.sqrt(((coefficients / np.diag(inverse)) ** 2).mean()))
    scale = max(0.0, float(rest @ coefficients / len(rest)))
    return Predictor(form, base, genes, weights, coefficients, inverse, scale, error)


def _importance(additive: Predictor) -> Values:
    """How much each choice moves the figure, as weights that sum to one: the spread of its options' effects."""
    spread = np.array([_effects(additive, place).std() for place in range(additive.genes.shape[1])])
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


def _own(reach: str) -> float:
    """The kernel of a candidate with itself."""
    return {"single": 2.0, "pairs": 3.0, "all": 1.0}[reach]


def balanced(options: Sequence[int], count: int, rng: np.random.Generator) -> Genes:
    """(count, choices) option numbers in which each choice has each of its options as often as the others."""
    columns = [np.resize(rng.permutation(size), count) for size in options]
    return np.stack([rng.permutation(column) for column in columns], axis=1)
