"""Rewrites for devices that refuse ranks, windows or layouts, each exact but for the order of additions.

``editor`` changes a graph in place, ``permutations`` takes one of many dimensions apart into legal ones, ``ranks``
rewrites values of too many dimensions, ``convolutions`` and ``resample`` those over three spatial dimensions.
"""
