"""Subnets of the zoo's supernets, by their graphs alone, against the supernets run with the same choice."""

from __future__ import annotations

import random

import pytest
import torch

from tests.models.supernets import Pair, pair
from tests.node_by_node import relative_error, run
from vgcomp import models
from vgcomp.backends.onnx_export import export_onnx
from vgcomp.elastic import extract, marks_of
from vgcomp.models.sned import CONFIGS, Supernet
from vgcomp.onnx_import import load_onnx
from vgcomp.verify import verify

#: fp64: rounding alone is some 1e-15.
TOLERANCE = 1e-12


@pytest.fixture(scope="module", params=["sned-pixel-small", "sned-latent-small"])
def supernet(request) -> Pair:
    return pair(request.param, frames=2, height=16, width=16)


def test_random_choices(supernet: Pair):
    rng = random.Random(7)
    marks = marks_of(supernet.program)
    assert marks is not None
    for _ in range(20):
        named = supernet.choice(rng)
        subnet = extract(supernet.program, marks, named)
        wanted = supernet.run(named)
        assert relative_error(run(subnet, supernet.inputs)[0], wanted) < TOLERANCE, named
        assert subnet.parameters() == supernet.module.active_parameters(), named
    verify(subnet)


def test_the_supernet_as_a_file_of_onnx(supernet: Pair, tmp_path):
    """Exported with its marks, read back, and cut: without its modules, and under the file's names."""
    export_onnx(supernet.program, tmp_path / "supernet.onnx")
    loaded = load_onnx(tmp_path / "supernet.onnx")
    marks = marks_of(loaded)
    assert marks is not None and set(marks.choices) == set(supernet.module.choices)
    named = supernet.choice(random.Random(11))
    subnet = extract(loaded, marks, named)
    verify(subnet)
    assert relative_error(run(subnet, supernet.inputs)[0], supernet.run(named)) < TOLERANCE
    assert subnet.n_nodes < loaded.n_nodes


def test_the_ends_of_the_full_size_space():
    """640 million and 1.6 billion parameters, without any data."""
    program = models.build("sned-pixel", frames=2)
    marks = marks_of(program)
    assert marks is not None
    with torch.device("meta"):
        network = Supernet(CONFIGS["sned-pixel"], frames=2)
    for end, least, most in ((0, 0.63e9, 0.65e9), (-1, 1.58e9, 1.62e9)):
        named = {name: choice.options[end] for name, choice in network.choices.items()}
        network.choose(named)
        subnet = extract(program, marks, named)
        assert subnet.parameters() == network.active_parameters()
        assert least < subnet.parameters() < most
