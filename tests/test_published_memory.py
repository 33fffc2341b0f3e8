"""The pipelines that were measured: sums, lifetimes and layouts, at a size of seconds."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vgcomp.alloc_trace import Alloc, Free, Replay
from vgcomp.cuda_temporaries import cuda_temporaries
from vgcomp.published_memory import PEAKS, PublishedPeak, predict
from vgcomp.published_pipelines import Call, animatediff, stable_video_diffusion
from vgcomp.recorder import Recorder
from vgcomp.targets import load_target
from vgcomp.track import LiveTracker
from vgcomp.units import GIB

aten = torch.ops.aten


def test_a_recorded_run_is_what_a_tracker_sees() -> None:
    def network(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        z = y + 1
        del y
        return torch.relu(z)

    x = torch.ones(1000)
    with Recorder([x]) as recorder, torch.inference_mode():
        network(x)
    with LiveTracker([x]) as tracker, torch.inference_mode():
        network(x)
    kinds = [(type(event), getattr(event, "size", None)) for event in recorder.events]
    assert kinds == [
        (Alloc, 4000),
        (Alloc, 4000),
        (Alloc, 4000),
        (Free, None),
        (Alloc, 4000),
        (Free, None),
        (Free, None),
    ]
    assert Replay().run(recorder.events).allocator.requested_peak == tracker.peak == 12000


def test_a_convolution_of_channels_first_needs_all_of_it_again_channels_last() -> None:
    with FakeTensorMode():
        x, weight = torch.empty(2, 3, 8, 8, dtype=torch.half), torch.empty(16, 3, 3, 3, dtype=torch.half)
        out = torch.empty(2, 16, 8, 8, dtype=torch.half)
        found = cuda_temporaries(aten.conv2d.default, (x, weight), out)
        # Three channels become eight.
        assert (found.before, found.after) == ((), (2 * (2 * 8 * 64 + 16 * 8 * 9 + 2 * 16 * 64),))
        wide = x.new_empty(2, 16, 8, 8).to(memory_format=torch.channels_last)
        assert cuda_temporaries(aten.conv2d.default, (wide, weight), out).after == ()
        strided = torch.empty(2, 8, 3, 8, dtype=torch.half).transpose(1, 2)
        assert cuda_temporaries(aten.conv2d.default, (strided, weight), out).before == (2 * 2 * 3 * 64,)
        huge = torch.empty(1, 128, 4096, 4096, dtype=torch.half)
        assert huge.numel() == 2**31
        assert cuda_temporaries(aten.conv2d.default, (huge, weight), out).after == ()


def test_norms_bring_their_input_to_row_major_order() -> None:
    with FakeTensorMode(), Recorder() as recorder, torch.inference_mode():
        x = torch.empty(2, 8, 4, 4).to(memory_format=torch.channels_last)
        y = torch.nn.functional.group_norm(x, 2)
    assert y.is_contiguous()
    copy = [event for event in recorder.events if isinstance(event, Alloc) and event.kind == "workspace"]
    assert [event.size for event in copy] == [4 * 2 * 8 * 16, 16, 16]


def test_weights_of_the_pipelines() -> None:
    a100 = load_target("a100").blas_workspace_bytes
    parameters = stable_video_diffusion(Call(2, 64, 64), a100).weight_bytes / 2
    # UNet 1,524,623,082, image encoder 632,076,800, VAE 97,742,847 with both halves.
    assert 2.25e9 < parameters < 2.26e9
    # UNet and adapter hold the motion modules twice.
    parameters = animatediff(Call(2, 64, 64), a100).weight_bytes / 2
    assert 1.96e9 < parameters < 1.98e9


def test_parts_add_up_and_slices_need_less() -> None:
    whole = PublishedPeak("whole", animatediff, Call(4, 128, 128), 1.0)
    cut = PublishedPeak("cut", animatediff, Call(4, 128, 128, (4, 4)), 1.0)
    found = predict(whole)
    assert found.total_bytes == sum(found.parts.values())
    assert all(size >= 0 for size in found.parts.values())
    assert found.parts["activations"] > predict(cut).parts["activations"]


def test_the_table_has_six_of_each() -> None:
    assert sum(peak.original for peak in PEAKS) == sum(not peak.original for peak in PEAKS) == 6


def test_one_original_peak_at_full_size() -> None:
    """The others take a minute: ``vgcomp validate``."""
    peak = next(peak for peak in PEAKS if peak.name.startswith("animatediff") and peak.original)
    assert abs(predict(peak).total_bytes / GIB / peak.gib - 1) < 0.12
