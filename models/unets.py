"""The UNets: Stable Video Diffusion and AnimateDiff on SD 1.5 with motion adapter v1.5.2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vgcomp.models.network import InputSpec, Network, Settings, small


class SvdUnet(nn.Module):
    """``UNetSpatioTemporalConditionModel``: tensors in, one tensor out."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        from diffusers import UNetSpatioTemporalConditionModel

        self.unet = UNetSpatioTemporalConditionModel(**config)

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, added_time_ids: Tensor
    ) -> Tensor:
        out: Tensor = self.unet(sample, timestep, encoder_hidden_states, added_time_ids, return_dict=False)[0]
        return out


class AnimateDiffUnet(nn.Module):
    """``UNetMotionModel``; the prompt comes repeated for each frame, as the pipeline gives it."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        from diffusers import UNetMotionModel

        self.unet = UNetMotionModel(**config)

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        out: Tensor = self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]
        return out


def _svd(settings: Settings) -> nn.Module:
    return SvdUnet(layers_per_block=settings.layers or 2, num_frames=settings.frames)


def _svd_small(settings: Settings) -> nn.Module:
    return SvdUnet(
        layers_per_block=settings.layers or 1,
        num_frames=settings.frames,
        block_out_channels=(32, 64, 128, 128),
        num_attention_heads=(2, 4, 8, 8),
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        cross_attention_dim=64,
    )


def _svd_inputs(context: int) -> Any:
    def inputs(s: Settings) -> tuple[InputSpec, ...]:
        return (
            InputSpec("sample", (s.batch, s.frames, 8, s.height // 8, s.width // 8)),
            InputSpec("timestep", (), torch.float32, fill=1.6378),
            InputSpec("encoder_hidden_states", (s.batch, 1, context)),
            InputSpec("added_time_ids", (s.batch, 3)),
        )

    return inputs


def _animatediff(settings: Settings) -> nn.Module:
    return AnimateDiffUnet(
        cross_attention_dim=768,
        num_attention_heads=8,
        layers_per_block=settings.layers or 2,
        motion_max_seq_length=max(32, settings.frames),
        use_motion_mid_block=True,
    )


def _animatediff_small(settings: Settings) -> nn.Module:
    return AnimateDiffUnet(
        block_out_channels=(32, 64, 128, 128),
        cross_attention_dim=64,
        num_attention_heads=4,
        motion_num_attention_heads=4,
        layers_per_block=settings.layers or 1,
        motion_max_seq_length=max(32, settings.frames),
        use_motion_mid_block=True,
    )


def _animatediff_inputs(context: int, tokens: int) -> Any:
    def inputs(s: Settings) -> tuple[InputSpec, ...]:
        return (
            InputSpec("sample", (s.batch, 4, s.frames, s.height // 8, s.width // 8)),
            InputSpec("timestep", (), torch.float32, fill=981.0),
            InputSpec("encoder_hidden_states", (s.batch * s.frames, tokens, context)),
        )

    return inputs


_SMALL = small(4, 128, 192, batch=2)

NETWORKS = (
    Network(
        "svd-unet",
        "Stable Video Diffusion's UNet, 1.5 billion parameters",
        Settings(frames=14, height=576, width=1024, batch=2),
        _svd,
        _svd_inputs(1024),
        multiple=64,
    ),
    Network("svd-unet-small", "svd-unet at a tenth of the width", _SMALL, _svd_small, _svd_inputs(64), multiple=64),
    Network(
        "animatediff-unet",
        "Stable Diffusion 1.5's UNet with AnimateDiff's motion modules v1.5.2",
        Settings(frames=16, height=576, width=1024, batch=2),
        _animatediff,
        _animatediff_inputs(768, 77),
        multiple=64,
    ),
    Network(
        "animatediff-unet-small",
        "animatediff-unet at a tenth of the width",
        _SMALL,
        _animatediff_small,
        _animatediff_inputs(64, 9),
        multiple=64,
    ),
)
