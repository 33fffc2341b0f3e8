"""Gradient-boosted regression trees on numpy, for tables of a few thousand rows.

Trees are whole (2^depth leaves), grown level by level on histograms (Friedman 2001, "Greedy function approximation";
the binning of LightGBM). Trained on bootstrap samples, so that the rows left out tell the error (Breiman 1996,
"Out-of-bag estimation").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BINS = 24


@dataclass(frozen=True)
class Options:
    """How much is learned: trees, their depth, the share of each tree's answer, pull of leaves to zero."""

    trees: int = 100
    depth: int = 4
    rate: float = 0.1
    leaf_weight: float = 3.0
    #: Bootstrap samples, one model each.
    bags: int = 5
    seed: int = 0


@dataclass(frozen=True)
class Boosted:
    """Fitted trees of all bags: nodes in heap order, (trees, nodes), and (trees, leaves)."""

    base: float
    features: Ints
    thresholds: Floats
    leaves: Floats

    def predict(self, x: Floats) -> Floats:
        """(rows, features) -> (rows,)."""
        rows = np.arange(len(x))[:, None]
        trees = np.arange(len(self.features))[None, :]
        node = np.zeros((len(x), len(self.features)), dtype=np.int64)
        depth = int(np.log2(self.leaves.shape[1]))
        for _ in range(depth):
            above = x[rows, self.features[trees, node]] > self.thresholds[trees, node]
            node = 2 * node + 1 + above
        found: Floats = self.base + self.leaves[trees, node - (2**depth - 1)].sum(axis=1)
        return found


def fit_bagged(x: Floats, y: Floats, options: Options) -> tuple[Boosted, Floats]:
    """One model out of all bags (their mean), and each row's prediction by the bags that did not see it.

    A row that every bag saw has NaN.
    """
    generator = np.random.default_rng(options.seed)
    edges = _edges(x)
    codes = np.stack([np.searchsorted(edge, column) for edge, column in zip(edges, x.T, strict=True)], axis=1)
    models, total, times = [], np.zeros(len(y)), np.zeros(len(y))
    for _ in range(options.bags):
        weights = np.bincount(generator.integers(0, len(y), len(y)), minlength=len(y)).astype(np.float64)
        model = _fit(codes, edges, y, weights, options)
        out = weights == 0
        total[out] += model.predict(x[out])
        times[out] += 1
        models.append(model)
    with np.errstate(invalid="ignore"):
        return _mean(models), total / times


def _mean(models: list[Boosted]) -> Boosted:
    return Boosted(
        float(np.mean([model.base for model in models])),
        np.concatenate([model.features for model in models]),
        np.concatenate([model.thresholds for model in models]),
        np.concatenate([model.leaves for model in models]) / len(models),
    )


def _edges(x: Floats) -> list[Floats]:
    """Where each feature is cut: between its values where they are few, at quantiles where they are many."""
    found = []
    for column in x.T:
        values = np.unique(column)
        if len(values) > _BINS:
            values = np.unique(np.quantile(column, np.linspace(0.0, 1.0, _BINS)))
        found.append((values[1:] + values[:-1]) / 2)
    return found


def _fit(codes: Ints, edges: list[Floats], y: Floats, weights: Floats, options: Options) -> Boosted:
    base = float(np.average(y, weights=weights))
    rest = y - base
    trees = []
    for _ in range(options.trees):
        tree, answer = _tree(codes, edges, rest, weights, options)
        rest = rest - answer
        trees.append(tree)
    features, thresholds, leaves = (np.stack(parts) for parts in zip(*trees, strict=True))
    return Boosted(base, features, thresholds, leaves)


def _tree(
    codes: Ints, edges: list[Floats], rest: Floats, weights: Floats, options: Options
) -> tuple[tuple[Ints, Floats, Floats], Floats]:
    """One tree (features, thresholds, leaves) and its answers."""
    inner = 2**options.depth - 1
    features, thresholds = np.zeros(inner, dtype=np.int64), np.full(inner, np.inf)
    node = np.zeros(len(rest), dtype=np.int64)
    for level in range(options.depth):
        first, count = 2**level - 1, 2**level
        best, cut = _splits(codes, node - first, count, rest, weights, options.leaf_weight)
        for i in np.flatnonzero(cut >= 0):
            features[first + i], thresholds[first + i] = best[i], edges[best[i]][cut[i]]
        place = node - first
        above = (cut[place] >= 0) & (codes[np.arange(len(rest)), best[place]] > cut[place])
        node = 2 * node + 1 + above
    leaf = node - inner
    sums = np.bincount(leaf, weights * rest, minlength=inner + 1)
    mass = np.bincount(leaf, weights, minlength=inner + 1)
    leaves = options.rate * sums / (mass + options.leaf_weight)
    return (features, thresholds, leaves), leaves[leaf]


def _splits(codes: Ints, place: Ints, count: int, rest: Floats, weights: Floats, pull: float) -> tuple[Ints, Ints]:
    """For each of ``count`` nodes the feature and the last bin of its lower half; bin -1 where no split helps."""
    width = codes.shape[1]
    cells = (place[:, None] * width + np.arange(width)) * _BINS + codes
    shape = (count, width, _BINS)
    size = count * width * _BINS
    mass = np.bincount(cells.ravel(), np.repeat(weights, width), minlength=size).reshape(shape).cumsum(axis=2)
    total = np.bincount(cells.ravel(), np.repeat(weights * rest, width), minlength=size).reshape(shape).cumsum(axis=2)
    all_mass, all_total = mass[:, :, -1:], total[:, :, -1:]
    gain = (
        total**2 / (mass + pull)
        + (all_total - total) ** 2 / (all_mass - mass + pull)
        - all_total**2 / (all_mass + pull)
    ).reshape(count, -1)
    found = gain.argmax(axis=1)
    # Rounding makes a gain of nothing where no row lies above the cut.
    parted = (all_mass > mass + 0.5).reshape(count, -1)[np.arange(count), found]
    cut = np.where(parted & (gain[np.arange(count), found] > 1e-9), found % _BINS, -1)
    return found // _BINS, cut
