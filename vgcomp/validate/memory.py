"""Peak memory of whole pipelines on an A100, as NVML showed it; nothing is fitted to any of them."""

from __future__ import annotations

from collections.abc import Iterator

from vgcomp.published_memory import PEAKS, SOURCE, figure_bytes, predict
from vgcomp.targets import load_target
from vgcomp.validate.row import Context, Row

TARGET = "a100"


def memory_rows(context: Context) -> Iterator[Row]:
    """The twelve peaks of Streamlined's Table 1: diffusers' pipelines, and the published slicing re-created."""
    if not context.wants(TARGET):
        return
    device = load_target(TARGET)
    for i, peak in enumerate(PEAKS):
        context.progress(peak.name, i / len(PEAKS))
        yield Row(
            name=peak.name,
            target=TARGET,
            quantity="peak_bytes",
            figure=figure_bytes(peak),
            predicted=predict(peak, device).total_bytes,
            source=SOURCE,
            role="held-out",
        )
