"""Searches over candidates of a space: their quality against what their compiled programs cost."""
