"""Trains the quality bench's two networks on moving shapes, side by side, one thread each.

    python -m tests.benchmarks.quality.train            # both, under 20 minutes on two CPU cores
    python -m tests.benchmarks.quality.train quality-unet

Straight flow: at noise level s a latent is (1 - s)·clip + s·noise, and the network predicts the clip; errors weigh as
those of the velocity that follows, 1 / s² (with s at least 0.1). One prompt in eight is left empty, for guidance. What
is kept are averaged weights, in fp16, in ``models/trained/``.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import multiprocessing, nn

from vgcomp.models import find
from vgcomp.models.quality import bare
from vgcomp.quality.latent import encode
from vgcomp.quality.shapes import make_clips

TRAINED = Path(__file__).parents[3] / "models" / "trained"
#: Clips for training start at this seed, one seed a step; the benchmarks' seeds are far below.
FIRST_SEED = 1_000_000


@dataclass(frozen=True)
class Recipe:
    """One training. ``average``: of the weights that are kept, a step."""

    steps: int
    batch: int
    rate: float
    average: float = 0.995
    empty: float = 0.125


RECIPES = {"quality-unet": Recipe(1600, 16, 1.5e-3), "quality-transformer": Recipe(1400, 8, 2e-3)}


def train(name: str, recipe: Recipe) -> None:
    """Trains one network and writes its weights, and beside them what it took."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = bare(name, find(name).defaults).train()
    kept = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.01)
    begin, losses = (time.time(), time.process_time()), []
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * _share(step, recipe.steps)
        losses.append(_step(network, optimizer, step, recipe))
        decay = min(recipe.average, (1 + step) / (10 + step))
        with torch.no_grad():
            for ours, theirs in zip(kept.parameters(), network.parameters(), strict=True):
                ours.lerp_(theirs, 1 - decay)
        if step % 100 == 99:
            recent = sum(losses[-100:]) / 100
            print(f"{name} {step + 1}/{recipe.steps} loss {recent:.4f} {time.time() - begin[0]:.0f} s", flush=True)
        if step % 400 == 399 or step + 1 == recipe.steps:
            _save(name, kept)
    record = {"recipe": asdict(recipe), "loss": sum(losses[-100:]) / 100, "torch": torch.__version__}
    record |= {"wall_s": time.time() - begin[0], "cpu_s": time.process_time() - begin[1]}
    (TRAINED / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, step: int, recipe: Recipe) -> float:
    rng = torch.Generator().manual_seed(step)
    clips = make_clips(recipe.batch, FIRST_SEED + step)
    latents = encode(clips.pixels)
    noise = torch.randn(latents.shape, generator=rng)
    level = torch.sigmoid(torch.randn(recipe.batch, generator=rng))
    prompts = clips.prompts * (torch.rand(recipe.batch, 1, generator=rng) >= recipe.empty)
    at = level[:, None, None, None, None]
    found = network((1 - at) * latents + at * noise, 1000 * level, prompts)
    loss = ((found - latents) / at.clamp_min(0.1)).square().mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def _share(step: int, steps: int) -> float:
    """The learning rate's share of its largest: up over 100 steps, then down along a cosine."""
    return min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _save(name: str, network: nn.Module) -> None:
    TRAINED.mkdir(exist_ok=True)
    values = {key: value.to(torch.float16).contiguous() for key, value in network.state_dict().items()}
    save_file(values, TRAINED / f"{name}.safetensors")


def main() -> None:
    """Trains the networks named, or both, in a process each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *RECIPES], metavar="NAME", help="a network; default: both")
    names = parser.parse_args().names or list(RECIPES)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=train, args=(name, RECIPES[name])) for name in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    raise SystemExit(max(worker.exitcode or 0 for worker in workers))


if __name__ == "__main__":
    main()
