"""The discriminator of latent adversarial fine-tuning: heads on the frozen encoder of a trained UNet.

SnapGen-V (Wu et al., CVPR 2025), section 3.3 and figure 2: after each level of the encoder stands a head that sees
space and time at once, a ResBlock within frames and self-attention along frames, and is told the prompt. It takes
clips of any length, images as well. :class:`SeparateHead` is what it is compared with there: one head within frames
and one along them, as in SF-V.
"""

from __future__ import annotations

import copy
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vgcomp.training.flow import TIMESTEPS

Kind = Literal["joint", "separate"]
#: Channels a head works in, and those of an attention's head.
WIDTH, ATTENTION = 64, 32


class Encoder(Protocol):
    """A network whose way down can be run by itself."""

    @property
    def encoded_channels(self) -> tuple[int, ...]:
        """Channels of what ``encode`` gives."""
        ...

    def encode(self, sample: Tensor, timestep: Tensor, prompt: Tensor) -> list[Tensor]:
        """(B, C, T, H, W), (B,) and (B, P) -> a (B·T, C', H', W') for each level."""
        ...


class _Residual(nn.Module):
    """Two 3×3 convolutions within frames."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, before), nn.GroupNorm(8, after)
        self.conv1, self.conv2 = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return self.shortcut(x) + h  # type: ignore[no-any-return]


class _Along(nn.Module):
    """Self-attention along frames at each place, added to its input. (B, T, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // ATTENTION
        self.norm = nn.LayerNorm(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.permute(0, 3, 4, 1, 2)
        flat = self.norm(tokens.flatten(0, 2))
        q, k, v = self.qkv(flat).unflatten(-1, (3, self.heads, ATTENTION)).permute(2, 0, 3, 1, 4)
        seen = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return (tokens + seen.reshape(tokens.shape)).permute(0, 3, 4, 1, 2)


class _Logits(nn.Module):
    """A logit a place from its channels, and how well they go with the prompt. (B, T, C, H, W) -> (B, T, H, W)."""

    def __init__(self, channels: int, prompt: int) -> None:
        super().__init__()
        self.out, self.prompt = nn.Conv2d(channels, 1, 1), nn.Linear(prompt, channels)

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        own = self.out(F.silu(x.flatten(0, 1))).unflatten(0, x.shape[:2])[:, :, 0]
        fits = (x * self.prompt(prompt)[:, None, :, None, None]).mean(2)
        return own + fits  # type: ignore[no-any-return]


class JointHead(nn.Module):
    """Space, then time: (B, T, C, H, W) and (B, P) -> (B, N) logits."""

    def __init__(self, channels: int, prompt: int) -> None:
        super().__init__()
        self.space, self.time, self.logits = _Residual(channels, WIDTH), _Along(WIDTH), _Logits(WIDTH, prompt)

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        h = self.time(self.space(x.flatten(0, 1)).unflatten(0, x.shape[:2]))
        return self.logits(h, prompt).flatten(1)  # type: ignore[no-any-return]


class SeparateHead(nn.Module):
    """Two heads: within frames, and a convolution along them at each place. The same interface as JointHead."""

    def __init__(self, channels: int, prompt: int) -> None:
        super().__init__()
        self.space, self.spatial = _Residual(channels, WIDTH), _Logits(WIDTH, prompt)
        self.time1 = nn.Conv2d(channels, WIDTH, (3, 1), padding=(1, 0))
        self.time2 = nn.Conv2d(WIDTH, WIDTH, (3, 1), padding=(1, 0))
        self.temporal = _Logits(WIDTH, prompt)

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        within = self.spatial(self.space(x.flatten(0, 1)).unflatten(0, x.shape[:2]), prompt)
        # Along time in two dimensions, time and places: (B, C, T, H·W).
        line = self.time2(F.silu(self.time1(x.transpose(1, 2).flatten(3))))
        along = self.temporal(line.unflatten(3, x.shape[3:]).transpose(1, 2), prompt)
        return torch.cat((within.flatten(1), along.flatten(1)), dim=1)


HEADS: dict[Kind, type[JointHead] | type[SeparateHead]] = {"joint": JointHead, "separate": SeparateHead}


class Heads(nn.Module):
    """A head for each level of an encoder. They alone are trained."""

    def __init__(self, channels: tuple[int, ...], prompt: int, kind: Kind = "joint") -> None:
        super().__init__()
        self.heads = nn.ModuleList(HEADS[kind](count, prompt) for count in channels)

    def forward(self, levels: list[Tensor], prompt: Tensor) -> Tensor:
        """(B·T, C, H, W) levels and (B, P) prompts -> (B, N) logits of all heads, low where clips look real."""
        clips = prompt.shape[0]
        split = [level.unflatten(0, (clips, -1)) for level in levels]
        return torch.cat([head(level, prompt) for head, level in zip(self.heads, split, strict=True)], dim=1)


class Backbone(nn.Module):
    """A frozen copy of a trained network, of which the way down is used. Gradients pass through to its input."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    def forward(self, latents: Tensor, level: Tensor, prompts: Tensor) -> list[Tensor]:
        """(B, C, T, H, W), (B,) and (B, P) -> the encoder's levels."""
        encoder: Encoder = self.network  # type: ignore[assignment]
        return encoder.encode(latents, TIMESTEPS * level, prompts)
