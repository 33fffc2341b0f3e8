"""An A18 for the passes' tests, which need no coremltools."""

from __future__ import annotations

from tests.passes.test_pipeline import context
from vgcomp.cost_models import AnalyticModel
from vgcomp.passes.base import PassContext
from vgcomp.targets import load_target

A18 = load_target("a18")


def a18(memory: int | None = None) -> PassContext:
    """An A18 with its analytic model."""
    return context(target=A18, cost_model=AnalyticModel(A18), memory=memory)
