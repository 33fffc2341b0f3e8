"""What the pipelines run once before the denoiser: CLIP's image and text towers, T5's encoder, SVD's VAE encoder.

The towers are written here in plain torch, after the published configurations; they take token ids or pixels and give
what the denoiser reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vgcomp.models.network import InputSpec, Network, Settings, small


class _Attention(nn.Module):
    """Self-attention of (B, S, D), projections with bias."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out_proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class _Layer(nn.Module):
    """CLIP's layer: norms before attention and before the feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int, activation: Callable[[Tensor], Tensor], causal: bool):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn = _Attention(width, heads, causal=causal)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.fc2(self.activation(self.fc1(self.layer_norm2(x))))  # type: ignore[no-any-return]


class ClipVision(nn.Module):
    """CLIP's image tower with its projection: (B, 3, 224, 224) -> (B, projection)."""

    def __init__(
        self, width: int, layers: int, heads: int, hidden: int, projection: int, size: int = 224, patch: int = 14
    ) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.position_embedding = nn.Parameter(torch.empty((size // patch) ** 2 + 1, width))
        self.pre_layernorm, self.post_layernorm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.layers = nn.ModuleList(_Layer(width, heads, hidden, F.gelu, causal=False) for _ in range(layers))
        self.visual_projection = nn.Linear(width, projection, bias=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(patches.shape[0], 1, -1)
        x = self.pre_layernorm(torch.cat((first, patches), dim=1) + self.position_embedding)
        for layer in self.layers:
            x = layer(x)
        return self.visual_projection(self.post_layernorm(x[:, 0]))  # type: ignore[no-any-return]


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


class ClipText(nn.Module):
    """CLIP's text tower: (B, 77) token ids -> (B, 77, width)."""

    def __init__(self, width: int, layers: int, heads: int, hidden: int, words: int, tokens: int = 77) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(words, width)
        self.position_embedding = nn.Parameter(torch.empty(tokens, width))
        self.layers = nn.ModuleList(_Layer(width, heads, hidden, _quick_gelu, causal=True) for _ in range(layers))
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.token_embedding(input_ids) + self.position_embedding
        for layer in self.layers:
            x = layer(x)
        return self.final_layer_norm(x)  # type: ignore[no-any-return]


class _T5Layer(nn.Module):
    """T5 1.1's layer: no biases, no scale on the scores, a bias on them by distance, a gated feed-forward."""

    def __init__(self, width: int, heads: int, head: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.q, self.k, self.v = (nn.Linear(width, heads * head, bias=False) for _ in range(3))
        self.o = nn.Linear(heads * head, width, bias=False)
        self.wi_0, self.wi_1 = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.wo = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        normed = self.norm1(x)
        q, k, v = (p(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q, self.k, self.v))
        weights = torch.softmax((q @ k.transpose(-1, -2) + bias).float(), dim=-1).to(x.dtype)
        x = x + self.o((weights @ v).transpose(1, 2).flatten(2))
        normed = self.norm2(x)
        return x + self.wo(F.gelu(self.wi_0(normed), approximate="tanh") * self.wi_1(normed))  # type: ignore[no-any-return]


class T5Encoder(nn.Module):
    """T5 1.1's encoder: (B, S) token ids -> (B, S, width). The bias by distance comes as a table a pair of places.

    ``shared_bias``: all layers have the one table; UMT5's have one each.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        head: int,
        hidden: int,
        words: int,
        tokens: int,
        buckets: int = 32,
        shared_bias: bool = True,
    ) -> None:
        super().__init__()
        self.shared = nn.Embedding(words, width)
        tables = 1 if shared_bias else layers
        self.relative_attention_bias = nn.ModuleList(nn.Embedding(buckets, heads) for _ in range(tables))
        self.layers = nn.ModuleList(_T5Layer(width, heads, head, hidden) for _ in range(layers))
        self.final_layer_norm = nn.RMSNorm(width, eps=1e-6)
        self.register_buffer("bucket", _buckets(tokens, buckets), persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.shared(input_ids)
        biases = [table(self.bucket).permute(2, 0, 1)[None] for table in self.relative_attention_bias]
        for i, layer in enumerate(self.layers):
            x = layer(x, biases[min(i, len(biases) - 1)])
        return self.final_layer_norm(x)  # type: ignore[no-any-return]


def _buckets(tokens: int, buckets: int, farthest: int = 128) -> Tensor:
    """T5's bucket of each (query, key): one a place when near, logarithmic to ``farthest``, by side."""
    at = torch.arange(tokens)
    distance = at[None, :] - at[:, None]
    half = buckets // 2
    near = half // 2
    far = near + (
        torch.log(distance.abs().clamp(min=1).float() / near) / torch.log(torch.tensor(farthest / near)) * (half - near)
    ).long().clamp(max=half - 1 - near)
    return (distance > 0).long() * half + torch.where(distance.abs() < near, distance.abs(), far)


class SvdEncoder(nn.Module):
    """``AutoencoderKLTemporalDecoder.encode``, moments of a frame as an image: (B·T, 3, H, W) -> (B·T, 8, H/8, W/8)."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        from diffusers import AutoencoderKLTemporalDecoder

        vae = AutoencoderKLTemporalDecoder(**config)
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv

    def forward(self, sample: Tensor) -> Tensor:
        out: Tensor = self.quant_conv(self.encoder(sample))
        return out


def _svd_encoder(channels: tuple[int, ...], layers: int) -> Callable[[Settings], nn.Module]:
    return lambda s: SvdEncoder(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        layers_per_block=s.layers or layers,
        latent_channels=4,
    )


def _pixels(s: Settings) -> tuple[InputSpec, ...]:
    return (InputSpec("pixel_values", (s.batch, 3, s.height, s.width)),)


def _frames(s: Settings) -> tuple[InputSpec, ...]:
    return (InputSpec("sample", (s.batch * s.frames, 3, s.height, s.width)),)


def _ids(tokens: int) -> Callable[[Settings], tuple[InputSpec, ...]]:
    return lambda s: (InputSpec("input_ids", (s.batch, tokens), torch.int64, fill=1.0),)


_IMAGE = Settings(frames=1, height=224, width=224)
_TEXT = Settings(frames=1, height=8, width=8)

NETWORKS = (
    Network(
        "clip-vit-h-vision",
        "CLIP ViT-H/14's image tower, which conditions Stable Video Diffusion",
        _IMAGE,
        lambda s: ClipVision(1280, s.layers or 32, 16, 5120, 1024, s.height),
        _pixels,
        multiple=14,
        output="image_embeds",
    ),
    Network(
        "clip-vit-h-vision-small",
        "clip-vit-h-vision, two narrow layers",
        small(1, 56, 56),
        lambda s: ClipVision(32, s.layers or 2, 2, 64, 16, s.height),
        _pixels,
        multiple=14,
        output="image_embeds",
    ),
    Network(
        "clip-vit-l-text",
        "CLIP ViT-L/14's text tower, which conditions Stable Diffusion 1.5 and AnimateDiff",
        _TEXT,
        lambda s: ClipText(768, s.layers or 12, 12, 3072, 49408),
        _ids(77),
        output="last_hidden_state",
    ),
    Network(
        "clip-vit-l-text-small",
        "clip-vit-l-text, two narrow layers",
        small(1, 8, 8),
        lambda s: ClipText(32, s.layers or 2, 2, 64, 100, 9),
        _ids(9),
        output="last_hidden_state",
    ),
    Network(
        "t5-xxl-encoder",
        "T5 1.1 XXL's encoder, which conditions CogVideoX",
        _TEXT,
        lambda s: T5Encoder(4096, s.layers or 24, 64, 64, 10240, 32128, 226),
        _ids(226),
        output="last_hidden_state",
    ),
    Network(
        "t5-xxl-encoder-small",
        "t5-xxl-encoder, two narrow layers",
        small(1, 8, 8),
        lambda s: T5Encoder(32, s.layers or 2, 2, 16, 48, 100, 12),
        _ids(12),
        output="last_hidden_state",
    ),
    Network(
        "umt5-xxl-encoder",
        "UMT5 XXL's encoder, which conditions Wan 2.1",
        _TEXT,
        lambda s: T5Encoder(4096, s.layers or 24, 64, 64, 10240, 256384, 512, shared_bias=False),
        _ids(512),
        output="last_hidden_state",
    ),
    Network(
        "umt5-xxl-encoder-small",
        "umt5-xxl-encoder, two narrow layers",
        small(1, 8, 8),
        lambda s: T5Encoder(32, s.layers or 2, 2, 16, 48, 100, 12, shared_bias=False),
        _ids(12),
        output="last_hidden_state",
    ),
    Network(
        "svd-vae-encoder",
        "Stable Video Diffusion's image encoder, in fp32 as its pipeline runs it",
        Settings(frames=1, height=576, width=1024, dtype=torch.float32),
        _svd_encoder((128, 256, 512, 512), 2),
        _frames,
        output="moments",
    ),
    Network(
        "svd-vae-encoder-small",
        "svd-vae-encoder, narrow",
        small(2, 64, 96),
        _svd_encoder((32, 32, 64, 64), 1),
        _frames,
        output="moments",
    ),
)
