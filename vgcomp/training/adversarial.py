"""Latent adversarial fine-tuning to a few steps without guidance: SnapGen-V (Wu et al., CVPR 2025), section 3.3.

A trained denoiser is the generator. At one of the few levels that it will be asked at, it predicts a clip; the clip is
taken to another level t', drawn logit-normal, where a discriminator compares it with a real one (equations 4 and 5). A
pseudo-Huber loss to the real clip keeps it in place (equation 6). Both learn in each iteration; of the discriminator,
the heads only. Batches of clips and of images alternate within an iteration, and their losses are added by share.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vgcomp.errors import UsageError
from vgcomp.quality.shapes import PROMPT
from vgcomp.rehash.sampler import FlowEuler
from vgcomp.training import flow
from vgcomp.training.clips import FIRST_SEED, Batch, Shapes
from vgcomp.training.discriminator import HEADS, Backbone, Encoder, Heads, Kind
from vgcomp.training.losses import hinge_discriminator, hinge_generator, pseudo_huber
from vgcomp.training.optimizers import load_optimizer, optimizer_tensors, rate_share
from vgcomp.training.processes import Processes, Single, average_gradients


@dataclass(frozen=True)
class Recipe:
    """One fine-tuning. The paper's: 6,000 iterations, rates 1e-7 and 1e-4, m = -1, s = 1, average 0.95.

    Rates rise over ``warmup`` iterations and fall along a cosine to nothing at the last; the paper's are even.
    ``steps``, ``shift``: the schedule that the generator is tuned for. ``location``, ``scale``: m and s of t'.
    ``images``: the share of the images' losses; 0 is training on clips alone. ``adversarial``: the weight of equation
    5; 0 is tuning without it. ``reconstruction``: of equation 6, and ``huber`` its constant c. ``average``: the rate of
    the averaged weights, which are what is kept.
    """

    iterations: int = 400
    steps: int = 4
    shift: float = 3.0
    batch: int = 8
    rate: float = 1e-4
    head_rate: float = 1e-3
    location: float = -1.0
    scale: float = 1.0
    heads: Kind = "joint"
    images: float = 0.2
    adversarial: float = 1.0
    reconstruction: float = 0.1
    huber: float = 0.1
    average: float = 0.95
    warmup: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.heads not in HEADS:
            raise UsageError(f"heads are {' or '.join(HEADS)}, not {self.heads!r}")
        if not 0 <= self.images < 1:
            raise UsageError(f"the images' share is at least 0 and below 1, not {self.images:g}")

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels that the generator is asked at, T_1 = 1 first."""
        schedule = FlowEuler(self.steps, self.shift)
        return tuple(schedule.level(i) for i in range(self.steps))


@dataclass(frozen=True)
class _Draw:
    """What one iteration draws for a batch: levels t of the generator and t' of the discriminator, (B,) each."""

    batch: Batch
    level: Tensor
    judged: Tensor
    share: float


