"""A denoiser like SnapGen-V's, for phones, and the two decoders of its VAE.

The exact layers are not public. What is [SnapGen-V, sections 3.1 and 3.2, appendices B and F]: a pruned Stable
Diffusion 1.5, 2.5 times smaller, with temporal layers that a search chose per position, 0.6 billion parameters in all;
latents of 15×64×64 with 4 channels; timestep embeddings computed ahead. Our reading: SD 1.5's three finer levels with
320, 640 and 1280 channels, one or two blocks each, attention from the second level on, no fourth level; one temporal
layer after each block. By default convolutions over time stand at the finest level, attention over time at the second
and over the clip at the third. That makes 0.53 billion parameters and 7.1 TFLOP a step (without
temporal layers 0.38 billion and 5.2 TFLOP).

The decoders follow Open-Sora 1.2's VAE, which has the published sizes (4 channels, 8×8 in space, 4× in time, 17 frames
at a time): a causal temporal decoder on latents, then Stable Diffusion's image decoder.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vgcomp.errors import UsageError
from vgcomp.models.network import InputSpec, Network, Settings, latent_grid, small
from vgcomp.models.temporal import HEAD, TEMPORAL

_CHANNELS = (320, 640, 1280)
_BLOCKS = (1, 1, 2)


class _Resnet(nn.Module):
    """Two 3×3 convolutions with a shift by the timestep's embedding between them."""

    def __init__(self, before: int, after: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(min(32, before), before), nn.GroupNorm(min(32, after), after)
        self.conv1, self.conv2 = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        self.time = nn.Linear(embedding, after)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        out = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(embedding))[:, :, None, None]
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(out)))  # type: ignore[no-any-return]


