"""The published way to slice video networks, re-created: patched modules, a list of chunks, ``torch.cat``.

Streamlined Inference's code patches, class by class, the residual blocks, attentions and feed-forwards: spatial
ones run a frame (or a few) at a time, temporal ones a group of columns (or of pixels) at a time. Each piece goes
through the unmodified forward, so a temporal GroupNorm takes its statistics from the piece and the result changes.
Mid-block attention, up- and downsamplers and the output convolutions stay whole. Written from the description of
the method and its results; no code of theirs is used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock, TemporalBasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D, SpatioTemporalResBlock
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn

#: Pieces that a temporal layer is cut into: 8 columns each of the latent of a video 1024 wide.
TEMPORAL_PIECES = 16

Forward = Callable[..., Tensor]


def slice_as_published(
    network: nn.Module, pieces: int = TEMPORAL_PIECES, spatial_pieces: int | None = None
) -> nn.Module:
    """Patches ``network`` in place and returns it.

    Temporal layers are cut into ``pieces``, spatial ones into ``spatial_pieces`` along the batch of frames; None is one
    frame a piece.
    """
    motion = {m for block in network.modules() if isinstance(block, AnimateDiffTransformer3D) for m in block.modules()}
    for module in network.modules():
        if isinstance(module, ResnetBlock2D):
            _patch(module, spatial_pieces)
        elif isinstance(module, AnimateDiffTransformer3D):
            module.forward = partial(_motion_module, module.forward, pieces)  # type: ignore[method-assign]
        elif isinstance(module, SpatioTemporalResBlock):
            module.forward = partial(_res_block, module, pieces)  # type: ignore[method-assign]
        elif isinstance(module, TemporalBasicTransformerBlock):
            _patch_sublayers(module, pieces)
        elif isinstance(module, BasicTransformerBlock) and module not in motion:
            _patch_sublayers(module, spatial_pieces)
    return network


def _patch_sublayers(block: nn.Module, pieces: int | None) -> None:
    """Attentions and feed-forwards of a transformer block, along the batch (frames, or pixels)."""
    for name in ("ff_in", "attn1", "attn2", "ff"):
        layer = getattr(block, name, None)
        if layer is not None:
            _patch(layer, pieces)


def _patch(module: nn.Module, pieces: int | None) -> None:
    """Runs ``module`` on pieces of its inputs along the batch; None means one element a piece."""
    module.forward = _in_pieces(module.forward, pieces)  # type: ignore[method-assign]


def _in_pieces(forward: Forward, pieces: int | None) -> Forward:
    def run(*args: Any, **kwargs: Any) -> Tensor:
        x: Tensor = args[0] if args else next(iter(kwargs.values()))
        extent = x.shape[0]
        length = 1 if pieces is None else -(-extent // pieces)
        done: list[Tensor] = []
        for start in range(0, extent, length):
            size = min(length, extent - start)

            def cut(value: Any, start: int = start, size: int = size) -> Any:
                sliced = isinstance(value, Tensor) and value.shape[0] == extent
                return value.narrow(0, start, size) if sliced else value

            done.append(forward(*map(cut, args), **{name: cut(value) for name, value in kwargs.items()}))
        return torch.cat(done)

    return run


def _res_block(
    block: SpatioTemporalResBlock,
    pieces: int,
    hidden_states: Tensor,
    temb: Tensor | None = None,
    image_only_indicator: Tensor | None = None,
) -> Tensor:
    """The spatial half as it is (patched by itself), the temporal half and the mixer by groups of columns."""
    assert image_only_indicator is not None
    frames = image_only_indicator.shape[-1]
    hidden_states = block.spatial_res_block(hidden_states, temb)
    flat = hidden_states.shape
    batch = flat[0] // frames
    hidden_states = hidden_states[None, :].reshape(batch, frames, *flat[1:]).permute(0, 2, 1, 3, 4)
    if temb is not None:
        temb = temb.reshape(batch, frames, -1)
    done = [
        block.time_mixer(
            x_spatial=piece,
            x_temporal=block.temporal_res_block(piece, temb),
            image_only_indicator=image_only_indicator,
        )
        for piece in hidden_states.split(-(-flat[3] // pieces), dim=4)
    ]
    return torch.cat(done, dim=4).permute(0, 2, 1, 3, 4).reshape(flat)


def _motion_module(forward: Forward, pieces: int, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A motion module by groups of columns, its GroupNorm included."""
    columns = -(-hidden_states.shape[3] // pieces)
    return torch.cat([forward(piece, *args, **kwargs) for piece in hidden_states.split(columns, dim=3)], dim=3)
