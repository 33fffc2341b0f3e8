"""Measuring what an approximation does to clips: a small generated data set, and metrics between clips."""
