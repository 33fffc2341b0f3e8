"""SNED-like supernets: video-diffusion UNets whose widths, blocks and layers are left open, in pixels and in latents.

What is known of SNED [abstract]: one supernet whose subnets share its weights; subnets differ in cost and resolution,
64×64 to 256×256 pixels and 640 million to 1.6 billion parameters; channels are dynamic, and blocks at a fine grain;
diffusion in pixels and in latents. The layout, the channels' ratios and which blocks may go are ours:

* a *stage* is one level on the way down or up, or the middle; each has a width (``width.<stage>``) of four fifths
  to all of its channels, in whole heads;
* a stage begins with a residual block from the width before to its own, on the way up after a concatenation;
* then come *blocks* of three residual layers: convolutions, attention within frames and to the prompt (from some level
  on), attention along time. ``block.<stage>.<n>`` says what there is of block n: ``skip`` (nothing), ``resnet``
  (convolutions only), ``temporal`` or ``attention`` (with one of the two), ``all``. At full size the first block of a
  stage is always there whole.

``resolution`` is a choice of the space and no part of the supernet, which takes clips of any size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vgcomp.errors import UsageError
from vgcomp.models.elastic_layers import (
    Active,
    Conv2d,
    GroupNorm,
    LayerNorm,
    Linear,
    Positions,
    Residual,
    Segment,
    Width,
    active_parameters,
    fixed,
)
from vgcomp.models.elastic_marks import supernet_marks
from vgcomp.models.network import InputSpec, Network, Settings, small
from vgcomp.quality.latent import CHANNELS, PATCH
from vgcomp.quality.shapes import PROMPT
from vgcomp.space import Choice, Option

#: The name of the choice that sets height and width.
RESOLUTION = "resolution"
#: Shares of a stage's channels that may be active, rounded down to whole heads.
RATIOS = (0.8, 0.85, 0.9, 0.95, 1.0)


@dataclass(frozen=True)
class Config:
    """A supernet. ``channels``: of a pixel or a latent. ``widths``, ``blocks``: of each level, the finest first.

    ``attends``: the first level with attention within frames. ``middle``: blocks between the ways down and up.
    ``stays``: blocks of a level's stages that are there whatever is chosen. ``patch``: pixels of a latent's side.
    ``resolutions``: sides of the clips in pixels. ``tokens``: of a prompt.
    """

    channels: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    stays: tuple[int, ...]
    attends: int
    resolutions: tuple[int, ...]
    middle: int = 1
    patch: int = 1
    head: int = 64
    groups: int = 32
    context: int = 768
    embedding: int = 512
    tokens: int = 77

    def stages(self) -> tuple[tuple[str, int, int], ...]:
        """(name, level, blocks) of each stage, in the order in which they run."""
        levels = range(len(self.widths))
        down = [(f"down.{level}", level, self.blocks[level]) for level in levels]
        up = [(f"up.{level}", level, self.blocks[level]) for level in reversed(levels)]
        return (*down, ("mid", len(self.widths) - 1, self.middle), *up)

    def choices(self) -> tuple[Choice, ...]:
        """What the supernet leaves open, and the resolution."""
        widths, blocks = [], []
        for stage, level, count in self.stages():
            if stage != "mid":
                widths.append(Choice(f"width.{stage}", self._widths(level)))
            blocks += [Choice(f"block.{stage}.{n}", self.block_options(level)) for n in range(self.stays[level], count)]
        return (Choice(RESOLUTION, self.resolutions), *widths, *blocks)

    def _widths(self, level: int) -> tuple[int, ...]:
        full, unit = self.widths[level], math.lcm(self.head, self.groups)
        return tuple(sorted({int(full * ratio) // unit * unit for ratio in RATIOS}))

    def block_options(self, level: int) -> tuple[str, ...]:
        """What there may be of a block of that level, the least first."""
        return ("skip", "resnet", "temporal", *(("attention", "all") if level >= self.attends else ()))


class Condition(NamedTuple):
    """What every layer may look at: (B·T, E) embedded timesteps, (B·T, S, context) prompts, and frames of a clip."""

    embedding: Tensor
    context: Tensor
    frames: int


class _Convolutions(nn.Module):
    """Norm, SiLU, 3×3 convolution, twice, shifted by the timestep's embedding in between."""

    def __init__(self, config: Config, active: Active, before: Width, after: Width) -> None:
        super().__init__()
        self.norm1, self.norm2 = (GroupNorm(active, config.groups, width) for width in (before, after))
        self.conv1, self.conv2 = Conv2d(active, before, after, 3), Conv2d(active, after, after, 3)
        self.time = Linear(active, fixed(config.embedding), after)

    def forward(self, x: Tensor, given: Condition) -> Tensor:
        out = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(given.embedding))[:, :, None, None]
        return self.conv2(F.silu(self.norm2(out)))  # type: ignore[no-any-return]


