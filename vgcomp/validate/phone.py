"""SnapGen-V's latencies on an A18 Pro, on networks like its own (see :mod:`vgcomp.models.snapgen`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from vgcomp.capture import capture
from vgcomp.cost_models.analytic import AnalyticModel
from vgcomp.models import build
from vgcomp.models.initialise import build_untouched
from vgcomp.models.snapgen import SpatialDecoder, TemporalDecoder
from vgcomp.program import Program
from vgcomp.simulate import simulate
from vgcomp.targets import load_target
from vgcomp.validate.row import Context, Role, Row

TARGET = "a18pro"
_SOURCE = "SnapGen-V (CVPR 2025), iPhone 16 Pro Max; layers not public, our reading"

#: 17 frames of 512×512: five latents before the temporal decoder, one a frame after it.
_LATENTS, _FRAMES = (1, 4, 5, 64, 64), (17, 4, 64, 64)


def phone_rows(context: Context) -> Iterator[Row]:
    """A step of the denoiser, and both decoders with full and with separable convolutions."""
    if not context.wants(TARGET):
        return
    context.progress("SnapGen-V", 0.95)
    yield _row("SnapGen-V denoiser, one step", 1.02, build("snapgen-v"), "held-out")
    yield _row("Temporal decoder, 17 frames", 23.1, decoder(TemporalDecoder, _LATENTS), "calibrated")
    yield _row("Spatial decoder, 17 frames", 4.1, decoder(SpatialDecoder, _FRAMES), "calibrated")
    separable = decoder(TemporalDecoder, _LATENTS, separable=True)
    yield _row("Temporal decoder, separable, 17 frames", 0.21, separable, "held-out")
    separable = decoder(SpatialDecoder, _FRAMES, separable=True)
    yield _row("Spatial decoder, separable, 17 frames", 0.33, separable, "held-out")


def decoder(make: Callable[..., nn.Module], shape: tuple[int, ...], *, separable: bool = False) -> Program:
    """One of the decoders at full size, fp16, shapes only."""
    module = build_untouched(lambda: make(separable=separable), torch.half)
    with torch.no_grad():
        return capture(module, (torch.empty(shape, dtype=torch.half),), name=make.__name__)


def _row(name: str, figure: float, program: Program, role: Role) -> Row:
    target = load_target(TARGET)
    predicted = simulate(program, target, AnalyticModel(target)).latency_s
    return Row(
        name=name, target=TARGET, quantity="latency_s", figure=figure, predicted=predicted, source=_SOURCE, role=role
    )
