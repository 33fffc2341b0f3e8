"""Reduced supernets in fp64 with their graphs: what a subnet computes is then told from rounding."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vgcomp import models
from vgcomp.capture import capture
from vgcomp.elastic import with_marks
from vgcomp.models.sned import Supernet
from vgcomp.program import Program
from vgcomp.space import Option


@dataclass(frozen=True)
class Pair:
    """A supernet to run eagerly, its graph with marks, and inputs for both."""

    module: Supernet
    program: Program
    inputs: Sequence[Tensor]

    def choice(self, rng: random.Random) -> dict[str, Option]:
        """A random choice."""
        return {name: rng.choice(choice.options) for name, choice in self.module.choices.items()}

    def run(self, named: dict[str, Option]) -> Tensor:
        """The supernet with this choice."""
        self.module.choose(named)
        with torch.no_grad():
            out: Tensor = self.module(*self.inputs)
        return out


def pair(name: str, dtype: torch.dtype = torch.float64, **settings: Any) -> Pair:
    """The zoo's supernet of that name, in ``dtype``."""
    module, inputs = models.build_module(name, **settings)
    assert isinstance(module, Supernet)
    module, inputs = module.to(dtype), tuple(x.to(dtype) for x in inputs)
    network = models.find(name)
    names = [spec.name for spec in network.inputs(network.settings(settings))]
    program = capture(module, inputs, name=name, input_names=names, output_names=["sample"])
    assert network.marks is not None
    return Pair(module, with_marks(program, network.marks(module, program)), inputs)
