"""Cost models: seconds for an op on a target, and where the figure comes from."""

from vgcomp.cost_models.analytic import AnalyticModel
from vgcomp.cost_models.base import Bound, Cost, CostModel, OpWork
from vgcomp.cost_models.work import work_of

__all__ = ["AnalyticModel", "Bound", "Cost", "CostModel", "OpWork", "work_of"]
