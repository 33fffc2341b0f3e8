"""Slicing: regions found from axes, a plan by shortest path, and the plan written as loops."""
