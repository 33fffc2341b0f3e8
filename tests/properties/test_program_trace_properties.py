"""What a trace asks for at its peak is what ``vgcomp.memory`` predicts, to the byte."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from tests.properties.graphs import programs
from tests.properties.test_memory_properties import random_graph
from tests.sliced_examples import EXAMPLES
from vgcomp.alloc_trace import Replay
from vgcomp.cost_models import AnalyticModel
from vgcomp.cuda_temporaries import node_cuda_temporaries
from vgcomp.memory import analyse, peak_activation_bytes
from vgcomp.program import Program
from vgcomp.program_trace import graph_trace
from vgcomp.slicing.engine import Slicer
from vgcomp.slicing.prepare import assign_reuse
from vgcomp.targets import load_target


def check(graph: fx.Graph) -> None:
    replay = Replay().run(graph_trace(graph))
    allocator = replay.allocator
    assert allocator.requested_peak == analyse(graph).peak == sum(replay.at_peak.values())
    assert allocator.reserved_peak >= allocator.allocated_peak >= allocator.requested_peak
    inner = Replay().run(graph_trace(graph, node_cuda_temporaries)).allocator
    assert inner.requested_peak == analyse(graph, workspace="cuda").peak >= allocator.requested_peak
    # What is left are inputs and outputs, each once.
    assert {kind for kind, size in replay.live.items() if size} <= {"input", "output", "temporary"}
    assert inner.requested_bytes == allocator.requested_bytes


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_random_graphs(seed: int) -> None:
    graph = random_graph(seed)
    check(graph)
    assign_reuse(graph)
    check(graph)


@pytest.mark.parametrize("name", EXAMPLES)
def test_sliced_examples(name: str) -> None:
    for graph in EXAMPLES[name]():
        check(graph)


@settings(max_examples=12, deadline=None)
@given(programs(max_blocks=4), st.floats(0.3, 0.9))
def test_sliced_programs(program: Program, share: float) -> None:
    target = load_target("a100")
    check(program.graph)
    solution = Slicer(program, target, AnalyticModel(target)).solve(int(share * peak_activation_bytes(program)))
    if solution is not None:
        check(solution.program.graph)
