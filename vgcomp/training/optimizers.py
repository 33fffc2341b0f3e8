"""Rates, and an optimizer's state as named tensors, so that checkpoints hold it beside the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """``3.exp_avg`` and so on: the parameter's number and the state's name. Rates are the recipe's and left out."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": torch.as_tensor(value) for number, held in state.items() for name, value in held.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what :func:`optimizer_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def rate_share(i: int, iterations: int, warmup: int) -> float:
    """A rate's share of its largest in iteration ``i``: up over ``warmup``, then down along a cosine."""
    return min(1.0, (i + 1) / max(warmup, 1)) * 0.5 * (1 + math.cos(math.pi * i / iterations))
