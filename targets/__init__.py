"""Devices: one TOML each, and the loader. A user adds a device by adding a file."""

from vgcomp.targets.loader import load_target, target_names
from vgcomp.targets.target import Target

__all__ = ["Target", "load_target", "target_names"]