class _Transformer(nn.Module):
    """Self-attention over a frame, attention to the prompt, a gated feed-forward."""

    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.q1, self.k1, self.v1 = (nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.q2 = nn.Linear(channels, channels, bias=False)
        self.k2, self.v2 = (nn.Linear(context, channels, bias=False) for _ in range(2))
        self.out1, self.out2 = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.gate, self.fc = nn.Linear(channels, 8 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        tokens = x.flatten(2).transpose(1, 2)
        normed = self.norms[0](tokens)
        tokens = tokens + self.out1(self._attend(self.q1(normed), self.k1(normed), self.v1(normed)))
        prompt = context.repeat_interleave(x.shape[0] // context.shape[0], 0)
        tokens = tokens + self.out2(self._attend(self.q2(self.norms[1](tokens)), self.k2(prompt), self.v2(prompt)))
        value, gate = self.gate(self.norms[2](tokens)).chunk(2, dim=-1)
        tokens = tokens + self.fc(value * F.gelu(gate))
        return tokens.transpose(1, 2).unflatten(2, (height, width))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class _Block(nn.Module):
    """A residual block, a transformer where the level has one, and the temporal layer of this position."""

    def __init__(self, resnet: _Resnet | None, transformer: _Transformer | None, temporal: nn.Module | None) -> None:
        super().__init__()
        self.resnet, self.transformer, self.temporal = resnet, transformer, temporal

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor) -> Tensor:
        if self.resnet is not None:
            x = self.resnet(x, embedding)
        if self.transformer is not None:
            x = self.transformer(x, context)
        return x if self.temporal is None else self.temporal(x, context)


class SnapGenV(nn.Module):
    """(B·T, 4, h, w) latents, (B·T, 4·C) embedded timesteps and (B, S, 768) prompts -> (B·T, 4, h, w).

    ``temporal``: a kind of :data:`~vgcomp.models.temporal.TEMPORAL` or ``none`` for each of :func:`positions`.
    """

    def __init__(
        self,
        temporal: tuple[str, ...],
        frames: int,
        size: tuple[int, int],
        channels: tuple[int, ...] = _CHANNELS,
        blocks: tuple[int, ...] = _BLOCKS,
        context: int = 768,
        head: int = HEAD,
    ) -> None:
        super().__init__()
        embedding = 4 * channels[0]
        kinds = iter(temporal)

        def block(level: int, before: int | None) -> _Block:
            width, heads = channels[level], channels[level] // head
            resnet = None if before is None else _Resnet(before, width, embedding)
            transformer = _Transformer(width, context, heads) if level else None
            kind = next(kinds)
            at = (size[0] >> level, size[1] >> level)
            layer = None if kind == "none" else TEMPORAL[kind](width, frames, at, context, heads)
            return _Block(resnet, transformer, layer)

        self.conv_in = nn.Conv2d(4, channels[0], 3, padding=1)
        down, skips, before = [], [], channels[0]
        for level, count in enumerate(blocks):
            stage = []
            for _ in range(count):
                stage.append(block(level, before))
                before = channels[level]
                skips.append(before)
            down.append(nn.ModuleList(stage))
        self.down = nn.ModuleList(down)
        self.downsample = nn.ModuleList(nn.Conv2d(c, c, 3, 2, 1) for c in channels[:-1])
        self.mid = block(len(channels) - 1, None)
        up = []
        for level in reversed(range(len(channels))):
            stage = []
            for _ in range(blocks[level]):
                stage.append(block(level, before + skips.pop()))
                before = channels[level]
            up.append(nn.ModuleList(stage))
        self.up = nn.ModuleList(up)
        self.upsample = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for c in channels[:0:-1])
        self.norm_out = nn.GroupNorm(min(32, channels[0]), channels[0])
        self.conv_out = nn.Conv2d(channels[0], 4, 3, padding=1)

    def forward(self, sample: Tensor, embedding: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        x, skips = self.conv_in(sample), []
        for level, stage in enumerate(self.down):
            x = self.downsample[level - 1](x) if level else x
            for block in stage:  # type: ignore[attr-defined]
                x = block(x, embedding, encoder_hidden_states)
                skips.append(x)
        x = self.mid(x, embedding, encoder_hidden_states)
        for level, stage in enumerate(self.up):
            x = self.upsample[level - 1](F.interpolate(x, scale_factor=2.0, mode="nearest")) if level else x
            for block in stage:  # type: ignore[attr-defined]
                x = block(torch.cat((x, skips.pop()), dim=1), embedding, encoder_hidden_states)
        return self.conv_out(F.silu(self.norm_out(x)))  # type: ignore[no-any-return]


def positions(blocks: tuple[int, ...] = _BLOCKS) -> tuple[str, ...]:
    """Names of the places where a temporal layer can stand, in the order in which they run."""
    down = [f"down.{level}.{i}" for level, count in enumerate(blocks) for i in range(count)]
    up = [f"up.{level}.{i}" for level in reversed(range(len(blocks))) for i in range(blocks[level])]
    return (*down, "mid", *up)


#: What stands at a level unless told otherwise.
_DEFAULT = ("conv1d", "selfattention1d", "selfattention3d")


def temporal_layers(text: str, blocks: tuple[int, ...] = _BLOCKS) -> tuple[str, ...]:
    """The kinds that ``text`` names, separated by ``+``, one a position; the default for an empty text.

    Raises UsageError for another number or an unknown kind.
    """
    places = positions(blocks)
    if not text:
        last = len(blocks) - 1
        return tuple(_DEFAULT[last if place == "mid" else int(place.split(".")[1])] for place in places)
    kinds = tuple(kind.strip().lower() for kind in text.split("+"))
    unknown = [kind for kind in kinds if kind not in TEMPORAL and kind != "none"]
    if unknown:
        raise UsageError(f"temporal={text}: {unknown[0]!r} is not one of none, {', '.join(TEMPORAL)}")
    if len(kinds) != len(places):
        raise UsageError(f"temporal={text}: {len(places)} kinds are wanted, for {', '.join(places)}")
    return kinds


# -- decoders ----------------------------------------------------------------------------------------


def convolution(rank: int, before: int, after: int, *, separable: bool) -> nn.Module:
    """A convolution three wide, causal in time if there is time; separable: by channel, then 1×1."""
    cls: Any = nn.Conv3d if rank == 3 else nn.Conv2d
    padding = (0, 1, 1) if rank == 3 else (1, 1)
    lead = (nn.ConstantPad3d((0, 0, 0, 0, 2, 0), 0.0),) if rank == 3 else ()
    if not separable:
        return nn.Sequential(*lead, cls(before, after, 3, padding=padding))
    return nn.Sequential(*lead, cls(before, before, 3, padding=padding, groups=before), cls(before, after, 1))


class _DecoderBlock(nn.Module):
    """Norm, SiLU, convolution, twice."""

    def __init__(self, rank: int, before: int, after: int, groups: int, separable: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups, before), nn.GroupNorm(groups, after)
        self.conv1 = convolution(rank, before, after, separable=separable)
        self.conv2 = convolution(rank, after, after, separable=separable)
        cls = nn.Conv3d if rank == 3 else nn.Conv2d
        self.shortcut = cls(before, after, 1, bias=False) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return self.shortcut(x) + out  # type: ignore[no-any-return]


class TemporalDecoder(nn.Module):
    """(B, 4, t, h, w) -> (B, 4, 4t - 3, h, w): latents of every fourth frame to latents of every frame."""

    def __init__(self, channels: tuple[int, ...] = (128, 256, 256, 512), blocks: int = 4, *, separable: bool) -> None:
        super().__init__()
        top = channels[-1]
        self.conv_in = convolution(3, 4, top, separable=separable)
        self.first = nn.Sequential(*(_DecoderBlock(3, top, top, 2, separable) for _ in range(blocks)))
        widths = (top, *channels[::-1])
        self.stages = nn.ModuleList(
            nn.Sequential(*(_DecoderBlock(3, b, after, 2, separable) for b in (before, *(after,) * (blocks - 1))))
            for before, after in pairwise(widths)
        )
        # Twice as many frames after each of the first two stages.
        self.upsample = nn.ModuleList(convolution(3, c, 2 * c, separable=separable) for c in widths[1:3])
        self.norm_out = nn.GroupNorm(2, channels[0])
        self.conv_out = convolution(3, channels[0], 4, separable=separable)

    def forward(self, z: Tensor) -> Tensor:
        frames = 4 * z.shape[2] - 3
        x = self.first(self.conv_in(z))
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i < len(self.upsample):
                pairs = self.upsample[i](x).unflatten(1, (2, -1))
                x = torch.stack((pairs[:, 0], pairs[:, 1]), dim=3).flatten(2, 3)
        x = self.conv_out(F.silu(self.norm_out(x)))
        return x[:, :, -frames:]  # type: ignore[no-any-return]


class SpatialDecoder(nn.Module):
    """(T, 4, h, w) -> (T, 3, 8h, 8w), a frame as an image, in Stable Diffusion's widths."""

    def __init__(self, channels: tuple[int, ...] = (512, 512, 256, 128), blocks: int = 3, *, separable: bool) -> None:
        super().__init__()
        self.conv_in = convolution(2, 4, channels[0], separable=separable)
        self.mid = nn.Sequential(*(_DecoderBlock(2, channels[0], channels[0], 32, separable) for _ in range(2)))
        widths = (channels[0], *channels)
        self.stages = nn.ModuleList(
            nn.Sequential(*(_DecoderBlock(2, b, after, 32, separable) for b in (before, *(after,) * (blocks - 1))))
            for before, after in pairwise(widths)
        )
        self.upsample = nn.ModuleList(convolution(2, c, c, separable=separable) for c in channels[:-1])
        self.norm_out = nn.GroupNorm(32, channels[-1])
        self.conv_out = convolution(2, channels[-1], 3, separable=separable)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i < len(self.upsample):
                x = self.upsample[i](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(x)))  # type: ignore[no-any-return]


# -- entries -----------------------------------------------------------------------------------------


def _denoiser(**config: Any) -> Any:
    def make(s: Settings) -> nn.Module:
        kinds = temporal_layers(s.temporal, config.get("blocks", _BLOCKS))
        return SnapGenV(kinds, s.frames, (s.height // 8, s.width // 8), **config)

    return make


def _inputs(embedding: int, context: int, tokens: int) -> Any:
    def inputs(s: Settings) -> tuple[InputSpec, ...]:
        images = s.batch * s.frames
        return (
            InputSpec("sample", (images, 4, s.height // 8, s.width // 8)),
            InputSpec("embedding", (images, embedding)),
            InputSpec("encoder_hidden_states", (s.batch, tokens, context)),
        )

    return inputs


def _clip(s: Settings) -> tuple[InputSpec, ...]:
    return (InputSpec("z", (s.batch, 4, *latent_grid(s, 4, 8))),)


def _images(s: Settings) -> tuple[InputSpec, ...]:
    return (InputSpec("z", (s.batch * s.frames, 4, s.height // 8, s.width // 8)),)


NETWORKS = (
    Network(
        "snapgen-v",
        "A denoiser like SnapGen-V's, temporal layers chosen per position",
        Settings(frames=15, height=512, width=512),
        _denoiser(),
        _inputs(4 * _CHANNELS[0], 768, 77),
        multiple=32,
    ),
    Network(
        "snapgen-v-small",
        "snapgen-v at a tenth of the width",
        small(3, 64, 96),
        _denoiser(channels=(32, 64, 128), context=24, head=32),
        _inputs(128, 24, 7),
        multiple=32,
    ),
    Network(
        "snapgen-v-temporal-decoder",
        "The decoder over time of a VAE like SnapGen-V's, separable convolutions",
        Settings(frames=17, height=512, width=512),
        lambda s: TemporalDecoder(blocks=s.layers or 4, separable=True),
        _clip,
        frame_step=4,
    ),
    Network(
        "snapgen-v-temporal-decoder-small",
        "snapgen-v-temporal-decoder, narrow",
        small(5, 64, 96),
        lambda s: TemporalDecoder((8, 8, 16, 16), s.layers or 1, separable=True),
        _clip,
        frame_step=4,
    ),
    Network(
        "snapgen-v-spatial-decoder",
        "The decoder of frames of a VAE like SnapGen-V's, separable convolutions",
        Settings(frames=17, height=512, width=512),
        lambda s: SpatialDecoder(blocks=s.layers or 3, separable=True),
        _images,
    ),
    Network(
        "snapgen-v-spatial-decoder-small",
        "snapgen-v-spatial-decoder, narrow",
        small(3, 64, 96),
        lambda s: SpatialDecoder((32, 32, 32, 32), s.layers or 1, separable=True),
        _images,
    ),
)
