"""Two small trained video denoisers, so that quality can be measured: a UNet with temporal layers, a transformer.

They generate moving shapes (:mod:`vgcomp.quality.shapes`): clips of 8 frames of 32×32 pixels. A latent is the clip with
each 4×4 patch's 48 values as channels (space to depth: exact both ways, nothing learned). They predict the
clip from what a straight flow has made of it; the timestep is 1000 at noise and 0 at the clip. Weights come from
``python -m tests.benchmarks.quality.train`` and lie in ``models/trained/``.

With ``batch=2`` guidance is in the network: the prompt's half and the empty prompt's half of one batch, combined. With
``batch=1`` the prompt's half is all there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vgcomp.errors import UsageError
from vgcomp.models.network import InputSpec, Network, Settings
from vgcomp.quality.latent import CHANNELS, PATCH
from vgcomp.quality.shapes import PROMPT, make_clips

_TRAINED = Path(__file__).parent / "trained"
#: How far guidance goes past the prompt's own prediction.
GUIDANCE = 2.0
_EMBEDDING = 128


class Condition(nn.Module):
    """(B,) or scalar timesteps and (B, 12) prompts -> (B, 128)."""

    def __init__(self, waves: int = 32) -> None:
        super().__init__()
        self.waves = waves
        self.time1, self.time2 = nn.Linear(2 * waves, _EMBEDDING), nn.Linear(_EMBEDDING, _EMBEDDING)
        self.prompt1, self.prompt2 = nn.Linear(PROMPT, _EMBEDDING), nn.Linear(_EMBEDDING, _EMBEDDING)

    def forward(self, timestep: Tensor, prompt: Tensor) -> Tensor:
        scales = torch.exp(-math.log(10_000.0) * torch.arange(self.waves, dtype=torch.float32) / self.waves)
        angles = timestep.reshape(-1, 1) * scales.to(prompt)
        time = self.time2(F.silu(self.time1(torch.cat((angles.sin(), angles.cos()), dim=1))))
        return time + self.prompt2(F.silu(self.prompt1(prompt)))  # type: ignore[no-any-return]


class _Resnet(nn.Module):
    """Two 3×3 convolutions within frames, one of 3 frames over time, scaled and shifted by the condition."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.GroupNorm(8, n) for n in (before, after, after))
        self.conv1, self.conv2 = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        self.temporal = nn.Conv2d(after, after, (3, 1), padding=(1, 0))
        self.condition = nn.Linear(_EMBEDDING, 2 * after)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B·T, C, H, W) -> (B·T, C', H, W)."""
        clips = condition.shape[0]
        scale, shift = self.condition(F.silu(condition))[:, None, :, None, None].chunk(2, dim=2)
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        h = (h.unflatten(0, (clips, -1)) * (1 + scale) + shift).flatten(0, 1)
        h = self.shortcut(x) + self.conv2(F.silu(h))
        # Over time in two dimensions, time and places: (B, C, T, H·W).
        t = F.silu(self.norm3(h)).unflatten(0, (clips, -1)).transpose(1, 2)
        t = self.temporal(t.flatten(3)).reshape(t.shape)
        return h + t.transpose(1, 2).flatten(0, 1)  # type: ignore[no-any-return]


class _Attention(nn.Module):
    """Self-attention of (N, S, C) tokens, in heads of 32 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // 32
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, 32)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class _SpaceTime(nn.Module):
    """Attention within frames, then along time at each place, each added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.space, self.time = _Attention(channels), _Attention(channels)

    def forward(self, x: Tensor, clips: int) -> Tensor:
        height, width = x.shape[-2:]
        tokens = self.norm1(x).flatten(2).transpose(1, 2)
        x = x + self.space(tokens).transpose(1, 2).unflatten(2, (height, width))
        # (B·T, C, H, W) -> (B·H·W, T, C) and back
        clip = self.norm2(x).unflatten(0, (clips, -1)).permute(0, 3, 4, 1, 2)
        out = self.time(clip.flatten(0, 2)).reshape(clip.shape)
        return x + out.permute(0, 3, 4, 1, 2).flatten(0, 1)  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self, before: int, after: int, attends: bool) -> None:
        super().__init__()
        self.resnet = _Resnet(before, after)
        self.attention = _SpaceTime(after) if attends else None

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.resnet(x, condition)
        return x if self.attention is None else self.attention(x, condition.shape[0])


