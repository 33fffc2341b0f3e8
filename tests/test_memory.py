"""Predicted bytes are the bytes that a tracker of live storage measures."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from tests.graph_builder import random_inputs, random_weights
from tests.sliced_examples import EXAMPLES
from vgcomp.backends.torch_module import run_graph
from vgcomp.memory import analyse
from vgcomp.track import LiveTracker


def measured(graph: fx.Graph) -> int:
    inputs, weights = random_inputs(graph), random_weights(graph)
    tracker = LiveTracker(inputs)
    with torch.no_grad(), tracker:
        out = run_graph(graph, inputs, weights)
        del inputs
    del out
    return tracker.peak


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("which", [0, 1], ids=["plain", "sliced"])
def test_predicted_peak_is_measured_peak(name: str, which: int) -> None:
    graph = EXAMPLES[name]()[which]
    assert analyse(graph, workspace="cpu").peak == measured(graph)


@pytest.mark.parametrize("name", EXAMPLES)
def test_loops_analysed_once_a_body(name: str) -> None:
    graph = EXAMPLES[name]()[1]
    assert analyse(graph).peak == analyse(graph).peak <= analyse(graph, workspace="cpu").peak
