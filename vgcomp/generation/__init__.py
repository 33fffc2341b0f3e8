"""Generations: whole pipelines planned under one budget, and diffusers' pipelines run within one.

generate_plan("svd", target="a100", memory="8GB")      # stages, their weights' places, one report
wrap(pipe, target="a100", memory="8GB")                # a pipeline of diffusers, in place
"""

from __future__ import annotations
