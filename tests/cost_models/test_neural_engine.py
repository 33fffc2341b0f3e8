"""The Neural Engine: alignment, tiles, what goes to the CPU, and the cheapest placement."""

import itertools
import math

import pytest
import torch

from tests.cost_models.test_analytic import conv, t, work
from vgcomp.cost_models import AnalyticModel
from vgcomp.cost_models.neural_engine import ON_CHIP, engine_work, fallback_s, place, refuses
from vgcomp.ir import aten
from vgcomp.targets import load_target

A18 = load_target("a18pro")


def test_channels_off_the_groups_are_padded():
    even, odd = conv(t(1, 64, 64, 64), 64), conv(t(1, 64, 64, 64), 65)
    grown = engine_work(odd, A18).arithmetic_s / engine_work(even, A18).arithmetic_s
    assert grown > 1.2, "65 channels take the time of 80"


def test_small_working_sets_stay_on_the_chip():
    assert engine_work(conv(t(1, 32, 64, 64), 32), A18).traffic == 0.0
    large = conv(t(15, 320, 64, 64), 320)
    assert engine_work(large, A18).traffic >= large.bytes_moved - large.shared_bytes > ON_CHIP


def test_pointwise_ops_run_on_the_tile():
    x = t(15, 320, 64, 64)
    assert engine_work(work(aten.silu.default, x), A18).traffic == 0.0
    assert engine_work(work(aten.add.Tensor, x, x), A18).traffic == x.numel() * 2


def test_weights_stream_in_every_run():
    w = work(aten.linear.default, t(1, 4096), t(4096, 4096))
    assert AnalyticModel().op_seconds(w, A18).seconds > 4096 * 4096 * 2 / A18.memory_bytes_per_s


def test_what_it_refuses():
    clip = t(1, 32, 5, 16, 16)
    three = (clip, t(32, 32, 3, 3, 3), None, [1] * 3, [1] * 3, [1] * 3, False, [0] * 3, 1)
    assert refuses(work(aten.convolution.default, *three), A18)
    assert refuses(work(aten.embedding.default, t(100, 8), t(4, dtype=torch.int64)), A18)
    assert refuses(work(aten.add.Tensor, t(8, dtype=torch.int32), 1), A18)
    assert not refuses(conv(t(1, 32, 16, 16), 32), A18)
    assert fallback_s(work(aten.permute.default, t(2, 3), [1, 0]), A18.fallback) == 0.0


def everything(costs, switch):
    """The least over all assignments."""
    best = math.inf
    for choice in itertools.product((0, 1), repeat=len(costs)):
        changes = sum(a != b for a, b in itertools.pairwise(choice))
        best = min(best, sum(cost[i] for cost, i in zip(costs, choice, strict=True)) + changes * switch)
    return best


@pytest.mark.parametrize("seed", range(8))
def test_the_placement_is_the_cheapest(seed):
    made = torch.Generator().manual_seed(seed)
    costs = torch.rand(9, 2, generator=made).tolist()
    costs[seed][0] = math.inf
    where = place([tuple(cost) for cost in costs], 0.4)
    total = sum(cost[name == "cpu"] for cost, name in zip(costs, where, strict=True))
    total += 0.4 * sum(a != b for a, b in itertools.pairwise(where))
    assert total == pytest.approx(everything(costs, 0.4))


def test_a_change_has_to_pay():
    assert place([(1.0, 9.0), (2.0, 1.0), (1.0, 9.0)], 5.0) == ["engine"] * 3
    assert place([(1.0, 9.0), (math.inf, 1.0), (1.0, 9.0)], 0.1) == ["engine", "cpu", "engine"]
    assert place([], 1.0) == []
