"""Cost models: seconds for an op on a target, and where the figure comes from."""

from vgcomp.cost_models.analytic import AnalyticModel
from vgcomp.cost_models.base import Bound, Cost, CostModel, OpWork
from vgcomp.cost_models.measured import MeasuredModel
from vgcomp.cost_models.work import work_of
from vgcomp.errors import UsageError
from vgcomp.targets.target import Target

__all__ = ["AnalyticModel", "Bound", "Cost", "CostModel", "MeasuredModel", "OpWork", "named_model", "work_of"]


def named_model(name: str, target: Target) -> CostModel:
    """The cost model of that name for a target. Raises UsageError for another name, or where there is no table."""
    if name == "measured":
        return MeasuredModel(target)
    if name != "analytic":
        raise UsageError(f"no cost model is called {name!r}: there are analytic and measured")
    return AnalyticModel(target)
