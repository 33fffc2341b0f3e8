"""The flow's equations, and what is drawn."""

import math

import pytest
import torch

from vgcomp.rehash.sampler import FlowEuler
from vgcomp.training import flow
from vgcomp.training.clips import Shapes
from vgcomp.training.generate import generate
from vgcomp.training.losses import hinge_discriminator, hinge_generator, pseudo_huber

SHAPE = (3, 2, 2, 4, 4)


def test_equation_1_and_the_way_along_a_straight_line():
    clean, noise = torch.randn(2, *SHAPE)
    level, to = torch.tensor([1.0, 0.5, 0.2]), torch.tensor([0.3, 0.8, 0.1])
    noisy = flow.noised(clean, noise, level)
    assert torch.allclose(noisy[1], 0.5 * clean[1] + 0.5 * noise[1])
    speed = flow.velocity(noisy, clean, level)
    assert torch.allclose(speed, noise - clean, atol=1e-5)
    # With the true velocity, a generated sample at t' is the real one (equation 1 at t').
    assert torch.allclose(flow.moved(noisy, speed, level, to), flow.noised(clean, noise, to), atol=1e-5)


def test_the_levels_are_those_the_sampler_asks_at():
    sampler = FlowEuler(4, 3.0)
    assert sampler.level(0) == 1.0 and [sampler.timestep(i) / flow.TIMESTEPS for i in range(4)] == [
        pytest.approx(level) for level in (1.0, 0.9, 0.75, 0.5)
    ]


def test_equation_3_has_the_density_of_the_paper():
    m, s = -1.0, 1.0
    drawn = flow.logit_normal(200_000, m, s, flow.seeded(1))
    edges = torch.linspace(0.02, 0.98, 13)
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist()):
        t = torch.linspace(low, high, 200)
        logit = torch.log(t / (1 - t))
        density = torch.exp(-((logit - m) ** 2) / (2 * s**2)) / (s * math.sqrt(2 * math.pi) * t * (1 - t))
        share = float(((drawn >= low) & (drawn < high)).float().mean())
        assert share == pytest.approx(float(torch.trapezoid(density, t)), abs=0.004)


def test_noisier_for_a_higher_location():
    low, high = (float(flow.logit_normal(10_000, m, 1.0, flow.seeded(2)).mean()) for m in (-2.0, 1.0))
    assert low < 0.2 and high > 0.6


def test_equations_4_and_5():
    real, fake = torch.tensor([-2.0, 0.5]), torch.tensor([3.0, -1.0])
    # Real: max(0, 1 - 2), max(0, 1.5); generated: max(0, 1 - 3), max(0, 2).
    assert float(hinge_discriminator(real, fake)) == pytest.approx((0 + 1.5) / 2 + (0 + 2) / 2)
    assert float(hinge_generator(fake)) == pytest.approx(1.0)


def test_equation_6():
    found, clean = torch.zeros(2, 1, 1, 1, 4), torch.tensor([[3.0, 4.0, 0, 0], [0, 0, 0, 0]]).reshape(2, 1, 1, 1, 4)
    c = 0.7
    assert float(pseudo_huber(found, clean, c)) == pytest.approx((math.sqrt(25 + c * c) - c) / 2)
    # Near nothing it is a square, far away a norm.
    small = pseudo_huber(found[:1] + 1e-3, found[:1], c)
    assert float(small) == pytest.approx(4e-6 / (2 * c), rel=1e-2)


def test_a_batch_is_the_same_for_the_same_numbers_and_another_for_others():
    one, again = (Shapes().batch(2, 5, flow.seeded(3, 4)) for _ in range(2))
    other = Shapes().batch(2, 5, flow.seeded(4, 3))
    assert torch.equal(one.latents, again.latents) and torch.equal(one.noise, again.noise)
    assert not torch.equal(one.noise, other.noise)


def test_the_error_of_a_velocity_is_bounded_near_the_clip():
    clean = torch.zeros(2, 1, 1, 1, 2)
    errors = flow.velocity_error(clean + 0.3, clean, torch.tensor([0.5, 0.01]))
    assert errors.tolist() == [pytest.approx(0.36), pytest.approx(9.0)]


def test_generation_ends_at_what_the_network_predicts_and_depends_on_the_seed_alone():
    wanted, prompts = torch.randn(3, 2, 2, 4, 4), torch.zeros(3, 12)

    class Knows(torch.nn.Module):
        def forward(self, sample, timestep, prompt):
            seen.append((sample, float(timestep)))
            return wanted[: len(sample)]

    seen = []
    made = generate(Knows(), FlowEuler(4, 3.0, "clean"), prompts, wanted.shape[1:], seed=5)
    assert torch.allclose(made, wanted, atol=1e-5)
    assert [told for _, told in seen] == pytest.approx([1000, 900, 750, 500])
    first = seen[0][0]
    generate(Knows(), FlowEuler(2, 1.0, "clean"), prompts, wanted.shape[1:], seed=5)
    assert torch.equal(seen[4][0], first)
