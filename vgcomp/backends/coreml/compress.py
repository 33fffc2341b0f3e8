"""Weights in fewer bits, by coremltools' own ops: look-up tables of 16 or 64 values, or 8-bit integers with scales.

The engine takes them as they are and expands them as it reads, so the file and what is loaded shrink alike. Constants
of fewer than 2,048 elements stay fp16, as coremltools has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vgcomp.errors import UsageError

Weights = Literal["fp16", "palettize-4", "palettize-6", "linear-8"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)

#: Rounds of k-means; in one dimension it has settled long before, or moves by less than fp16 shows.
_ROUNDS = 60


@dataclass(frozen=True)
class Form:
    """How weights are stored: bits an element."""

    name: Weights
    bits: int


FORMS: dict[str, Form] = {
    "fp16": Form("fp16", 16),
    "palettize-4": Form("palettize-4", 4),
    "palettize-6": Form("palettize-6", 6),
    "linear-8": Form("linear-8", 8),
}


def form_of(name: str) -> Form:
    """Raises UsageError for a form that there is none of."""
    if name not in FORMS:
        raise UsageError(f"--weights {name}: one of {', '.join(FORMS)}")
    return FORMS[name]


def passes_for(form: Form) -> dict[str, Any]:
    """coremltools' passes that bring weights into that form, each with its configuration."""
    if form.bits == 16:
        return {}
    from coremltools.optimize import coreml as optimize

    if form.name == "linear-8":
        linear = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8", granularity="per_channel")
        return {"compression::linear_quantize_weights": optimize.OptimizationConfig(global_config=linear)}
    palette = optimize.OpPalettizerConfig(mode="custom", lut_function=_palettizer(form.bits))
    return {"compression::palettize_weights": optimize.OptimizationConfig(global_config=palette)}


def _palettizer(bits: int) -> Callable[[NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]:
    def run(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        table = kmeans(values.astype(np.float64).reshape(-1), 1 << bits).astype(values.dtype)
        borders = (table[1:].astype(np.float64) + table[:-1]) / 2
        return table, np.searchsorted(borders, values.reshape(-1)).astype(np.uint8)

    return run


def kmeans(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """``count`` ascending values near which the given ones lie: Lloyd's algorithm, from quantiles, in one dimension.

    Clusters of sorted values are ranges, and their means follow from one running sum.
    """
    ordered = np.sort(values)
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    centres = np.quantile(ordered, (np.arange(count) + 0.5) / count)
    for _ in range(_ROUNDS):
        ends = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        bounds = np.concatenate(([0], ends, [len(ordered)]))
        sizes = np.diff(bounds)
        means = np.diff(sums[bounds]) / np.maximum(sizes, 1)
        moved = np.where(sizes > 0, means, centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres
