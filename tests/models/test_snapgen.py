"""The phone's denoiser: every kind of temporal layer at every position, and the sizes that are stated."""

import pytest
import torch

from vgcomp import models
from vgcomp.errors import UsageError
from vgcomp.models.snapgen import SpatialDecoder, TemporalDecoder, positions, temporal_layers
from vgcomp.models.temporal import TEMPORAL, rotary_tables

PLACES = len(positions())


@pytest.mark.parametrize("kind", ["none", *TEMPORAL])
def test_a_kind_at_every_position(kind):
    network, inputs = models.build_module("snapgen-v-small", temporal="+".join([kind] * PLACES))
    with torch.no_grad():
        out = network(*inputs)
    assert out.shape == inputs[0].shape
    assert torch.isfinite(out).all()


def test_a_layer_over_time_mixes_frames_and_none_does_not():
    for kind, mixes in (("none", False), ("conv1d", True), ("selfattention3d", True), ("crossattention1d", False)):
        network, (sample, *rest) = models.build_module("snapgen-v-small", temporal="+".join([kind] * PLACES))
        changed = sample.clone()
        changed[-1] += 1.0
        with torch.no_grad():
            same = torch.equal(network(sample, *rest)[0], network(changed, *rest)[0])
        assert same is not mixes, kind


def test_a_mix_by_position():
    kinds = temporal_layers("+".join(["none"] * (PLACES - 1) + ["Conv3D"]))
    assert kinds[-1] == "conv3d"
    assert len(temporal_layers("")) == PLACES
    assert positions()[0] == "down.0.0"


@pytest.mark.parametrize(("text", "message"), [("conv4d", "'conv4d' is not one of"), ("none+none", "kinds are wanted")])
def test_bad_kinds_are_refused(text, message):
    with pytest.raises(UsageError, match=message):
        models.build("snapgen-v-small", temporal=text)


def test_rotary_tables_turn_by_place():
    cos, sin = rotary_tables((2, 3, 4), 16)
    assert cos.shape == sin.shape == (24, 16)
    assert torch.equal(cos[0], torch.ones(16)), "the first place is not turned"
    assert torch.allclose(cos**2 + sin**2, torch.ones(24, 16), atol=1e-6)


def test_full_size_has_the_stated_parameters():
    program = models.build("snapgen-v")
    assert 0.50e9 < program.parameters() < 0.65e9
    assert tuple(program.inputs[0].meta["val"].shape) == (15, 4, 64, 64)


@pytest.mark.parametrize("separable", [False, True])
def test_decoders_give_frames(separable):
    with torch.no_grad():
        latents = TemporalDecoder((4, 4, 4, 8), 1, separable=separable)(torch.randn(1, 4, 5, 4, 4))
        frames = SpatialDecoder((32, 32, 32, 32), 1, separable=separable)(latents[0].transpose(0, 1))
    assert latents.shape == (1, 4, 17, 4, 4)
    assert frames.shape == (17, 3, 32, 32)


def test_the_temporal_decoder_is_causal():
    decoder = TemporalDecoder((4, 4, 4, 8), 1, separable=False)
    for module in decoder.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda x: x  # statistics see the whole clip
    z = torch.randn(1, 4, 5, 4, 4)
    later = z.clone()
    later[:, :, -1] += 1.0
    with torch.no_grad():
        assert torch.equal(decoder(z)[:, :, :12], decoder(later)[:, :, :12])
