"""Published operation counts; a multiply-add counts as 2 in them and here."""

from __future__ import annotations

from collections.abc import Iterator

from vgcomp.simulate import operation_flops
from vgcomp.validate.pipelines import Stage
from vgcomp.validate.row import Context, Row

_SOURCE = "Mobile Video Diffusion (Ben Yahia et al. 2024), one UNet evaluation at batch 1"
_FIGURES = ((576, 1024, 45.43e12), (256, 512, 8.6e12))


def flops_rows(context: Context) -> Iterator[Row]:
    """The SVD UNet, 14 frames, at both sizes. Shown with the A100, though no device is in them."""
    if not context.wants("a100"):
        return
    for height, width, figure in _FIGURES:
        context.progress(f"SVD UNet {height}×{width}", 0.95)
        stage = Stage("svd-unet", (("batch", 1), ("frames", 14), ("height", height), ("width", width)))
        yield Row(
            name=f"SVD UNet, 14 frames {height}×{width}",
            target="a100",
            quantity="flops",
            figure=figure,
            predicted=operation_flops(stage.program()),
            source=_SOURCE,
            role="held-out",
        )