class _Entry(nn.Module):
    """The residual block that a stage begins with, from one width to another."""

    def __init__(self, config: Config, active: Active, before: Width, after: Width) -> None:
        super().__init__()
        self.body = _Convolutions(config, active, before, after)
        self.shortcut = Conv2d(active, before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, given: Condition) -> Tensor:
        return self.shortcut(x) + self.body(x, given)  # type: ignore[no-any-return]


class _Attention(nn.Module):
    """Attention of (N, S, C) tokens to themselves or to (N, K, context) others, in heads of a fixed size."""

    def __init__(self, config: Config, active: Active, width: Width, context: Width | None = None) -> None:
        super().__init__()
        self.head = config.head
        self.norm = LayerNorm(active, width)
        self.to_q, self.to_out = Linear(active, width, width, bias=False), Linear(active, width, width)
        self.to_k, self.to_v = (Linear(active, context or width, width, bias=False) for _ in range(2))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        normed = self.norm(x)
        keys = normed if context is None else context
        q, k, v = (
            project.unflatten(-1, (-1, self.head)).transpose(1, 2)
            for project in (self.to_q(normed), self.to_k(keys), self.to_v(keys))
        )
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.to_out(out)  # type: ignore[no-any-return]


class _FeedForward(nn.Module):
    """A gated feed-forward, four times as wide inside."""

    def __init__(self, active: Active, segment: Segment) -> None:
        super().__init__()
        inner = Segment(4 * segment.full, segment.choice, factor=4)
        halves = Segment(inner.full, segment.choice, factor=4, repeat=2)
        self.norm = LayerNorm(active, (segment,))
        self.gate, self.fc = Linear(active, (segment,), (halves,)), Linear(active, (inner,), (segment,))

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.gate(self.norm(x)).chunk(2, dim=-1)
        return x + self.fc(value * F.gelu(gate))  # type: ignore[no-any-return]


class _Space(nn.Module):
    """A transformer within frames, and to the prompt: (B·T, C, H, W) -> the same."""

    def __init__(self, config: Config, active: Active, segment: Segment) -> None:
        super().__init__()
        width = (segment,)
        self.norm = GroupNorm(active, config.groups, width)
        self.proj_in, self.proj_out = Linear(active, width, width), Linear(active, width, width)
        self.own = _Attention(config, active, width)
        self.cross = _Attention(config, active, width, fixed(config.context))
        self.feed = _FeedForward(active, segment)

    def forward(self, x: Tensor, given: Condition) -> Tensor:
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        tokens = self.feed(self.cross(self.own(tokens), given.context))
        return self.proj_out(tokens).transpose(1, 2).unflatten(2, x.shape[-2:])  # type: ignore[no-any-return]


