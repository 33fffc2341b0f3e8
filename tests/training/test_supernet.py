"""Training a supernet: one subnet an iteration, the rest untouched; resume; the loss with inherited weights."""

import random

import pytest
import torch

from tests.training.support import copied
from vgcomp.errors import ModelError, UsageError
from vgcomp.models.sned import CONFIGS, Supernet
from vgcomp.training import checkpoint, flow
from vgcomp.training.active import active_elements
from vgcomp.training.checkpoint import Checkpoint
from vgcomp.training.clips import Batch
from vgcomp.training.inherited import InheritedLoss, spread_levels
from vgcomp.training.loop import Saving, train
from vgcomp.training.partial_adam import PartialAdamW
from vgcomp.training.sampling import largest, smallest
from vgcomp.training.supernet import SupernetRecipe, SupernetTraining, denoising_loss, make_supernet, shapes_of

#: Two frames of the smallest clips, so that an iteration takes a tenth of a second.
RECIPE = SupernetRecipe(iterations=8, batch=2, frames=2, warmup=4, rise=1)
NAMES = ("sned-latent-small", "sned-pixel-small")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def changed(**given) -> SupernetTraining:
    return SupernetTraining(SupernetRecipe(**{**vars(RECIPE), **given}))


def at(candidate, size):
    """The candidate at another resolution, which is the first choice of these spaces."""
    return (size, *candidate[1:])


@pytest.mark.parametrize("name", NAMES)
def test_masks_are_what_a_subnet_computes_with(name):
    training = changed(network=name)
    supernet, space = training.supernet, training.space
    assert space.choices[0].name == "resolution"
    for candidate in (smallest(space), at(largest(space), 16), space.sample(random.Random(3))):
        supernet.choose(space.named(candidate))
        masks = active_elements(supernet)
        assert sum(int(mask.sum()) for mask in masks.values()) == supernet.active_parameters()
    whole = active_elements(Supernet(CONFIGS[name], 2))
    assert all(bool(mask.all()) for mask in whole.values()) and whole.keys() == dict(supernet.named_parameters()).keys()


@pytest.mark.parametrize("name", NAMES)
def test_one_subnet_learns_and_the_rest_keeps_every_bit(name):
    training = changed(network=name, superposed=False, warmup=0)
    training.iterate(0)
    before = copied(training.tensors())
    candidate = at(training.space.sample(random.Random(5)), 16)
    training.recipe = SupernetRecipe(**{**vars(training.recipe), "only": candidate})
    # Twice: residual layers begin as nothing, and let gradients through when they have moved.
    training.iterate(1)
    training.iterate(2)
    training.supernet.choose(training.space.named(candidate))
    masks, moved = active_elements(training.supernet), 0
    for name, value in training.tensors().items():
        part, _, rest = name.partition(".")
        path = rest if part == "supernet" else rest.partition(".")[2]
        mask = masks.get(path, torch.zeros_like(value, dtype=torch.bool))
        assert torch.equal(value[~mask], before[name][~mask]), name
        moved += part == "supernet" and not torch.equal(value[mask], before[name][mask])
    # All that takes part has moved, but for parameters that the loss does not see, such as keys' shift.
    assert moved > 0.9 * len(masks)
    # The frozen rest has no gradient, either.
    for path, parameter in training.supernet.named_parameters():
        rest = ~masks.get(path, torch.zeros_like(parameter, dtype=torch.bool))
        assert parameter.grad is None or float(parameter.grad[rest].abs().sum()) == 0


def test_layers_that_were_not_trained_change_nothing():
    """At first every subnet of the same widths computes the same, whatever blocks it has."""
    training = changed()
    supernet, space = training.supernet, training.space
    batch, level = shapes_of(supernet, 16, 2).batch(1, 0, flow.seeded(0)), torch.tensor([0.5])
    wide = space.named(largest(space))
    bare = {name: "skip" if name.startswith("block.") else option for name, option in wide.items()}
    losses = []
    for named in (wide, bare):
        supernet.choose(named)
        losses.append(float(denoising_loss(supernet, batch, level).detach()))
    assert losses[0] == losses[1]


