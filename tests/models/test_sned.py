"""The supernets: their ends have the stated sizes, a choice runs with the parameters that it counts, and only those."""

import random

import pytest
import torch

from vgcomp import models
from vgcomp.errors import UsageError
from vgcomp.models.sned import CONFIGS, RESOLUTION, Supernet

SMALL = [name for name in CONFIGS if name.endswith("-small")]


def sampled(network, seed):
    rng = random.Random(seed)
    return {name: rng.choice(choice.options) for name, choice in network.choices.items()}


@pytest.fixture(scope="module", params=SMALL)
def network(request):
    module, inputs = models.build_module(request.param, frames=4, height=16, width=16)
    return module.requires_grad_(True), inputs


@pytest.mark.parametrize("name", ["sned-pixel", "sned-latent"])
def test_the_ends_of_the_full_size_spaces(name):
    """640 million to 1.6 billion parameters, as the paper states for pixels."""
    with torch.device("meta"):
        network = Supernet(CONFIGS[name], frames=16)
    largest = network.active_parameters()
    assert largest == sum(parameter.numel() for parameter in network.parameters())
    network.choose({name: choice.options[0] for name, choice in network.choices.items()})
    assert 0.63e9 < network.active_parameters() < 0.65e9
    assert 1.58e9 < largest < 1.62e9


@pytest.mark.parametrize("seed", range(3))
def test_a_choice_trains_the_parameters_that_it_counts(network, seed):
    """Counted by gradients: an element that is not active has none."""
    module, inputs = network
    module.choose(sampled(module, seed))
    module.zero_grad(set_to_none=True)
    out = module(*inputs)
    assert out.shape == inputs[0].shape
    out.square().mean().backward()
    touched = sum(int((p.grad != 0).sum()) for p in module.parameters() if p.grad is not None)
    assert touched == module.active_parameters()


def test_it_runs_whole_again_and_at_other_sizes(network):
    module, (sample, _, prompt) = network
    with torch.no_grad():
        module.choose(None)
        whole = module(sample, torch.tensor(500.0), prompt)
        module.choose({name: choice.options[-1] for name, choice in module.choices.items()} | {RESOLUTION: 32})
        assert torch.equal(module(sample, torch.tensor(500.0), prompt), whole)
        two = (
            torch.cat((sample, sample)).repeat_interleave(2, dim=3),
            torch.tensor([500.0, 3.0]),
            prompt.repeat(2, 1, 1),
        )
        assert module(*two).shape == two[0].shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width.attic": 8}, "'width.attic' is unknown"),
        ({"width.down.0": None}, "'width.down.0' is left out"),
        ({"width.down.0": 33}, "is one of .*: not 33"),
    ],
)
def test_what_is_no_choice_of_the_supernet_is_refused(network, change, message):
    module, _ = network
    named = {name: option for name, option in (sampled(module, 0) | change).items() if option is not None}
    with pytest.raises(UsageError, match=message):
        module.choose(named)
