"""AdamW that moves the part of the weights that took part in an iteration, and nothing else.

A subnet uses a part of each shared weight. The rest must stay as it is: no gradient, no decay, no step along old
momentum, and its moments and its count of steps stay, too. So each element has a count of its own, by which its moments
are corrected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

_STATE = ("mean", "square", "count")


class PartialAdamW:
    """AdamW (Loshchilov and Hutter 2019) over named parameters, element by element."""

    def __init__(
        self,
        parameters: Iterator[tuple[str, nn.Parameter]],
        betas: tuple[float, float] = (0.9, 0.98),
        epsilon: float = 1e-8,
        decay: float = 0.01,
    ) -> None:
        self.parameters = dict(parameters)
        self.betas, self.epsilon, self.decay = betas, epsilon, decay
        self.state = {
            name: {part: torch.zeros_like(value, requires_grad=False) for part in _STATE}
            for name, value in self.parameters.items()
        }

    @torch.no_grad()
    def step(self, rate: float, used: Mapping[str, Tensor]) -> None:
        """Moves elements where ``used`` is true, along their gradients; parameters that it leaves out stay whole."""
        for name, mask in used.items():
            parameter, gradient = self.parameters[name], self.parameters[name].grad
            if gradient is None:
                continue
            self._move(parameter, gradient, self.state[name], mask, rate)

    def _move(self, value: Tensor, gradient: Tensor, state: dict[str, Tensor], mask: Tensor, rate: float) -> None:
        (first, second), on = self.betas, mask.to(value.dtype)
        # Where the mask is 0 each line adds 0 to what is there: those elements keep their bits.
        state["count"].add_(on)
        state["mean"].add_((1 - first) * on * (gradient - state["mean"]))
        state["square"].add_((1 - second) * on * (gradient.square() - state["square"]))
        count = state["count"].clamp_min(1)
        mean, square = state["mean"] / (1 - first**count), state["square"] / (1 - second**count)
        value.sub_(on * rate * (mean / (square.sqrt() + self.epsilon) + self.decay * value))

    def tensors(self) -> dict[str, Tensor]:
        """The state by name."""
        return {f"{part}.{name}": value for name, held in self.state.items() for part, value in held.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what :meth:`tensors` gave."""
        for name, held in self.state.items():
            for part, value in held.items():
                value.copy_(tensors[f"{part}.{name}"])