def test_a_subnet_alone_starts_from_the_supernets_weights_and_sees_the_same_clips():
    whole = changed()
    candidate = at(largest(whole.space), 16)
    alone = changed(only=candidate)
    whole.recipe = SupernetRecipe(**{**vars(whole.recipe), "only": candidate})
    assert alone.iterate(0) == whole.iterate(0)
    with pytest.raises(UsageError, match="choices"):
        changed(only=(16,))


def test_a_resumed_run_is_the_unbroken_one_and_its_checkpoint_judges_candidates(tmp_path):
    whole = changed()
    train(whole, 4, Saving(tmp_path / "whole", 2))
    broken = Saving(tmp_path / "broken", 2)
    train(changed(), 2, broken)
    resumed = changed()
    train(resumed, 4, broken)
    wanted = whole.tensors()
    assert all(torch.equal(value, wanted[name]) for name, value in resumed.tensors().items())

    quality = InheritedLoss(tmp_path / "broken", clips=4)
    small, large = (at(end(whole.space), 16) for end in (smallest, largest))
    first = quality(small)
    assert first == quality.quality(small) and first < 0 and quality(large) != first
    # Judging another in between changes nothing, and the weights are those that were trained.
    assert quality(small) == first == InheritedLoss(tmp_path / "whole", clips=4)(small)
    with pytest.raises(UsageError, match="choices"):
        quality((16,))


def test_a_few_iterations_lower_the_held_out_loss(tmp_path):
    training = changed(iterations=24, batch=4)
    candidate = at(training.space.sample(random.Random(1)), 16)
    training = changed(iterations=24, batch=4, only=candidate)

    def loss():
        about = {**training.about, "notes": {}}
        checkpoint.save(tmp_path, Checkpoint(training.recipe.iterations, training.tensors(), about))
        return -InheritedLoss(tmp_path, clips=16)(candidate)

    before = loss()
    train(training, 24, Saving())
    assert loss() < 0.8 * before


def test_checkpoints_of_another_kind_and_networks_that_are_no_supernet_are_one_line(tmp_path):
    checkpoint.save(tmp_path, Checkpoint(1, {"a.b": torch.ones(1)}, {"kind": "adversarial"}))
    with pytest.raises(ModelError, match="not of a supernet"):
        InheritedLoss(tmp_path)
    about = {"kind": "supernet", "recipe": {"only": [], "moons": 2}}
    checkpoint.save(tmp_path, Checkpoint(2, {"supernet.a": torch.ones(1)}, about))
    with pytest.raises(ModelError, match="recipe of another version"):
        InheritedLoss(tmp_path)
    with pytest.raises(UsageError, match="no supernet"):
        make_supernet("quality-unet", 2, 0)
    with torch.device("meta"), pytest.raises(UsageError, match="must come from data"):
        shapes_of(Supernet(CONFIGS["sned-latent"], 2), 64, 2)


def test_levels_are_spread_as_they_are_drawn():
    levels = spread_levels(1001)
    assert levels[500] == pytest.approx(0.5) and torch.equal(levels, levels.sort().values)
    assert float(torch.logit(levels.double()).std()) == pytest.approx(1.0, abs=0.01)


def test_a_supernet_trains_where_its_inputs_lie():
    """The meta device stands for a GPU here."""
    supernet = Supernet(CONFIGS["sned-latent-small"], 2).to("meta")
    clips = torch.empty(2, 48, 2, 4, 4, device="meta")
    batch, level = Batch(clips, clips, torch.empty(2, 12, device="meta")), torch.empty(2, device="meta")
    denoising_loss(supernet, batch, level).mean().backward()
    optimizer = PartialAdamW(supernet.named_parameters())
    optimizer.step(1e-3, active_elements(supernet))
    assert all(value.device.type == "meta" for value in optimizer.tensors().values())
