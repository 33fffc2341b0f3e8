"""Fits a device's efficiencies to published latencies: five constants, none of them a network's.

Few figures and correlated ops make the constants badly determined by the figures alone, so each is held near the
usual size for its library by a prior; figures count with 3 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vgcomp.cost_models.analytic import AnalyticModel
from vgcomp.targets.target import EfficiencyKind, Target
from vgcomp.validate.pipelines import Run

#: (usual size, standard deviation of its logarithm) before any figure is seen.
PRIOR: dict[EfficiencyKind, tuple[float, float]] = {
    "conv": (0.55, 0.25),
    "conv3d": (0.35, 0.35),
    "matmul": (0.75, 0.15),
    "attention": (0.8, 0.2),
    "memory": (0.85, 0.15),
}
_FIGURE_ERROR = 0.03


def fit(runs: Sequence[Run], target: Target) -> dict[EfficiencyKind, float]:
    """The efficiencies that suit the runs' seconds best; raises nothing, and gives the prior for no runs."""
    from scipy.optimize import least_squares

    usual = np.log([size for size, _ in PRIOR.values()])
    spread = np.array([deviation for _, deviation in PRIOR.values()])
    figures = np.log([run.seconds for run in runs])

    def residuals(logs: np.ndarray) -> np.ndarray:
        device = with_efficiency(target, _named(logs))
        predicted = np.log([device_seconds(run, device) for run in runs])
        return np.concatenate(((predicted - figures) / _FIGURE_ERROR, (logs - usual) / spread))

    found = least_squares(residuals, usual, diff_step=1e-3, max_nfev=12)
    return _named(found.x)


def _named(logs: np.ndarray) -> dict[EfficiencyKind, float]:
    return {kind: min(1.0, math.exp(float(value))) for kind, value in zip(PRIOR, logs, strict=True)}


def with_efficiency(target: Target, efficiency: dict[EfficiencyKind, float]) -> Target:
    """The same device with these efficiencies."""
    return target.model_copy(update={"efficiency": {**target.efficiency, **efficiency}})


def device_seconds(run: Run, target: Target) -> float:
    """Seconds of the run if the host is never waited for, each distinct op costed once."""
    model = AnalyticModel(target)
    total = 0.0
    for stage in run.stages:
        once = sum(
            model.curve(work, target).device_s() * count for work, count in stage.works().items() if not work.is_free
        )
        total += stage.times * once
    return total
