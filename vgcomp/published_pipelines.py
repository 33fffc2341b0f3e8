"""The pipelines that Streamlined Inference measured, as one eager call each, on tensors without data.

Written from diffusers' pipelines (Stable Video Diffusion; AnimateDiff), with their variables, so that what Python keeps
alive is kept alive here. Each returns the allocations of loading the weights and of one call with one step, in order.

The encoders' weights come from their published shapes: CLIP ViT-H/14's image tower (632,076,800 parameters) and CLIP
ViT-L/14's text tower (123,060,480). What they hold while they run is a few MB and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vgcomp.alloc_trace import Event
from vgcomp.published_slicing import slice_as_published
from vgcomp.recorder import Recorder

HALF, FLOAT = 2, 4
#: Classifier-free guidance: the video with the condition and without.
GUIDED = 2


@dataclass(frozen=True)
class Call:
    """One call of a pipeline. ``slices``: (spatial, temporal) pieces of the published slicing, None without it."""

    frames: int
    height: int
    width: int
    slices: tuple[int, int] | None = None

    @property
    def latent(self) -> tuple[int, int]:
        """Height and width of the latent."""
        return self.height // 8, self.width // 8


@dataclass(frozen=True)
class Recorded:
    """``events``: weights, then the call. ``weight_bytes``: of all stages, fp16."""

    events: tuple[Event, ...]
    weight_bytes: int


def stable_video_diffusion(call: Call, blas_workspace_bytes: int) -> Recorded:
    """``StableVideoDiffusionPipeline``: image encoder, VAE (encoding in fp32), UNet, all frames decoded at once."""
    with _networks() as make:
        unet, vae = make(_svd_unet, call), make(_svd_vae, call)
        encoder = make(_svd_vae, call, torch.float32)
        parts = (_sizes(vae), _clip_vision(), _sizes(unet))

        def run(recorder: Recorder, slots: Sequence[Sequence[int]]) -> None:
            _run_svd(recorder, call, unet, vae, encoder, slots[0])

        return _record(parts, blas_workspace_bytes, run)


def animatediff(call: Call, blas_workspace_bytes: int) -> Recorded:
    """``AnimateDiffPipeline``: text encoder, UNet, VAE. The motion adapter stays beside the UNet it was copied into.

    With slices the VAE decodes a frame at a time, by its own ``use_slicing``, as the published code sets it.
    """
    with _networks() as make:
        unet, vae = make(_motion_unet, call), make(_image_vae, call)
        adapter = [size for name, size in _named_sizes(unet) if "motion_modules" in name]
        parts = (_sizes(vae), _clip_text(), _sizes(unet), adapter)

        def run(recorder: Recorder, slots: Sequence[Sequence[int]]) -> None:
            _run_animatediff(call, unet, vae)

        return _record(parts, blas_workspace_bytes, run)


def _record(
    parts: Sequence[Sequence[int]], blas_workspace_bytes: int, run: Callable[[Recorder, Sequence[Sequence[int]]], None]
) -> Recorded:
    with Recorder() as recorder, torch.inference_mode():
        slots = [recorder.hold(sizes) for sizes in parts]
        recorder.hold([blas_workspace_bytes], "workspace")
        run(recorder, slots)
    return Recorded(tuple(recorder.events), sum(map(sum, parts)))


# -- the calls -------------------------------------------------------------------------------------


def _run_svd(recorder: Recorder, call: Call, unet: Any, vae: Any, encoder: Any, vae_slots: Sequence[int]) -> Tensor:
    h, w = call.latent
    image_embeddings = torch.cat([torch.zeros(1, 1, 1024), torch.zeros(1, 1, 1024)])
    image = torch.zeros(1, 3, call.height, call.width, dtype=torch.float32)
    noise = torch.randn(1, 3, call.height, call.width, dtype=torch.float32)
    image = image + 0.02 * noise
    vae_slots = recorder.replace(vae_slots, [FLOAT * n for n in _numels(vae)])
    image_latents = _svd_image_latents(encoder, image).to(image_embeddings.dtype)
    recorder.replace(vae_slots, [HALF * n for n in _numels(vae)])
    image_latents = image_latents.unsqueeze(1).repeat(1, call.frames, 1, 1, 1)
    added_time_ids = torch.zeros(GUIDED, 3)
    latents = torch.randn(1, call.frames, 4, h, w)
    guidance_scale = torch.linspace(1.0, 3.0, call.frames)[None, :, None, None, None]
    latent_model_input = torch.cat([latents] * GUIDED)
    latent_model_input = latent_model_input / 2.0
    latent_model_input = torch.cat([latent_model_input, image_latents], dim=2)
    noise_pred = unet(
        latent_model_input,
        1.6378,
        encoder_hidden_states=image_embeddings,
        added_time_ids=added_time_ids,
        return_dict=False,
    )[0]
    noise_pred_uncond, noise_pred_cond = noise_pred.chunk(2)
    noise_pred = noise_pred_uncond + guidance_scale * (noise_pred_cond - noise_pred_uncond)
    latents = _step(noise_pred, latents)
    return _decoded(_svd_decode(vae, latents, call.frames))


def _svd_image_latents(encoder: Any, image: Tensor) -> Tensor:
    image_latents = encoder.encode(image).latent_dist.mode()
    negative = torch.zeros_like(image_latents)
    return torch.cat([negative, image_latents]).repeat(1, 1, 1, 1)


def _svd_decode(vae: Any, latents: Tensor, num_frames: int) -> Tensor:
    latents = latents.flatten(0, 1)
    latents = 1 / vae.config.scaling_factor * latents
    frames: Any = []
    frame = vae.decode(latents, num_frames=num_frames).sample
    frames.append(frame)
    frames = torch.cat(frames, dim=0)
    frames = frames.reshape(-1, num_frames, *frames.shape[1:]).permute(0, 2, 1, 3, 4)
    return frames.float()


def _run_animatediff(call: Call, unet: Any, vae: Any) -> Tensor:
    h, w = call.latent
    prompt_embeds = torch.cat([torch.zeros(1, 77, 768), torch.zeros(1, 77, 768)])
    prompt_embeds = prompt_embeds.repeat_interleave(repeats=call.frames, dim=0)
    latents = torch.randn(1, 4, call.frames, h, w)
    latent_model_input = torch.cat([latents] * GUIDED)
    noise_pred = unet(latent_model_input, 981, encoder_hidden_states=prompt_embeds).sample
    noise_pred_uncond, noise_pred_text = noise_pred.chunk(2)
    noise_pred = noise_pred_uncond + 7.5 * (noise_pred_text - noise_pred_uncond)
    latents = _step(noise_pred, latents)
    return _decoded(_animatediff_decode(vae, latents))


def _animatediff_decode(vae: Any, latents: Tensor) -> Tensor:
    latents = 1 / vae.config.scaling_factor * latents
    b, c, frames, h, w = latents.shape
    latents = latents.permute(0, 2, 1, 3, 4).reshape(b * frames, c, h, w)
    video: Any = []
    batch_latents = latents[:frames]
    batch_latents = vae.decode(batch_latents).sample
    video.append(batch_latents)
    video = torch.cat(video)
    video = video[None, :].reshape((b, frames, -1, *video.shape[2:])).permute(0, 2, 1, 3, 4)
    return video.float()


def _step(noise_pred: Tensor, sample: Tensor) -> Tensor:
    """A scheduler's step: in fp32, the result in the sample's type."""
    wide = sample.float()
    return (wide + 0.5 * (wide - 0.5 * noise_pred)).to(sample.dtype)


def _decoded(frames: Tensor) -> Tensor:
    """What the pipeline does before the frames leave the device."""
    return (frames[0].permute(1, 0, 2, 3) * 0.5 + 0.5).clamp(0, 1)


# -- the networks ----------------------------------------------------------------------------------

Make = Callable[..., nn.Module]


@contextmanager
def _networks() -> Iterator[Make]:
    """A maker of networks without data, sliced as the call says."""

    def make(build: Callable[[Call], nn.Module], call: Call, dtype: torch.dtype = torch.float16) -> nn.Module:
        torch.set_default_dtype(dtype)
        module = build(call).eval()
        torch.set_default_dtype(torch.float16)
        return module

    before = torch.get_default_dtype()
    try:
        with FakeTensorMode():
            yield make
    finally:
        torch.set_default_dtype(before)


def _svd_unet(call: Call) -> nn.Module:
    from diffusers import UNetSpatioTemporalConditionModel

    return _sliced(UNetSpatioTemporalConditionModel(num_frames=call.frames), call)


def _svd_vae(call: Call) -> nn.Module:
    from diffusers import AutoencoderKLTemporalDecoder

    return _sliced(AutoencoderKLTemporalDecoder(**_VAE, scaling_factor=0.18215), call)


def _motion_unet(call: Call) -> nn.Module:
    from diffusers import UNetMotionModel

    unet = UNetMotionModel(
        cross_attention_dim=768, num_attention_heads=8, motion_max_seq_length=32, use_motion_mid_block=True
    )
    return _sliced(unet, call)


def _image_vae(call: Call) -> nn.Module:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(**_VAE, up_block_types=("UpDecoderBlock2D",) * 4)
    if call.slices:
        vae.enable_slicing()
    return vae


_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}


def _sliced(network: nn.Module, call: Call) -> nn.Module:
    if call.slices is None:
        return network
    spatial, temporal = call.slices
    return slice_as_published(network, temporal, spatial)


# -- weights ---------------------------------------------------------------------------------------


def _numels(network: nn.Module) -> list[int]:
    return [parameter.numel() for parameter in network.parameters()]


def _sizes(network: nn.Module) -> list[int]:
    return [HALF * n for n in _numels(network)]


def _named_sizes(network: nn.Module) -> list[tuple[str, int]]:
    return [(name, HALF * parameter.numel()) for name, parameter in network.named_parameters()]


def _clip_vision() -> list[int]:
    """ViT-H/14: width 1280, 32 layers, 257 positions, patches of 14 x 14, projection to 1024."""
    ends = [1280, 3 * 14 * 14 * 1280, 257 * 1280, *[1280] * 4, 1280 * 1024]
    return [HALF * n for n in (*ends, *_transformer(1280, 5120) * 32)]


def _clip_text() -> list[int]:
    """ViT-L/14's text tower: width 768, 12 layers, 49,408 tokens, 77 positions."""
    return [HALF * n for n in (49408 * 768, 77 * 768, 768, 768, *_transformer(768, 3072) * 12)]


def _transformer(width: int, hidden: int) -> list[int]:
    """Elements of one layer's parameters: four projections, two of the feed-forward, two norms."""
    projections = [width * width, width] * 4
    return [*projections, width * hidden, hidden, hidden * width, width, *[width] * 4]
