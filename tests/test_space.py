"""A space names, numbers, samples and keeps its candidates."""

import random

import pytest

from vgcomp.errors import UsageError
from vgcomp.space import Choice, Space

SPACE = Space(
    "demo",
    "snapgen-v-small",
    (Choice("temporal.0", ("none", "conv1d")), Choice("width", (32, 48, 64))),
    (("frames", "3"),),
)


def test_genes_and_names_lead_back_to_the_candidate():
    assert SPACE.size == len(set(SPACE.every())) == 6
    for candidate in SPACE.every():
        assert SPACE.from_genes(SPACE.genes(candidate)) == candidate
        assert SPACE.candidate(SPACE.named(candidate)) == candidate


def test_the_same_seed_samples_the_same():
    one, other = (SPACE.sample(random.Random(3)) for _ in range(2))
    assert one == other and one in set(SPACE.every())


def test_a_kept_space_is_the_same_space(tmp_path):
    SPACE.save(tmp_path / "space.json")
    assert Space.from_json((tmp_path / "space.json").read_text()) == SPACE


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "a", "network": "b", "choices": [{"name": "c"}]}'])
def test_other_text_is_not_a_space(text):
    with pytest.raises(UsageError, match="not a search space"):
        Space.from_json(text)


@pytest.mark.parametrize(
    ("named", "match"),
    [
        ({"temporal.0": "none"}, "wants an option for 'width'"),
        ({"temporal.0": "none", "width": 32, "depth": 1}, "no choice 'depth'"),
        ({"temporal.0": "none", "width": 33}, "is one of 32, 48, 64: not 33"),
    ],
)
def test_what_is_no_candidate_is_refused(named, match):
    with pytest.raises(UsageError, match=match):
        SPACE.candidate(named)


def test_options_are_distinct():
    with pytest.raises(UsageError, match="distinct"):
        Choice("a", (1, 1))