class _Time(nn.Module):
    """A transformer along time at each place: (B·T, C, H, W) -> the same."""

    def __init__(self, config: Config, active: Active, segment: Segment, frames: int) -> None:
        super().__init__()
        width = (segment,)
        self.norm = GroupNorm(active, config.groups, width)
        self.proj_in, self.proj_out = Linear(active, width, width), Linear(active, width, width)
        self.positions = Positions(active, frames, width)
        self.own = _Attention(config, active, width)
        self.feed = _FeedForward(active, segment)

    def forward(self, x: Tensor, given: Condition) -> Tensor:
        # (B·T, C, H, W) -> (B·H·W, T, C) and back
        clip = self.norm(x).unflatten(0, (-1, given.frames)).permute(0, 3, 4, 1, 2)
        tokens = self.positions(self.proj_in(clip.flatten(0, 2)))
        out = self.proj_out(self.feed(self.own(tokens))).reshape(clip.shape)
        return out.permute(0, 3, 4, 1, 2).flatten(0, 1)  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Three residual layers, each there or not by one choice (None: always)."""

    def __init__(
        self, config: Config, active: Active, place: tuple[str | None, int], segment: Segment, frames: int
    ) -> None:
        super().__init__()
        choice, level = place
        options = config.block_options(level)
        width = (segment,)
        self.resnet = Residual(active, _Convolutions(config, active, width, width), choice, options[1:])
        self.attention = (
            Residual(active, _Space(config, active, segment), choice, ("attention", "all"))
            if level >= config.attends
            else None
        )
        self.temporal = Residual(active, _Time(config, active, segment, frames), choice, ("temporal", "all"))

    def forward(self, x: Tensor, given: Condition) -> Tensor:
        x = self.resnet(x, given)
        if self.attention is not None:
            x = self.attention(x, given)
        return self.temporal(x, given)  # type: ignore[no-any-return]


class _Stage(nn.Module):
    """An entry, where the stage has one, and blocks."""

    def __init__(self, entry: _Entry | None, blocks: list[_Block]) -> None:
        super().__init__()
        self.entry, self.blocks = entry, nn.ModuleList(blocks)

    def forward(self, x: Tensor, given: Condition) -> Tensor:
        x = x if self.entry is None else self.entry(x, given)
        for block in self.blocks:
            x = block(x, given)
        return x


class Supernet(nn.Module):
    """(B, channels, T, H, W) noisy clips, () or (B,) timesteps and (B, S, context) prompts -> (B, channels, T, H, W).

    Runs whole until :meth:`choose` says otherwise.
    """

    def __init__(self, config: Config, frames: int) -> None:
        super().__init__()
        self.config, self.active = config, Active()
        #: What :meth:`choose` decides, by name.
        self.choices = {choice.name: choice for choice in config.choices() if choice.name != RESOLUTION}
        active, size = self.active, config.embedding
        waves = config.widths[0]
        self.time1, self.time2 = nn.Linear(waves, size), nn.Linear(size, size)
        self.prompt = nn.Linear(config.context, size)
        self.conv_in = Conv2d(active, fixed(config.channels), (self._segment("down.0", 0),), 3)
        self.stages, self.downsample, self.upsample = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        segment = self._segment("down.0", 0)
        skips: list[Segment] = []
        for stage, level, count in config.stages():
            if stage == "mid":
                entry, after = None, segment
            else:
                after = self._segment(stage, level)
                self._sample(stage, level, segment)
                before = (segment, skips.pop()) if stage.startswith("up") else (segment,)
                entry = _Entry(config, active, before, (after,))
            names = [None if n < config.stays[level] else f"block.{stage}.{n}" for n in range(count)]
            blocks = [_Block(config, active, (name, level), after, frames) for name in names]
            self.stages[stage.replace(".", "_")] = _Stage(entry, blocks)
            segment = after
            skips += [after] if stage.startswith("down") else []
        self.norm_out = GroupNorm(active, config.groups, (segment,))
        self.conv_out = Conv2d(active, (segment,), fixed(config.channels), 3)

    def _segment(self, stage: str, level: int) -> Segment:
        return Segment(self.config.widths[level], f"width.{stage}")

    def _sample(self, stage: str, level: int, segment: Segment) -> None:
        """The convolution that changes the resolution on the way into a stage, where it does."""
        if stage.startswith("down") and level:
            self.downsample[stage.replace(".", "_")] = Conv2d(self.active, (segment,), (segment,), 3, stride=2)
        if stage.startswith("up") and level < len(self.config.widths) - 1:
            self.upsample[stage.replace(".", "_")] = Conv2d(self.active, (segment,), (segment,), 3)

    def choose(self, named: Mapping[str, Option] | None) -> None:
        """Runs with these options from now on; None: whole. A ``resolution`` among them is the clips' own matter.

        Raises UsageError for a choice left out or unknown, or another option.
        """
        if named is None:
            self.active.replace({})
            return
        given = {name: option for name, option in named.items() if name != RESOLUTION}
        wrong = sorted(given.keys() ^ self.choices.keys())
        if wrong:
            raise UsageError(f"choice {wrong[0]!r} is {'left out' if wrong[0] in self.choices else 'unknown'}")
        for name, option in given.items():
            if option not in self.choices[name].options:
                known = ", ".join(map(str, self.choices[name].options))
                raise UsageError(f"choice {name!r} is one of {known}: not {option}")
        self.active.replace(given)

    def active_parameters(self) -> int:
        """Elements of the parameters that the choices made leave active."""
        return active_parameters(self)

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        clips, frames = sample.shape[0], sample.shape[2]
        embedding = self._embedding(timestep, encoder_hidden_states).repeat_interleave(frames, 0)
        given = Condition(embedding, encoder_hidden_states.repeat_interleave(frames, 0), frames)
        x = self.conv_in(sample.transpose(1, 2).flatten(0, 1))
        skips: list[Tensor] = []
        for stage, layer in self.stages.items():
            if stage in self.downsample:
                x = self.downsample[stage](x)
            if stage in self.upsample:
                x = self.upsample[stage](F.interpolate(x, scale_factor=2.0, mode="nearest"))
            x = layer(torch.cat((x, skips.pop()), dim=1) if stage.startswith("up") else x, given)
            skips += [x] if stage.startswith("down") else []
        x = self.conv_out(F.silu(self.norm_out(x)))
        return x.unflatten(0, (clips, frames)).transpose(1, 2)  # type: ignore[no-any-return]

    def _embedding(self, timestep: Tensor, prompt: Tensor) -> Tensor:
        """(B, E): the timestep's sines and cosines through two layers, and the prompt's mean through one."""
        waves = self.time1.in_features // 2
        scales = torch.exp(-math.log(10_000.0) * torch.arange(waves, dtype=torch.float32) / waves)
        angles = timestep.reshape(-1, 1).float() * scales.to(timestep.device)
        time = torch.cat((angles.sin(), angles.cos()), dim=1).to(prompt.dtype)
        return self.time2(F.silu(self.time1(time))) + self.prompt(prompt.mean(dim=1))  # type: ignore[no-any-return]


def _reduced(channels: int, widths: tuple[int, ...], blocks: tuple[int, ...], attends: int, patch: int = 1) -> Config:
    """A small supernet of the quality bench's clips, prompts and latents, in which every block is open."""
    sizes = {"head": 8, "groups": 4, "context": PROMPT, "embedding": 64, "tokens": 1}
    return Config(channels, widths, blocks, (0,) * len(blocks), attends, (16, 32), patch=patch, **sizes)


