"""Pipelines of diffusers with narrow components of seeded random weights, on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

#: For all weights and a run of one network; the UNets do not fit as they are.
SVD_BUDGET, ANIMATEDIFF_BUDGET = "21MB", "13MB"


def _randomised(module: nn.Module) -> nn.Module:
    """No weight is zero: layers that start so would hide errors behind them."""
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(0.0, 0.05)
    return module.eval()


def svd() -> Any:
    """``StableVideoDiffusionPipeline``; call it with :func:`svd_arguments`."""
    from diffusers import (
        AutoencoderKLTemporalDecoder,
        EulerDiscreteScheduler,
        StableVideoDiffusionPipeline,
        UNetSpatioTemporalConditionModel,
    )
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=32,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=32,
        num_attention_heads=8,
        projection_class_embeddings_input_dim=96,
        addition_time_embed_dim=32,
    )
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=[32, 64], down_block_types=["DownEncoderBlock2D"] * 2, latent_channels=4
    )
    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32,
            projection_dim=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=32,
            intermediate_size=37,
            patch_size=4,
        )
    )
    pipe = StableVideoDiffusionPipeline(
        unet=_randomised(unet),
        image_encoder=_randomised(encoder),
        vae=_randomised(vae),
        scheduler=EulerDiscreteScheduler(prediction_type="v_prediction", interpolation_type="linear"),
        feature_extractor=CLIPImageProcessor(crop_size={"height": 32, "width": 32}, size={"shortest_edge": 32}),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def svd_arguments() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 32, 32, generator=generator)
    return {
        "image": image,
        "generator": generator,
        "num_inference_steps": 2,
        "num_frames": 4,
        "height": 64,
        "width": 64,
        "min_guidance_scale": 1.0,
        "max_guidance_scale": 2.5,
        "output_type": "pt",
    }


def animatediff() -> Any:
    """``AnimateDiffPipeline``; call it with :func:`animatediff_arguments`, which take the prompt as embeddings."""
    from diffusers import AnimateDiffPipeline, AutoencoderKL, DDIMScheduler, MotionAdapter, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=[32, 64],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=32,
            intermediate_size=37,
            num_attention_heads=4,
            num_hidden_layers=2,
            vocab_size=1000,
            max_position_embeddings=77,
        )
    )
    adapter = MotionAdapter(
        block_out_channels=(32, 64), motion_layers_per_block=1, motion_norm_num_groups=8, motion_num_attention_heads=4
    )
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False)
    pipe = AnimateDiffPipeline(
        vae=_randomised(vae),
        text_encoder=_randomised(text),
        tokenizer=None,
        unet=unet,
        motion_adapter=adapter,
        scheduler=scheduler,
    )
    _randomised(pipe.unet)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def animatediff_arguments() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "prompt_embeds": torch.randn(1, 7, 32, generator=generator),
        "negative_prompt_embeds": torch.randn(1, 7, 32, generator=generator),
        "generator": generator,
        "num_inference_steps": 2,
        "num_frames": 4,
        "height": 32,
        "width": 32,
        "guidance_scale": 7.5,
        "output_type": "pt",
    }
