"""Table 1 of Streamlined Inference: the peak memory of whole pipelines, predicted as it was taken.

    for peak in PEAKS:
        memory = predict(peak)
        print(peak.name, memory.total_bytes / GIB, peak.gib, memory.parts)

How it was taken (the authors' scripts, github.com/wuyushuwys/FMEDiffusion): all stages on one A100 80 GB in fp16, one
call with one step, then ``nvmlDeviceGetMemoryInfo(...).used / 1024 ** 3``. So G is GiB, the caching allocator's cache
counts, and so does what the driver keeps for itself, which this version of the call reports as used.

Nothing is fitted. Constants and their sources are here, in the target and in :mod:`vgcomp.cuda_temporaries`; the
networks are run eagerly without data (:mod:`vgcomp.published_pipelines`), with the published slicing re-created.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vgcomp.alloc_trace import Replay
from vgcomp.published_pipelines import Call, Recorded, animatediff, stable_video_diffusion
from vgcomp.targets import Target, load_target
from vgcomp.units import GIB, MIB

#: "Reserved" of an idle A100 80 GB in ``nvidia-smi -q`` (763 MiB; 834 MiB in another listing, 912 MB in
#: rust-nvml/nvml-wrapper #57): part of NVML's ``used`` in the first version of ``nvmlDeviceGetMemoryInfo``.
DRIVER_BYTES = 763 * MIB

#: (spatial, temporal) pieces of the authors' scripts.
SVD_SLICES, ANIMATEDIFF_SLICES = (7, 7), (8, 16)

Pipeline = Callable[[Call, int], Recorded]


@dataclass(frozen=True)
class PublishedPeak:
    """One peak of the table."""

    name: str
    pipeline: Pipeline
    call: Call
    gib: float

    @property
    def original(self) -> bool:
        """True for diffusers' pipeline as it is."""
        return self.call.slices is None


@dataclass(frozen=True)
class PredictedPeak:
    """Bytes by part; they add up to ``total_bytes``.

    ``weights``: of all stages. ``activations`` and ``workspaces``: when most is asked for at once. ``cache``: what the
    caching allocator holds beyond these, fragments and what earlier stages left. ``context`` and ``driver``: outside
    the allocator.
    """

    parts: dict[str, int]

    @property
    def total_bytes(self) -> int:
        """What NVML calls used."""
        return sum(self.parts.values())


def predict(peak: PublishedPeak, target: Target | None = None) -> PredictedPeak:
    """The peak as NVML would show it on ``target``, an A100 80 GB unless given."""
    device = target or load_target("a100")
    replay = Replay().run(peak.pipeline(peak.call, device.blas_workspace_bytes).events)
    at_peak = dict(replay.at_peak)
    weights, workspaces = at_peak.pop("weight", 0), at_peak.pop("workspace", 0)
    activations = sum(at_peak.values())
    return PredictedPeak(
        {
            "weights": weights,
            "activations": activations,
            "workspaces": workspaces,
            "cache": replay.allocator.reserved_bytes - weights - activations - workspaces,
            "context": device.context_bytes,
            "driver": DRIVER_BYTES,
        }
    )


def _peaks() -> Iterator[PublishedPeak]:
    table: tuple[tuple[str, Pipeline, int, tuple[int, int], tuple[float, ...]], ...] = (
        ("svd", stable_video_diffusion, 14, SVD_SLICES, (20.91, 39.49, 13.67, 23.42)),
        ("svd-xt", stable_video_diffusion, 25, SVD_SLICES, (31.97, 61.17, 19.37, 36.32)),
        ("animatediff", animatediff, 16, ANIMATEDIFF_SLICES, (21.83, 41.71, 7.51, 11.07)),
    )
    for name, pipeline, frames, slices, figures in table:
        ways = (((512, 512), None), ((576, 1024), None), ((512, 512), slices), ((576, 1024), slices))
        for ((height, width), cut), gib in zip(ways, figures, strict=True):
            method = "original" if cut is None else "Streamlined"
            call = Call(frames, height, width, cut)
            yield PublishedPeak(f"{name}, {frames} frames, {height}x{width}, {method}", pipeline, call, gib)


#: The table's six original peaks and its six of the method.
PEAKS: tuple[PublishedPeak, ...] = tuple(_peaks())

SOURCE = "Streamlined Inference (NeurIPS 2024), Table 1: NVML's used after one call with one step, GiB"


def figure_bytes(peak: PublishedPeak) -> float:
    """The published figure in bytes."""
    return peak.gib * GIB
