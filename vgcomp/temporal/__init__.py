"""Temporal layers: found in a network by what they do to its axes, and put in the place of one another."""

from vgcomp.temporal.layers import TemporalLayer, temporal_layers

__all__ = ["TemporalLayer", "temporal_layers"]
