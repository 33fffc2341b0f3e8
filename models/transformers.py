"""The diffusion transformers: Wan 2.1 1.3B, CogVideoX-2B and LTX-Video 0.9."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vgcomp.models.network import InputSpec, Network, Settings, latent_grid, small

Make = Callable[[Settings], nn.Module]
Inputs = Callable[[Settings], tuple[InputSpec, ...]]


class Wan(nn.Module):
    """``WanTransformer3DModel`` on (B, 16, t, h, w) latents."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        from diffusers import WanTransformer3DModel

        self.transformer = WanTransformer3DModel(**config)

    def forward(self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        out: Tensor = self.transformer(hidden_states, timestep, encoder_hidden_states, return_dict=False)[0]
        return out


class CogVideoX(nn.Module):
    """``CogVideoXTransformer3DModel`` on (B, t, 16, h, w) latents."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        from diffusers import CogVideoXTransformer3DModel

        self.transformer = CogVideoXTransformer3DModel(**config)

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, timestep: Tensor) -> Tensor:
        out: Tensor = self.transformer(hidden_states, encoder_hidden_states, timestep, return_dict=False)[0]
        return out


class Ltx(nn.Module):
    """``LTXVideoTransformer3DModel`` on (B, t·h·w, 128) tokens, 25 frames a second."""

    def __init__(self, grid: tuple[int, int, int], **config: Any) -> None:
        super().__init__()
        from diffusers import LTXVideoTransformer3DModel

        self.transformer = LTXVideoTransformer3DModel(**config)
        self.grid = grid

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, timestep: Tensor, encoder_attention_mask: Tensor
    ) -> Tensor:
        frames, height, width = self.grid
        out: Tensor = self.transformer(
            hidden_states,
            encoder_hidden_states,
            timestep,
            encoder_attention_mask,
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=(8 / 25, 32, 32),
            return_dict=False,
        )[0]
        return out


def _wan(layers: int, **config: Any) -> Make:
    return lambda s: Wan(in_channels=16, out_channels=16, num_layers=s.layers or layers, **config)


def _wan_inputs(text: int, tokens: int) -> Inputs:
    return lambda s: (
        InputSpec("hidden_states", (s.batch, 16, *latent_grid(s, 4, 8))),
        InputSpec("timestep", (s.batch,), torch.float32, fill=997.0),
        InputSpec("encoder_hidden_states", (s.batch, tokens, text)),
    )


def _cogvideox(layers: int, **config: Any) -> Make:
    def make(s: Settings) -> nn.Module:
        sizes = {"sample_frames": s.frames, "sample_height": s.height // 8, "sample_width": s.width // 8}
        return CogVideoX(num_layers=s.layers or layers, **sizes, **config)

    return make


def _cogvideox_inputs(text: int, tokens: int) -> Inputs:
    def inputs(s: Settings) -> tuple[InputSpec, ...]:
        t, h, w = latent_grid(s, 4, 8)
        return (
            InputSpec("hidden_states", (s.batch, t, 16, h, w)),
            InputSpec("encoder_hidden_states", (s.batch, tokens, text)),
            InputSpec("timestep", (s.batch,), torch.float32, fill=999.0),
        )

    return inputs


def _ltx(layers: int, **config: Any) -> Make:
    return lambda s: Ltx(latent_grid(s, 8, 32), num_layers=s.layers or layers, **config)


def _ltx_inputs(text: int, tokens: int) -> Inputs:
    return lambda s: (
        InputSpec("hidden_states", (s.batch, math.prod(latent_grid(s, 8, 32)), 128)),
        InputSpec("encoder_hidden_states", (s.batch, tokens, text)),
        InputSpec("timestep", (s.batch,), torch.float32, fill=1000.0),
        InputSpec("encoder_attention_mask", (s.batch, tokens), fill=1.0),
    )


#: Two narrow layers.
_WAN_SMALL = _wan(2, num_attention_heads=4, attention_head_dim=24, ffn_dim=256, freq_dim=32, text_dim=64)
_COGVIDEOX_SMALL = _cogvideox(
    2, num_attention_heads=4, attention_head_dim=16, time_embed_dim=32, text_embed_dim=48, max_text_seq_length=18
)
_LTX_SMALL = _ltx(
    2,
    in_channels=128,
    out_channels=128,
    num_attention_heads=4,
    attention_head_dim=16,
    cross_attention_dim=64,
    caption_channels=48,
)

_clip = partial(Network, multiple=16, frame_step=4)
_ltx_clip = partial(Network, multiple=32, frame_step=8)

NETWORKS = (
    _clip(
        "wan-1.3b",
        "Wan 2.1's text-to-video transformer, 1.3 billion parameters",
        Settings(frames=81, height=480, width=832),
        _wan(30, num_attention_heads=12, attention_head_dim=128, ffn_dim=8960),
        _wan_inputs(4096, 512),
    ),
    _clip("wan-1.3b-small", "wan-1.3b, two narrow layers", small(9, 64, 96), _WAN_SMALL, _wan_inputs(64, 12)),
    _clip(
        "cogvideox-2b",
        "CogVideoX-2B's transformer",
        Settings(frames=49, height=480, width=720, batch=2),
        _cogvideox(30),
        _cogvideox_inputs(4096, 226),
    ),
    _clip(
        "cogvideox-2b-small",
        "cogvideox-2b, two narrow layers",
        small(9, 64, 96),
        _COGVIDEOX_SMALL,
        _cogvideox_inputs(48, 18),
    ),
    _ltx_clip(
        "ltx-video",
        "LTX-Video 0.9's transformer, 1.9 billion parameters",
        Settings(frames=121, height=512, width=768, batch=2),
        _ltx(28),
        _ltx_inputs(4096, 128),
    ),
    _ltx_clip("ltx-video-small", "ltx-video, two narrow layers", small(17, 128, 192), _LTX_SMALL, _ltx_inputs(48, 10)),
)
