"""The tracker counts storages, from creation to release."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vgcomp.track import LiveTracker

aten, own = torch.ops.aten, torch.ops.vgcomp


def test_counts_creation_and_release() -> None:
    x = torch.ones(1000)
    with torch.no_grad(), LiveTracker([x]) as tracker:
        y = x + 1
        assert tracker.current == 8000
        y = y * 2
        assert (tracker.current, tracker.peak) == (8000, 12000)
        del y
    assert (tracker.current, tracker.peak) == (4000, 12000)


def test_views_share_and_keep_alive() -> None:
    with torch.no_grad(), LiveTracker() as tracker:
        y = torch.zeros(10, 100)
        row = y[0]
        del y
        assert tracker.current == 4000
        del row
        assert tracker.current == 0


def test_weights_and_their_views_are_free() -> None:
    weight = torch.ones(8, 16)
    with torch.no_grad(), LiveTracker() as tracker:
        turned = weight.t()
        assert tracker.current == 0
        copied = turned.contiguous()
        assert tracker.current == copied.nbytes


def test_in_place_and_out_variants_allocate_nothing() -> None:
    x = torch.ones(100)
    with torch.no_grad(), LiveTracker([x]) as tracker:
        x.add_(1)
        torch.mul(x, 2, out=x)
    assert tracker.peak == x.nbytes


def test_sees_inside_our_own_ops() -> None:
    x = torch.ones(2, 8, 100, dtype=torch.float16)
    with torch.no_grad(), LiveTracker([x]) as tracker:
        own.group_moments(x, 4)
    assert tracker.peak > x.nbytes + 2 * x.nbytes, "the cast to fp32 is a tensor as large as two inputs"
    assert tracker.current == x.nbytes


def test_fake_tensors() -> None:
    with FakeTensorMode():
        x = torch.empty(1000)
        with torch.no_grad(), LiveTracker([x]) as tracker:
            y = x + 1
            del y
    assert tracker.peak == 8000


def test_names_the_op_at_the_peak() -> None:
    with torch.no_grad(), LiveTracker() as tracker:
        x = torch.zeros(10)
        x.repeat(100)
        x + 1
    assert tracker.peak_op == "aten.repeat.default"
    assert tracker.live_sizes() == [40]