#: The supernets by the zoo's names.
CONFIGS = {
    "sned-pixel": Config(3, (256, 512, 1024, 1536), (2, 2, 3, 3), (1, 1, 1, 2), 2, (64, 128, 256)),
    "sned-latent": Config(4, (512, 1024, 1536), (2, 3, 3), (1, 1, 2), 0, (64, 128, 256), patch=8),
    "sned-pixel-small": _reduced(3, (32, 48, 64), (1, 1, 2), 1),
    "sned-latent-small": _reduced(CHANNELS, (48, 64), (2, 2), 0, PATCH),
}


def _network(name: str, summary: str, defaults: Settings) -> Network:
    config = CONFIGS[name]

    def inputs(s: Settings) -> tuple[InputSpec, ...]:
        return (
            InputSpec(
                "sample", (s.batch, config.channels, s.frames, s.height // config.patch, s.width // config.patch)
            ),
            InputSpec("timestep", (), torch.float32, fill=500.0),
            InputSpec("encoder_hidden_states", (s.batch, config.tokens, config.context)),
        )

    return Network(
        name,
        summary,
        defaults,
        lambda s: Supernet(config, s.frames),
        inputs,
        multiple=config.patch << (len(config.widths) - 1),
        marks=lambda module, program: supernet_marks(module, program, config.choices(), (RESOLUTION,)),
    )


NETWORKS = (
    _network("sned-pixel", "A supernet like SNED's in pixels, 0.64 to 1.6 billion parameters", Settings(16, 64, 64)),
    _network("sned-pixel-small", "sned-pixel at a twentieth of the width", small(8, 32, 32)),
    _network("sned-latent", "A supernet like SNED's in latents of 8×8 pixels", Settings(16, 256, 256)),
    _network("sned-latent-small", "sned-latent at a twentieth of the width", small(8, 32, 32)),
)