class Adversarial:
    """The state of a fine-tuning and its iteration. ``network`` predicts clips and is tuned in place."""

    def __init__(self, network: nn.Module, recipe: Recipe, among: Processes | None = None) -> None:
        self.recipe, self.among = recipe, among or Single()
        self.among.share.check(recipe.batch)
        device = self.among.device
        self.generator = network.to(device)
        self.backbone = Backbone(network)
        self.kept = copy.deepcopy(network).requires_grad_(False)
        encoder: Encoder = network  # type: ignore[assignment]
        # A lone seed for the heads' first weights, so that they do not depend on what ran before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.heads = Heads(encoder.encoded_channels, PROMPT, recipe.heads)
        self.heads.to(device)
        adam = torch.optim.AdamW
        self.optimizer = adam(self.generator.parameters(), lr=recipe.rate, betas=(0.9, 0.999), weight_decay=0.01)
        self.head_optimizer = adam(self.heads.parameters(), lr=recipe.head_rate, betas=(0.5, 0.999), weight_decay=0.01)

    @property
    def about(self) -> Mapping[str, Any]:
        """The recipe, as JSON."""
        return {"kind": "adversarial", "recipe": asdict(self.recipe)}

    def iterate(self, i: int) -> dict[str, float]:
        """Iteration ``i``: both networks' losses and one step of both. Returns the losses of this process' rows."""
        self.optimizer.zero_grad(set_to_none=True)
        self.head_optimizer.zero_grad(set_to_none=True)
        found: dict[str, float] = {}
        for kind, draw in self._draws(i).items():
            found |= {f"{kind}.{name}": value for name, value in self._losses(draw).items()}
        share = rate_share(i, self.recipe.iterations, self.recipe.warmup)
        _step(self.optimizer, self.recipe.rate * share, self.generator.parameters(), self.among)
        _step(self.head_optimizer, self.recipe.head_rate * share, self.heads.parameters(), self.among)
        with torch.no_grad():
            for ours, theirs in zip(self.kept.parameters(), self.generator.parameters(), strict=True):
                ours.lerp_(theirs, 1 - self.recipe.average)
        return found

    def _losses(self, draw: _Draw) -> dict[str, float]:
        """Gradients of one batch, added to what the parameters hold."""
        recipe, batch, level = self.recipe, draw.batch, draw.level
        with self.among.autocast():
            noisy = flow.noised(batch.latents, batch.noise, level)
            clip = flow.predicted_clip(self.generator, noisy, level, batch.prompts)
            fake = flow.moved(noisy, flow.velocity(noisy, clip, level), level, draw.judged)
            seen = self.backbone(fake, draw.judged, batch.prompts)
            adversarial = hinge_generator(self.heads(seen, batch.prompts))
            reconstruction = pseudo_huber(clip, batch.latents, recipe.huber)
            loss = recipe.adversarial * adversarial + recipe.reconstruction * reconstruction
        _add_gradients(draw.share * loss, list(self.generator.parameters()))
        with self.among.autocast():
            with torch.no_grad():
                real = flow.noised(batch.latents, batch.noise, draw.judged)
                known = self.backbone(real, draw.judged, batch.prompts)
            verdicts = [self.heads([level.detach() for level in side], batch.prompts) for side in (known, seen)]
            discriminator = hinge_discriminator(*verdicts)
        _add_gradients(draw.share * discriminator, list(self.heads.parameters()))
        named = {"adversarial": adversarial, "reconstruction": reconstruction, "discriminator": discriminator}
        return {name: float(value.detach()) for name, value in named.items()}

    def _draws(self, i: int) -> dict[str, _Draw]:
        recipe = self.recipe
        kinds = {"clips": (Shapes(), 1 - recipe.images)}
        if recipe.images:
            kinds["images"] = (Shapes(frames=1), recipe.images)
        return {name: self._draw(i, n, shapes, share) for n, (name, (shapes, share)) in enumerate(kinds.items())}

    def _draw(self, i: int, kind: int, shapes: Shapes, share: float) -> _Draw:
        recipe, rng = self.recipe, flow.seeded(self.recipe.seed, i, kind)
        # Images are of other clips than the iteration's.
        whole = shapes.batch(recipe.batch, FIRST_SEED + 2 * i + kind, rng)
        level = flow.one_of(recipe.levels, recipe.batch, rng)
        judged = flow.logit_normal(recipe.batch, recipe.location, recipe.scale, rng)
        rows, device = self.among.share, self.among.device
        return _Draw(whole.share(rows, device), rows.rows(level).to(device), rows.rows(judged).to(device), share)

    def tensors(self) -> dict[str, Tensor]:
        """All that iterations change, by name."""
        found: dict[str, Tensor] = {}
        for part, module in self._modules().items():
            found |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
        for part, optimizer in self._optimizers().items():
            found |= {f"{part}.{name}": value for name, value in optimizer_tensors(optimizer).items()}
        return found

    def load(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Puts back what :meth:`tensors` gave, by part. The backbone is the untuned network's and stays."""
        for part, module in self._modules().items():
            module.load_state_dict(dict(parts[part]))
        for part, optimizer in self._optimizers().items():
            load_optimizer(optimizer, parts[part])

    def _modules(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "kept": self.kept, "heads": self.heads}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"generator-optimizer": self.optimizer, "heads-optimizer": self.head_optimizer}


def _add_gradients(loss: Tensor, parameters: list[nn.Parameter]) -> None:
    """Gradients of ``loss`` for these parameters alone, added to those they hold."""
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def _step(optimizer: torch.optim.Optimizer, rate: float, parameters: Iterable[nn.Parameter], among: Processes) -> None:
    held = list(parameters)
    average_gradients(held, among)
    nn.utils.clip_grad_norm_(held, 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
