"""The side-by-side benchmark's own instruments, on a network of seconds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.benchmarks.meter import Meter
from tests.benchmarks.side_by_side import Row, markdown, relative_error
from vgcomp.cost_models import AnalyticModel
from vgcomp.models import build, build_module, find
from vgcomp.published_slicing import slice_as_published
from vgcomp.simulate import simulate
from vgcomp.targets import load_target

TARGET = load_target("a100")


def test_published_slices_are_exact_but_for_the_statistics_of_norms() -> None:
    plain, inputs = build_module("svd-unet-small")
    with torch.inference_mode():
        wanted = plain(*inputs)
        one_piece = slice_as_published(build_module("svd-unet-small")[0], 1)(*inputs)
        three = slice_as_published(build_module("svd-unet-small")[0], 3)(*inputs)
    assert relative_error(one_piece, wanted) < 1e-5
    assert relative_error(three, wanted) > 1e-2


def test_eager_python_holds_more_than_liveness_and_takes_about_as_long() -> None:
    # Large enough for the device to be what takes the time: eager Python issues more ops than the graph has.
    name, size = "svd-vae-decoder", {"frames": 2, "height": 576, "width": 1024, "dtype": "fp32"}
    program = build(name, **size)
    entry = find(name)
    settings = entry.settings(size)
    with FakeTensorMode(), torch.inference_mode():
        module, inputs = entry.make(settings).eval(), entry.example_inputs(replace(settings, weights="absent"))
        with Meter(inputs, TARGET) as meter:
            module(*inputs)
    timeline = simulate(program, TARGET, AnalyticModel(TARGET))
    assert timeline.peak_activation_bytes < meter.peak < 3 * timeline.peak_activation_bytes
    assert meter.seconds == pytest.approx(timeline.latency_s, rel=0.15)


def test_the_table_has_a_line_a_row() -> None:
    rows = [Row("net", 4, "unmodified", 2**30, 1.0, 1.0, None), Row("net", 4, "other", 2**29, 2.0, 2.0, 0.25)]
    lines = markdown(rows, "a100").splitlines()
    assert lines[2:] == [
        "| net, 4 frames | unmodified | 1.00 | 1.000 | – |",
        "| net, 4 frames | other | 0.50 | 2.000 | 0.25 |",
    ]
