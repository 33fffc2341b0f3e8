"""Metrics on clips where the answer is known, and the generated data set."""

from __future__ import annotations

import math

import pytest
import torch

from vgcomp.quality.latent import decode, encode
from vgcomp.quality.metrics import RandomFeatures, flicker, frechet, mean_text_score, psnr, ssim
from vgcomp.quality.shapes import PROMPT, make_clips


def test_the_latent_is_exact_both_ways() -> None:
    pixels = make_clips(2, 0).pixels
    torch.testing.assert_close(decode(encode(pixels)), pixels)
    assert encode(pixels).shape == (2, 48, 8, 8, 8)


def test_psnr_of_known_errors() -> None:
    clips = torch.zeros(1, 3, 2, 16, 16)
    assert psnr(clips, clips) == math.inf
    assert psnr(clips + 0.1, clips) == pytest.approx(20)
    assert psnr(clips + 0.1, clips, peak=2) == pytest.approx(20 + 20 * math.log10(2))
    with pytest.raises(ValueError, match="cannot be compared"):
        psnr(clips, clips[:, :, :1])


def test_ssim_is_one_for_equal_clips_and_falls_with_noise() -> None:
    clips = make_clips(1, 0).pixels
    noise = torch.randn(clips.shape, generator=torch.Generator().manual_seed(0))
    values = [ssim(clips + level * noise, clips) for level in (0.0, 0.05, 0.2)]
    assert values[0] == pytest.approx(1)
    assert values[0] > values[1] > values[2]
    # A constant shift of constant frames: only the means' term is left.
    flat = torch.full((1, 1, 1, 16, 16), 0.5)
    wanted = (2 * 0.5 * 0.6 + 1e-4) / (0.5**2 + 0.6**2 + 1e-4)
    assert ssim(flat + 0.1, flat) == pytest.approx(wanted, rel=1e-4)


def test_flicker_sees_jumps_and_not_even_change() -> None:
    ramp = torch.linspace(0, 1, 6)[None, None, :, None, None].expand(1, 3, 6, 8, 8)
    assert flicker(ramp) == pytest.approx(0, abs=1e-6)
    jumps = (torch.arange(6) % 2).float()[None, None, :, None, None].expand(1, 3, 6, 8, 8)
    assert flicker(jumps) == pytest.approx(2)
    with pytest.raises(ValueError, match="3 frames"):
        flicker(ramp[:, :, :2])


def test_frechet_is_the_closed_form_for_gaussians() -> None:
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(4000, 1, 1, 1, 2, generator=rng)
    b = 2 * torch.randn(4000, 1, 1, 1, 2, generator=rng) + 3
    # Two dimensions: 2·3² of the means, 2·(1 + 4 - 2·2) of the deviations.
    assert frechet(a, b, lambda clips: clips.flatten(1)) == pytest.approx(20, rel=0.05)


def test_frechet_on_random_features_tells_sets_of_clips_apart() -> None:
    features = RandomFeatures(width=8)
    clips = [make_clips(48, seed).pixels for seed in (0, 1)]
    apart = frechet(clips[0], (clips[1] + 0.2).clamp(0, 1), features)
    assert apart > 3 * frechet(clips[0], clips[1], features)
    with pytest.raises(ValueError, match="2 clips"):
        frechet(clips[0][:1], clips[1], features)


def test_a_users_own_network_scores_texts() -> None:
    clips = make_clips(2, 0).pixels
    assert mean_text_score(clips, ["a disc", "a square"], lambda c, t: torch.tensor([0.25, 0.75])) == 0.5


def test_clips_are_the_same_for_the_same_seed_and_move() -> None:
    a, b, other = make_clips(3, 5), make_clips(3, 5), make_clips(3, 6)
    assert torch.equal(a.pixels, b.pixels) and torch.equal(a.prompts, b.prompts)
    assert not torch.equal(a.pixels, other.pixels)
    assert a.prompts.shape == (3, PROMPT)
    assert a.pixels.min() >= 0 and a.pixels.max() <= 1
    assert (a.pixels[:, :, 1:] - a.pixels[:, :, :-1]).abs().amax((1, 2, 3, 4)).min() > 0.05
