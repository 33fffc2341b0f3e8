"""The VAE decoders: image-wise, temporal, and the causal ones of Wan, CogVideoX and LTX.

diffusers decodes the causal ones a few frames at a time through a cache kept in Python. Here a whole
clip is one graph (``form='whole'``), and the compiler finds the streaming; ``form='chunked'`` unrolls
diffusers' loop.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vgcomp.models.network import InputSpec, Network, Settings, latent_grid, small


class SvdDecoder(nn.Module):
    """``AutoencoderKLTemporalDecoder.decode`` of all frames at once: (B·T, 4, h, w) -> (B·T, 3, H, W)."""

    def __init__(self, frames: int, **config: Any) -> None:
        super().__init__()
        from diffusers import AutoencoderKLTemporalDecoder

        self.vae = _without_encoder(AutoencoderKLTemporalDecoder(**config))
        self.frames = frames

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.vae.decode(z, num_frames=self.frames, return_dict=False)[0]
        return out


class Decoder(nn.Module):
    """``decode`` of a VAE of diffusers.

    ``AutoencoderKL``, a frame as an image: (B·T, 4, h, w) -> (B·T, 3, H, W).
    ``AutoencoderKLLTXVideo``: (B, 128, t, h, w) -> (B, 3, 8t - 7, 32h, 32w).
    """

    def __init__(self, vae: str, **config: Any) -> None:
        super().__init__()
        import diffusers

        self.vae = _without_encoder(getattr(diffusers, vae)(**config))

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.vae.decode(z, return_dict=False)[0]
        return out


class WanDecoder(Decoder):
    """``AutoencoderKLWan.decode``: (B, 16, t, h, w) -> (B, 3, 4t - 3, 8h, 8w).

    Every causal convolution sees the whole clip; its zero padding at the start is what the cached loop
    begins with. Only the temporal upsamplers treat the first frame apart (:class:`_WholeClipResample`).
    """

    def __init__(self, form: str, **config: Any) -> None:
        super().__init__("AutoencoderKLWan", **config)
        self.chunked = form == "chunked"
        if not self.chunked:
            _replace_temporal_upsamplers(self.vae.decoder)

    def forward(self, z: Tensor) -> Tensor:
        if self.chunked:
            return super().forward(z)
        return torch.clamp(self.vae.decoder(self.vae.post_quant_conv(z)), min=-1.0, max=1.0)


class _WholeClipResample(nn.Module):
    """Wan's upsampler in space and time over a whole clip: (B, C, t, H, W) -> (B, C/2, 2t - 1, 2H, 2W).

    The loop passes the first frame by the temporal convolution and starts that, from zeros, at the second.
    """

    def __init__(self, resample: nn.Sequential, time_conv: nn.Module) -> None:
        super().__init__()
        self.resample = resample
        self.time_conv = time_conv

    def forward(self, x: Tensor, feat_cache: Any = None, feat_idx: Any = None) -> Tensor:
        b, c, t, h, w = x.shape
        if t > 1:
            pairs = self.time_conv(x[:, :, 1:]).reshape(b, 2, c, t - 1, h, w)
            rest = torch.stack((pairs[:, 0], pairs[:, 1]), 3).reshape(b, c, 2 * (t - 1), h, w)
            x = torch.cat((x[:, :, :1], rest), 2)
        frames = self.resample(x.permute(0, 2, 1, 3, 4).reshape(b * x.shape[2], c, h, w))
        return frames.reshape(b, x.shape[2], *frames.shape[1:]).permute(0, 2, 1, 3, 4)  # type: ignore[no-any-return]


def _replace_temporal_upsamplers(decoder: nn.Module) -> None:
    for module in decoder.modules():
        for name, child in module.named_children():
            if getattr(child, "mode", None) == "upsample3d":
                setattr(module, name, _WholeClipResample(child.resample, child.time_conv))  # type: ignore[arg-type]


class CogVideoXDecoder(Decoder):
    """``AutoencoderKLCogVideoX``: (B, 16, t, h, w) -> (B, 3, 4t - 3, 8h, 8w).

    Whole: the decoder on all frames, GroupNorm over the whole clip. Chunked: diffusers' loop, two latent
    frames at a time, where GroupNorm sees one chunk (so the two forms differ in their statistics).
    """

    def __init__(self, form: str, **config: Any) -> None:
        super().__init__("AutoencoderKLCogVideoX", **config)
        self.chunked = form == "chunked"
        if not self.chunked:
            _undo_safe_convolutions(self.vae.decoder)

    def forward(self, z: Tensor) -> Tensor:
        if self.chunked:
            return super().forward(z)
        if self.vae.post_quant_conv is not None:
            z = self.vae.post_quant_conv(z)
        whole: Tensor = self.vae.decoder(z)[0]
        return whole


def _undo_safe_convolutions(decoder: nn.Module) -> None:
    """Above 2 GB diffusers cuts a convolution's input by hand; the plain layer is the same function."""
    from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXSafeConv3d

    for module in decoder.modules():
        if isinstance(module, CogVideoXSafeConv3d):
            module.__class__ = nn.Conv3d


