"""Samplers: which timesteps a denoiser is asked at, and what its answer does to the latent. Deterministic, no state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from vgcomp.errors import UsageError


class Sampler(Protocol):
    """A fixed number of steps; ``step`` goes from latent i to latent i + 1. Latents keep their shape and dtype."""

    @property
    def steps(self) -> int:
        """How many."""
        ...

    def timestep(self, i: int) -> float:
        """What the denoiser is told at step i."""
        ...

    def step(self, i: int, latent: Tensor, output: Tensor) -> Tensor:
        """The next latent. Must be affine in ``output``, which calibration relies on."""
        ...


@dataclass(frozen=True)
class FlowEuler:
    """Euler steps along a straight flow from noise (level 1) to data (level 0).

    ``predicts``: what the output is, the flow's velocity or the clean data. ``shift`` above 1 spends more of the steps
    near the noise.
    """

    steps: int = 25
    shift: float = 1.0
    predicts: Literal["velocity", "clean"] = "velocity"

    def level(self, i: int) -> float:
        """The noise level before step i; 0 after the last."""
        even = 1 - i / self.steps
        return self.shift * even / (1 + (self.shift - 1) * even)

    def timestep(self, i: int) -> float:
        return 1000 * self.level(i)

    def step(self, i: int, latent: Tensor, output: Tensor) -> Tensor:
        velocity = output if self.predicts == "velocity" else (latent - output) / self.level(i)
        return latent + (self.level(i + 1) - self.level(i)) * velocity


@dataclass(frozen=True)
class Ddim:
    """DDIM without noise of its own, for a network that predicts the noise; betas of Stable Diffusion by default.

    1000 training steps. Timesteps lie evenly, the last being 1 (``leading`` spacing).
    """

    steps: int = 25
    beta_start: float = 0.00085
    beta_end: float = 0.012

    def timestep(self, i: int) -> float:
        return float((self.steps - 1 - i) * (1000 // self.steps) + 1)

    def step(self, i: int, latent: Tensor, output: Tensor) -> Tensor:
        now = self._kept(int(self.timestep(i)))
        after = self._kept(int(self.timestep(i + 1))) if i + 1 < self.steps else self._kept(0)
        clean = (latent - (1 - now) ** 0.5 * output) / now**0.5
        return after**0.5 * clean + (1 - after) ** 0.5 * output

    def _kept(self, timestep: int) -> float:
        betas = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, 1000, dtype=torch.float64) ** 2
        return float(torch.cumprod(1 - betas, 0)[timestep])


#: Names that the command line knows samplers by.
SAMPLERS = ("flow-euler", "flow-euler-clean", "ddim")


def make_sampler(name: str, steps: int, shift: float = 1.0) -> Sampler:
    """The sampler of that name. Raises UsageError for an unknown name, or settings that it cannot have."""
    if name not in SAMPLERS:
        raise UsageError(f"no sampler is called {name!r}; there are {', '.join(SAMPLERS)}")
    if not 2 <= steps <= 1000:
        raise UsageError(f"{steps} steps: a schedule needs 2 to 1000")
    if name == "ddim" and shift != 1.0:
        raise UsageError("ddim has no shift: leave --shift out, or take flow-euler")
    if name == "ddim":
        return Ddim(steps)
    return FlowEuler(steps, shift, "clean" if name == "flow-euler-clean" else "velocity")
