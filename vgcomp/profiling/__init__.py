"""Measures ops on a device, for the tables of :mod:`vgcomp.cost_models.table`."""

from vgcomp.profiling.profile import profile
from vgcomp.profiling.runner import Device, Runner, TorchRunner

__all__ = ["Device", "Runner", "TorchRunner", "profile"]