def _without_encoder(vae: Any) -> Any:
    vae.encoder = nn.Identity()
    return vae


# -- configurations --------------------------------------------------------------------------------


def _kl_config(channels: tuple[int, ...], layers: int) -> dict[str, Any]:
    return {
        "block_out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "layers_per_block": layers,
        "latent_channels": 4,
    }


def _svd(channels: tuple[int, ...], layers: int) -> Any:
    return lambda s: SvdDecoder(s.frames, **_kl_config(channels, s.layers or layers))


def _sd(channels: tuple[int, ...], layers: int) -> Any:
    up = {"up_block_types": ("UpDecoderBlock2D",) * len(channels)}
    return lambda s: Decoder("AutoencoderKL", **_kl_config(channels, s.layers or layers), **up)


def _wan(dim: int, layers: int) -> Any:
    return lambda s: WanDecoder(s.form, base_dim=dim, num_res_blocks=s.layers or layers)


def _cogvideox(channels: tuple[int, ...], layers: int) -> Any:
    def make(s: Settings) -> nn.Module:
        return CogVideoXDecoder(
            s.form,
            block_out_channels=channels,
            latent_channels=16,
            layers_per_block=s.layers or layers,
            down_block_types=("CogVideoXDownBlock3D",) * len(channels),
            up_block_types=("CogVideoXUpBlock3D",) * len(channels),
        )

    return make


def _ltx(channels: tuple[int, ...], layers: int) -> Any:
    def make(s: Settings) -> nn.Module:
        n = s.layers or layers
        return Decoder(
            "AutoencoderKLLTXVideo",
            block_out_channels=channels,
            decoder_block_out_channels=channels,
            layers_per_block=(n, n - 1 or 1, n - 1 or 1, n - 1 or 1, n),
            decoder_layers_per_block=(n, n - 1 or 1, n - 1 or 1, n - 1 or 1, n),
        )

    return make


def _image_latents(s: Settings) -> tuple[InputSpec, ...]:
    return (InputSpec("z", (s.batch * s.frames, 4, s.height // 8, s.width // 8)),)


def _clip_latents(channels: int, time: int, space: int) -> Any:
    def inputs(s: Settings) -> tuple[InputSpec, ...]:
        return (InputSpec("z", (s.batch, channels, *latent_grid(s, time, space))),)

    return inputs


_KL = (128, 256, 512, 512)
_KL_SMALL = (32, 32, 64, 64)

_image = partial(Network, inputs=_image_latents)
_clip = partial(Network, inputs=_clip_latents(16, 4, 8), frame_step=4)
_ltx_clip = partial(Network, inputs=_clip_latents(128, 8, 32), multiple=32, frame_step=8)

NETWORKS = (
    _image(
        "svd-vae-decoder",
        "Stable Video Diffusion's temporal decoder, all frames at once",
        Settings(frames=14, height=576, width=1024),
        _svd(_KL, 2),
    ),
    _image("svd-vae-decoder-small", "svd-vae-decoder, narrow", small(4, 64, 96), _svd(_KL_SMALL, 1)),
    _image(
        "sd-vae-decoder",
        "Stable Diffusion's image decoder, a batch of frames",
        Settings(frames=16, height=576, width=1024),
        _sd(_KL, 2),
    ),
    _image("sd-vae-decoder-small", "sd-vae-decoder, narrow", small(4, 64, 96), _sd(_KL_SMALL, 1)),
    _clip(
        "wan-vae-decoder",
        "Wan 2.1's causal decoder",
        Settings(frames=81, height=480, width=832),
        _wan(96, 2),
    ),
    _clip("wan-vae-decoder-small", "wan-vae-decoder, narrow", small(13, 64, 96), _wan(8, 1)),
    _clip(
        "cogvideox-vae-decoder",
        "CogVideoX's causal decoder",
        Settings(frames=49, height=480, width=720),
        _cogvideox((128, 256, 256, 512), 3),
    ),
    _clip(
        "cogvideox-vae-decoder-small",
        "cogvideox-vae-decoder, narrow",
        small(9, 64, 96),
        _cogvideox((32, 32, 64, 64), 1),
    ),
    _ltx_clip(
        "ltx-vae-decoder",
        "LTX-Video's decoder",
        Settings(frames=121, height=512, width=768),
        _ltx((128, 256, 512, 512), 4),
    ),
    _ltx_clip("ltx-vae-decoder-small", "ltx-vae-decoder, narrow", small(17, 96, 128), _ltx((16, 16, 32, 32), 1)),
)
