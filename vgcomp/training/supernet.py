"""Training a supernet of shared weights: one subnet an iteration, the rest frozen (SNED, Li et al., CVPR 2024).

An iteration draws a subnet and a resolution (:mod:`vgcomp.training.sampling`), runs the supernet as that subnet on
clips of that size, and moves the weights that took part; all else keeps its bits, optimizer's state and all. The loss
is that of the velocity (:func:`vgcomp.training.flow.velocity_error`); the network predicts the clip. One prompt in
eight is left empty, so that guidance is possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vgcomp.errors import UsageError
from vgcomp.models import find
from vgcomp.models.elastic_layers import Residual
from vgcomp.models.sned import RESOLUTION, Supernet
from vgcomp.models.spaces import find_space
from vgcomp.quality.latent import CHANNELS, PATCH
from vgcomp.space import Candidate
from vgcomp.training import flow
from vgcomp.training.active import active_elements
from vgcomp.training.clips import FIRST_SEED, Batch, Shapes
from vgcomp.training.optimizers import rate_share
from vgcomp.training.partial_adam import PartialAdamW
from vgcomp.training.processes import Processes, Single, average_gradients
from vgcomp.training.sampling import Plan, SubnetSampler

#: Names of the last layers of residual bodies.
_OUTPUTS = ("conv2", "proj_out")


@dataclass(frozen=True)
class SupernetRecipe:
    """One training.

    ``warmup``: iterations of the sampling's warm-up; 0 is none. ``superposed``: costs are drawn evenly, see
    :class:`vgcomp.training.sampling.Plan`. ``rise``: iterations over which the learning rate rises.
    ``only``: a candidate to train by itself, with the weights that it would begin with in the supernet; empty trains
    the supernet. ``empty``: the share of prompts left empty.
    """

    network: str = "sned-latent-small"
    iterations: int = 800
    batch: int = 8
    rate: float = 1.5e-3
    warmup: int = 200
    superposed: bool = True
    rise: int = 50
    frames: int = 8
    empty: float = 0.125
    only: Candidate = ()
    seed: int = 0


class SupernetTraining:
    """The state of a training and its iteration; a ``Training`` of :mod:`vgcomp.training.loop`."""

    def __init__(self, recipe: SupernetRecipe, among: Processes | None = None) -> None:
        self.recipe, self.among = recipe, among or Single()
        self.among.share.check(recipe.batch)
        self.space = find_space(recipe.network)
        self.supernet = make_supernet(recipe.network, recipe.frames, recipe.seed).to(self.among.device)
        self.optimizer = PartialAdamW(self.supernet.named_parameters())
        self._parameters: dict[Candidate, float] = {}
        plan = Plan(recipe.warmup, recipe.superposed, (RESOLUTION,), recipe.seed)
        self.sampler = SubnetSampler(self.space, plan)
        if recipe.only:
            self.space.genes(recipe.only)

    @property
    def about(self) -> Mapping[str, Any]:
        """The recipe, as JSON."""
        return {"kind": "supernet", "recipe": asdict(self.recipe)}

    def iterate(self, i: int) -> dict[str, float]:
        """Trains the subnet of iteration ``i``. Returns its loss, and its share of the parameters."""
        recipe = self.recipe
        candidate = recipe.only or self.sampler.draw(i)
        named = self.space.named(candidate)
        self.supernet.choose(named)
        self.supernet.zero_grad(set_to_none=True)
        rng = flow.seeded(recipe.seed, i)
        whole = shapes_of(self.supernet, int(named[RESOLUTION]), recipe.frames).batch(recipe.batch, FIRST_SEED + i, rng)
        level = flow.logit_normal(recipe.batch, 0.0, 1.0, rng)
        told = (torch.rand(recipe.batch, generator=rng) >= recipe.empty).float()
        rows, device = self.among.share, self.among.device
        batch = whole.share(rows, device)
        with self.among.autocast():
            loss = denoising_loss(self.supernet, batch, rows.rows(level).to(device), rows.rows(told).to(device)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        used = active_elements(self.supernet)
        parameters = [self.optimizer.parameters[name] for name in used]
        average_gradients(parameters, self.among)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimizer.step(recipe.rate * rate_share(i, recipe.iterations, recipe.rise), used)
        return {"loss": float(loss.detach()), "parameters": self.parameters(candidate) / self._whole()}

    def parameters(self, candidate: Candidate) -> float:
        """A subnet's parameters, which stand for its cost."""
        if candidate not in self._parameters:
            before = dict(self.supernet.active.options)
            self.supernet.choose(self.space.named(candidate))
            self._parameters[candidate] = float(self.supernet.active_parameters())
            self.supernet.active.replace(before)
        return self._parameters[candidate]

    def _whole(self) -> int:
        return sum(parameter.numel() for parameter in self.supernet.parameters())

    def tensors(self) -> dict[str, Tensor]:
        """All that iterations change, by name."""
        weights = {f"supernet.{name}": value for name, value in self.supernet.state_dict().items()}
        return weights | {f"optimizer.{name}": value for name, value in self.optimizer.tensors().items()}

    def load(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Puts back what :meth:`tensors` gave, by part."""
        self.supernet.load_state_dict(dict(parts["supernet"]))
        self.optimizer.load(parts["optimizer"])


def make_supernet(name: str, frames: int, seed: int) -> Supernet:
    """The zoo's supernet of that name with seeded weights. Raises UsageError for a network that is none.

    Its residual layers begin as nothing, as in diffusion UNets. Here it matters more: subnets differ in the layers that
    they have, and one that was not trained yet must not spoil what the others have learnt.
    """
    entry = find(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = entry.make(entry.settings({"frames": frames, "dtype": "fp32"}))
    if not isinstance(network, Supernet):
        raise UsageError(f"{name} is no supernet: its weights serve one network alone")
    for residual in network.modules():
        if isinstance(residual, Residual):
            _silence(residual.body)
    return network


def _silence(body: nn.Module) -> None:
    """Zeroes the layer that a residual layer's output comes from."""
    for name, layer in body.named_children():
        if name in _OUTPUTS:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)


def shapes_of(supernet: Supernet, size: int, frames: int) -> Shapes:
    """The generated clips that a supernet takes, of a resolution in pixels. Raises UsageError where there are none."""
    kinds = {(3, 1): False, (CHANNELS, PATCH): True}
    kind = kinds.get((supernet.config.channels, supernet.config.patch))
    if kind is None:
        raise UsageError("generated clips are pixels, or patches of 4×4 pixels: a VAE's latents must come from data")
    return Shapes(frames, size, kind)


def denoising_loss(supernet: nn.Module, batch: Batch, level: Tensor, told: Tensor | None = None) -> Tensor:
    """(B,): each clip's velocity error at its level. ``told`` (B,): 0 leaves the prompt empty."""
    prompts = batch.prompts if told is None else batch.prompts * told[:, None]
    found = flow.predicted_clip(supernet, flow.noised(batch.latents, batch.noise, level), level, prompts[:, None])
    return flow.velocity_error(found, batch.latents, level)