class VideoUnet(nn.Module):
    """(B, 48, T, H, W) latents, timesteps and (B, 12) prompts -> clips' latents of the same shape."""

    def __init__(self, widths: tuple[int, ...] = (48, 64, 96), blocks: tuple[int, ...] = (1, 1, 2)) -> None:
        super().__init__()
        #: Channels of what `encode` gives, in its order.
        self.encoded_channels = widths
        self.condition = Condition()
        self.conv_in = nn.Conv2d(CHANNELS, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, width = [widths[0]], widths[0]
        for level, (wide, count) in enumerate(zip(widths, blocks, strict=True)):
            stage = nn.ModuleList()
            for _ in range(count):
                stage.append(_Block(width, wide, attends=level > 0))
                width = wide
                skips.append(width)
            if level + 1 < len(widths):
                stage.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
            self.down.append(stage)
        self.middle = _Block(width, width, attends=True)
        for level in reversed(range(len(widths))):
            stage = nn.ModuleList()
            for _ in range(blocks[level] + 1):
                stage.append(_Block(width + skips.pop(), widths[level], attends=level > 0))
                width = widths[level]
            if level:
                stage.append(nn.Conv2d(width, width, 3, padding=1))
            self.up.append(stage)
        self.norm_out, self.conv_out = nn.GroupNorm(8, width), nn.Conv2d(width, CHANNELS, 3, padding=1)

    def encode(self, sample: Tensor, timestep: Tensor, prompt: Tensor) -> list[Tensor]:
        """What each level of the way down ends in, (B·T, C, H, W) each: the largest first."""
        *_, levels = self._down(sample, self.condition(timestep, prompt))
        return levels

    def _down(self, sample: Tensor, condition: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """All that the way up reads, and what the levels end in."""
        x = self.conv_in(sample.transpose(1, 2).flatten(0, 1))
        skips, levels = [x], []
        for stage in self.down:
            for layer in stage.children():
                if not isinstance(layer, _Block):
                    levels.append(x)
                x = layer(x, condition) if isinstance(layer, _Block) else layer(x)
                skips.append(x)
        return skips, [*levels, x]

    def forward(self, sample: Tensor, timestep: Tensor, prompt: Tensor) -> Tensor:
        clips, frames = sample.shape[0], sample.shape[2]
        condition = self.condition(timestep, prompt)
        skips, _ = self._down(sample, condition)
        x = self.middle(skips[-1], condition)
        for stage in self.up:
            for layer in stage.children():
                x = (
                    layer(torch.cat((x, skips.pop()), dim=1), condition)
                    if isinstance(layer, _Block)
                    else layer(F.interpolate(x, scale_factor=2.0, mode="nearest"))
                )
        x = self.conv_out(F.silu(self.norm_out(x)))
        return x.unflatten(0, (clips, frames)).transpose(1, 2)


class _Layer(nn.Module):
    """A transformer layer: attention within frames, along time, and a feed-forward, each scaled by the condition.

    A 3×3 convolution a channel stands before the feed-forward: neighbours need not be learned from positions alone.
    """

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.local = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels, elementwise_affine=False) for _ in range(3))
        self.space, self.time = _Attention(channels), _Attention(channels)
        self.fc1, self.fc2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.condition = nn.Linear(_EMBEDDING, 9 * channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, T, S, C) -> (B, T, S, C)."""
        clips, frames = x.shape[:2]
        parts = self.condition(F.silu(condition))[:, None, None, :].chunk(9, dim=-1)
        h = self.norms[0](x) * (1 + parts[0]) + parts[1]
        x = x + parts[2] * self.space(h.flatten(0, 1)).unflatten(0, (clips, frames))
        h = (self.norms[1](x) * (1 + parts[3]) + parts[4]).transpose(1, 2)
        x = x + parts[5] * self.time(h.flatten(0, 1)).reshape(h.shape).transpose(1, 2)
        h = self.norms[2](x) * (1 + parts[6]) + parts[7]
        near = self.local(h.flatten(0, 1).transpose(1, 2).unflatten(2, self.size))
        h = h + near.flatten(2).transpose(1, 2).unflatten(0, (clips, frames))
        return x + parts[8] * self.fc2(F.gelu(self.fc1(h)))  # type: ignore[no-any-return]


def _waves(count: int, channels: int) -> Tensor:
    """(count, channels): sines and cosines of places, from which their embeddings start."""
    scales = torch.exp(-math.log(30.0) * torch.arange(channels // 2) / (channels // 2))
    angles = torch.arange(count)[:, None] * scales
    return torch.cat((angles.sin(), angles.cos()), dim=1)


class VideoTransformer(nn.Module):
    """The same interface as :class:`VideoUnet`: one token a patch and frame, learned places."""

    def __init__(self, frames: int, size: tuple[int, int], channels: int = 96, layers: int = 6) -> None:
        super().__init__()
        self.condition = Condition()
        self.embed = nn.Linear(CHANNELS, channels)
        rows, columns = _waves(size[0], channels // 2)[:, None], _waves(size[1], channels // 2)[None]
        grid = torch.cat((rows.expand(-1, size[1], -1), columns.expand(size[0], -1, -1)), dim=2)
        self.places = nn.Parameter(grid.reshape(1, 1, -1, channels))
        self.times = nn.Parameter(_waves(frames, channels)[None, :, None])
        self.layers = nn.ModuleList(_Layer(channels, size) for _ in range(layers))
        self.norm_out = nn.LayerNorm(channels, elementwise_affine=False)
        self.condition_out = nn.Linear(_EMBEDDING, 2 * channels)
        self.out = nn.Linear(channels, CHANNELS)

    def forward(self, sample: Tensor, timestep: Tensor, prompt: Tensor) -> Tensor:
        height, width = sample.shape[-2:]
        condition = self.condition(timestep, prompt)
        x = self.embed(sample.flatten(3).permute(0, 2, 3, 1)) + self.places + self.times
        for layer in self.layers:
            x = layer(x, condition)
        scale, shift = self.condition_out(F.silu(condition))[:, None, None, :].chunk(2, dim=-1)
        x = self.out(self.norm_out(x) * (1 + scale) + shift)
        return x.permute(0, 3, 1, 2).unflatten(3, (height, width))  # type: ignore[no-any-return]


class Guided(nn.Module):
    """Classifier-free guidance in one call: the prompt's half and the empty prompt's half of a batch of 2·B."""

    def __init__(self, network: nn.Module, scale: float = GUIDANCE) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, sample: Tensor, timestep: Tensor, prompt: Tensor) -> Tensor:
        both = torch.cat((prompt, prompt * 0.0))
        given, free = self.network(torch.cat((sample, sample)), timestep, both).chunk(2)
        return free + self.scale * (given - free)  # type: ignore[no-any-return]


def bare(name: str, settings: Settings) -> nn.Module:
    """The network of that entry without guidance, as it is trained."""
    size = (settings.height // PATCH, settings.width // PATCH)
    if name == "quality-unet":
        return VideoUnet()
    return VideoTransformer(settings.frames, size, layers=settings.layers or 6)


def _make(name: str) -> Callable[[Settings], nn.Module]:
    def make(settings: Settings) -> nn.Module:
        network = bare(name, settings)
        return Guided(network) if settings.batch == 2 else network

    return make


def _inputs(s: Settings) -> tuple[InputSpec, ...]:
    return (
        InputSpec("sample", (1, CHANNELS, s.frames, s.height // PATCH, s.width // PATCH)),
        InputSpec("timestep", (), torch.float32, fill=500.0),
        InputSpec("prompt", (1, PROMPT)),
    )


def load_trained(name: str, network: nn.Module) -> None:
    """Puts the trained weights into ``network`` (guided or not). Raises UsageError for a network of other settings."""
    from safetensors.torch import load_file

    inner = network.network if isinstance(network, Guided) else network
    values = {key: value.float() for key, value in load_file(_TRAINED / f"{name}.safetensors").items()}
    try:
        inner.load_state_dict(values)
    except RuntimeError:
        raise UsageError(f"{name} was trained with its own settings alone; for others, --set weights=random") from None


def _conditions(seed: int) -> dict[str, Tensor]:
    return {"prompt": make_clips(1, seed).prompts}


_DEFAULTS = Settings(frames=8, height=32, width=32, batch=2, dtype=torch.float32, weights="trained")

NETWORKS = tuple(
    Network(
        name,
        summary,
        _DEFAULTS,
        _make(name),
        _inputs,
        16,
        trained=load_trained,
        conditions=_conditions,
        sampler="flow-euler-clean",
    )
    for name, summary in (
        ("quality-unet", "a small UNet with temporal layers, trained on moving shapes, guidance included"),
        ("quality-transformer", "a small video transformer, trained on moving shapes, guidance included"),
    )
)
