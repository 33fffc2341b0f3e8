"""The zoo's search spaces: found by name or file, and each candidate is a Program."""

import random

import pytest

from vgcomp import models
from vgcomp.errors import UsageError
from vgcomp.models.snapgen import positions
from vgcomp.models.spaces import SPACES, build_candidate, find_space
from vgcomp.space import Choice, Space

SNAPGEN = SPACES["snapgen-v-small"]


def test_each_space_is_of_a_network_of_the_zoo():
    for name, space in SPACES.items():
        assert space.name == name
        assert space.network in models.MODELS


def test_a_space_is_found_by_name_or_file(tmp_path):
    assert find_space("snapgen-v") is SPACES["snapgen-v"]
    SNAPGEN.save(tmp_path / "mine.json")
    assert find_space(tmp_path / "mine.json") == SNAPGEN


@pytest.mark.parametrize(
    ("name", "message"),
    [("snapgen", "did you mean 'snapgen-v'"), ("cheese", "there are snapgen-v"), ("absent.json", "cannot be read")],
)
def test_an_unknown_space_is_refused(name, message):
    with pytest.raises(UsageError, match=message):
        find_space(name)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(SNAPGEN.to_json()[:100])
    with pytest.raises(UsageError, match=r"mine\.json: not a search space"):
        find_space(path)


def test_places_that_are_not_open_have_the_space_s_layers():
    fixed = "+".join(["none"] * len(positions()))
    space = Space("mid", "snapgen-v-small", (Choice("temporal.mid", ("none", "conv3d")),), (("temporal", fixed),))
    named = dict(zip(positions(), _kinds(build_candidate(space, ("conv3d",))), strict=True))
    assert {place for place, kind in named.items() if kind != "none"} == {"mid"}


def test_a_candidate_has_the_layers_that_it_names():
    candidate = SNAPGEN.sample(random.Random(5))
    program = build_candidate(SNAPGEN, candidate)
    assert _kinds(program) == list(candidate)
    assert not program.weights["conv_in.weight"].present


def _kinds(program):
    return dict(program.source.fields)["temporal"].split("+")


@pytest.mark.parametrize(
    ("choice", "message"),
    [("temporal.attic", "no place is called 'attic'"), ("depth", "nothing that the choice 'depth' could decide")],
)
def test_a_choice_that_the_network_does_not_have_is_refused(choice, message):
    space = Space("odd", "snapgen-v-small", (Choice(choice, ("none",)),))
    with pytest.raises(UsageError, match=message):
        build_candidate(space, ("none",))


def test_a_supernet_s_candidate_is_extracted_at_its_resolution():
    space = SPACES["sned-latent-small"]
    candidate = space.sample(random.Random(2))
    named = space.named(candidate)
    program = build_candidate(space, candidate, frames=2)
    network, _ = models.build_module("sned-latent-small", frames=2)
    network.choose(named)
    assert program.parameters() == network.active_parameters() < sum(p.numel() for p in network.parameters())
    assert program.inputs[0].meta["val"].shape[-1] == int(named["resolution"]) // 4
    assert not program.weights["conv_in.weight"].present
