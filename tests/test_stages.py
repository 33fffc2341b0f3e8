"""Pipelined loops: the values of one slice after the other, in the memory predicted, where the rules allow it."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from tests.graph_builder import random_inputs, random_weights
from tests.pipelined import cut, pipelined_graphs
from tests.sliced_examples import EXAMPLES
from vgcomp import ir
from vgcomp.alloc_trace import Replay
from vgcomp.backends.torch_module import run_graph
from vgcomp.cuda_temporaries import node_cuda_temporaries
from vgcomp.loops import operands_of
from vgcomp.memory import analyse, loop_bytes
from vgcomp.program_trace import graph_trace
from vgcomp.stages import n_engines, pipeline_complaints, rounds
from vgcomp.track import LiveTracker


def first_loop(graph: fx.Graph) -> int:
    return next(i for i, node in enumerate(graph.nodes) if ir.is_loop(node))


def complaints(graph: fx.Graph) -> list[str]:
    return list(pipeline_complaints(list(graph.nodes)[first_loop(graph)]))


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("name", EXAMPLES)
def test_slices_in_flight_compute_the_same_in_the_memory_predicted(name: str, stages: int) -> None:
    _, graph = EXAMPLES[name]()
    inputs, weights = random_inputs(graph), random_weights(graph)
    wanted = run_graph(graph, inputs, weights)
    allowed = [made for made, legal in pipelined_graphs(graph, stages) if legal]
    for made in allowed:
        with torch.no_grad(), LiveTracker(inputs) as tracker:
            found = run_graph(made, inputs, weights)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
        assert tracker.peak <= analyse(made, workspace="cpu").peak
        assert analyse(made).peak >= analyse(graph).peak
        _check_trace(made, graph)


def _check_trace(made: fx.Graph, graph: fx.Graph) -> None:
    """The allocator is asked for no more than is predicted, and keeps what it keeps for the loop as it was."""
    replay = Replay().run(graph_trace(made))
    assert replay.allocator.requested_peak <= analyse(made).peak
    assert replay.allocator.requested_bytes == Replay().run(graph_trace(graph)).allocator.requested_bytes
    inner = Replay().run(graph_trace(made, node_cuda_temporaries)).allocator
    assert inner.requested_peak <= analyse(made, workspace="cuda").peak


@pytest.mark.parametrize("name", ["frames", "norm-in-place", "residual-in-place", "growing-in-place"])
def test_the_prediction_is_the_tracked_peak(name: str) -> None:
    _, graph = EXAMPLES[name]()
    inputs, weights = random_inputs(graph), random_weights(graph)
    for made, legal in pipelined_graphs(graph, 2):
        assert legal
        with torch.no_grad(), LiveTracker(inputs) as tracker:
            kept = run_graph(made, inputs, weights)
        assert tracker.peak == analyse(made, workspace="cpu").peak
        assert Replay().run(graph_trace(made)).allocator.requested_peak == analyse(made).peak
        del kept


def test_two_slices_hold_two_temporaries() -> None:
    """Two convolutions, cut between activation and convolution: each stage's most, together."""
    _, graph = EXAMPLES["frames"]()
    at = first_loop(graph)
    (body,) = ir.loop_of(list(graph.nodes)[at]).bodies
    convolutions = [i for i, node in enumerate(body.graph.nodes) if node.target is ir.aten.convolution.default]
    made = cut(graph, at, ((convolutions[1],),), (0, 1))
    part = 2 * 16 * 12 * 4
    # Stage 0: the first convolution's output and its activation (8 channels each). Stage 1: that activation and the
    # second convolution's output, 4 channels, whose activation goes straight into the result.
    assert loop_bytes(list(graph.nodes)[at]) == 16 * part
    assert loop_bytes(list(made.nodes)[at]) == 16 * part + 12 * part


def test_a_line_buffer_stays_in_one_stage() -> None:
    _, graph = EXAMPLES["rows-with-carries"]()
    refused = [made for made, legal in pipelined_graphs(graph, 2, most=40) if not legal]
    assert refused
    assert any(
        "the next slice takes in stage 0 what a slice makes in stage 1" in complaints(made)[0] for made in refused
    )


def test_what_is_overwritten_is_read_before() -> None:
    """Rows over themselves: a slice is written while the one before still reads the halo below it."""
    _, graph = EXAMPLES["rows-in-place"]()
    found = [c for made, _ in pipelined_graphs(graph, 2, most=60) for c in complaints(made)]
    assert any(c.startswith("result 0 overwrites in stage 0") for c in found)


def test_accumulators_are_merged_in_one_stage() -> None:
    _, graph = EXAMPLES["attention-by-keys"]()
    for made, legal in pipelined_graphs(graph, 2):
        assert legal, "one body, one merge: any cut will do"
        assert not complaints(made)


@pytest.mark.parametrize(
    ("cuts", "engines", "says"),
    [
        (((1,),), (0, 1), "is cut at [1] for 2 stages"),
        (((99,),), (0, 1), "is cut at [99] for 2 stages"),
        (((4, 4),), (0, 1), "is cut at [4, 4] for 2 stages"),
        (((4,), (4,)), (0, 1), "its pipeline cuts 2 bodies of 1"),
        (((4,),), (0, 2), "stages' engines [0, 2]"),
        (((),), (0,), "stages' engines [0]"),
    ],
)
def test_what_no_pipeline_is(cuts: tuple[tuple[int, ...], ...], engines: tuple[int, ...], says: str) -> None:
    _, graph = EXAMPLES["frames"]()
    assert says in complaints(cut(graph, first_loop(graph), cuts, engines))[0]


def test_rounds_fill_and_drain() -> None:
    assert list(rounds(3, 2)) == [((0, 0),), ((1, 0), (0, 1)), ((1, 1), (0, 2)), ((1, 2),)]
    assert list(rounds(1, 3)) == [((0, 0),), ((1, 0),), ((2, 0),)]


def test_engines_are_counted_in_loops_within_loops() -> None:
    _, graph = EXAMPLES["nested"]()
    assert n_engines(graph) == 1
    made = cut(
        graph, first_loop(graph), tuple((5,) for _ in ir.loop_of(list(graph.nodes)[first_loop(graph)]).bodies), (1, 0)
    )
    assert n_engines(made) == 2
    assert operands_of(list(made.nodes)[first_loop(made)])
