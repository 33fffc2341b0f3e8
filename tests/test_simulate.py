"""Timelines: ops follow each other, loops come out by body, peaks are those of liveness."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from tests.graph_builder import Builder
from tests.sliced_examples import EXAMPLES
from vgcomp import ir
from vgcomp.cost_models import AnalyticModel
from vgcomp.memory import analyse
from vgcomp.program import Program, Source
from vgcomp.simulate import Timeline, simulate, workspace_of
from vgcomp.targets import load_target
from vgcomp.weights import Weight, without_data


def program_of(graph: fx.Graph) -> Program:
    nodes = [node for node in graph.nodes if node.op == "get_attr"]
    weights: dict[str, Weight] = {
        str(node.target): without_data(str(node.target), ir.val(node).shape, ir.val(node).dtype) for node in nodes
    }
    return Program("example", graph, weights, ("out",), Source("torch", "example"))


def run(graph: fx.Graph, target: str = "a100") -> Timeline:
    return simulate(program_of(graph), load_target(target), AnalyticModel())


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("target", ["a100", "cpu"])
def test_peak_is_that_of_liveness(name: str, target: str) -> None:
    for graph in EXAMPLES[name]():
        timeline = run(graph, target)
        assert timeline.peak_activation_bytes == analyse(graph, workspace=workspace_of(load_target(target))).peak
        assert timeline.peak_bytes == timeline.peak_activation_bytes + timeline.weight_bytes
        assert max(entry.live_bytes for entry in timeline.entries) == timeline.peak_activation_bytes


@pytest.mark.parametrize("name", EXAMPLES)
def test_entries_follow_each_other(name: str) -> None:
    for graph in EXAMPLES[name]():
        timeline = run(graph)
        clock = 0.0
        for entry in timeline.entries:
            assert entry.start_s == pytest.approx(clock)
            clock += entry.duration_s
        assert timeline.latency_s == pytest.approx(clock)


def test_loop_entries_are_by_body_not_by_slice() -> None:
    _, sliced = EXAMPLES["frames"]()
    entries = [entry for entry in run(sliced).entries if entry.in_loop]
    assert [entry.op for entry in entries].count("aten.convolution.default") == 2
    assert {entry.slices for entry in entries} == {3}


def test_slices_do_the_same_work_halos_more() -> None:
    plain, frames = EXAMPLES["frames"]()
    assert run(frames).flops == run(plain).flops
    plain, rows = EXAMPLES["rows-with-halo"]()
    assert run(rows).flops > run(plain).flops
    plain, carried = EXAMPLES["rows-with-carries"]()
    assert run(carried).flops == run(plain).flops


def test_copies_of_slices_are_timed() -> None:
    _, sliced = EXAMPLES["inner-factor"]()
    # Each slice is copied from the operand; the result is copied to its place.
    assert [entry.op for entry in run(sliced).entries].count("copy") == 2


def test_empty_graph() -> None:
    b = Builder()
    timeline = run(b.done(b.input("x", (3,), torch.float16)))
    assert (timeline.latency_s, timeline.peak_activation_bytes, timeline.peak_entry) == (0.0, 6, None)
