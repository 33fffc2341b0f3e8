"""Slices in flight of random sliced networks: the same values, no more memory than predicted, never over a budget."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pipelined import pipelined_graphs
from tests.properties.graphs import programs, run, tracked_peak
from vgcomp import ir
from vgcomp.alloc_trace import Replay
from vgcomp.cost_models import AnalyticModel
from vgcomp.cuda_temporaries import node_cuda_temporaries
from vgcomp.device_memory import device_memory
from vgcomp.memory import analyse, peak_activation_bytes
from vgcomp.passes.base import PassContext
from vgcomp.passes.pipeline_slices import PipelineSlices
from vgcomp.program import Program
from vgcomp.program_trace import graph_trace
from vgcomp.slicing.engine import Slicer
from vgcomp.targets import load_target
from vgcomp.verify import verify

#: Memory is what is live, and the host takes no time: networks this small are all context and launches otherwise.
TARGET = load_target("a100").model_copy(
    update={"allocator": "live", "context_bytes": 0, "host_issue_s": 0.0, "host_view_s": 0.0}
)
MODEL = AnalyticModel(TARGET)

#: HYPOTHESIS_EXAMPLES asks for more.
few = settings(
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "5")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def sliced(program: Program, share: float = 0.5) -> Program:
    """In a share of its memory, where there is such a plan; else as it is."""
    slicer = Slicer(program, TARGET, MODEL)
    solution = slicer.plain(int(share * slicer.unsliced), (0, slicer.unsliced))
    return program if solution is None else solution.program


@few
@given(programs(max_blocks=3), st.integers(2, 3), st.integers(0, 2**32))
def test_any_cut_that_the_rules_allow_computes_the_same_within_the_prediction(
    program: Program, stages: int, seed: int
) -> None:
    given = sliced(program)
    wanted = run(given)
    for graph, legal in pipelined_graphs(given.graph, stages, seed, most=2):
        if not legal:
            continue
        made = given.with_graph(graph)
        verify(made)
        assert all(torch.equal(a, b) for a, b in zip(run(made), wanted, strict=True))
        assert tracked_peak(made) <= peak_activation_bytes(made, workspace="cpu")
        assert peak_activation_bytes(made) >= peak_activation_bytes(given)
        assert Replay().run(graph_trace(graph)).allocator.requested_peak <= analyse(graph).peak
        inner = Replay().run(graph_trace(graph, node_cuda_temporaries)).allocator
        assert inner.requested_peak <= analyse(graph, workspace="cuda").peak


@few
@given(programs(max_blocks=3), st.floats(1.0, 1.5), st.integers(2, 3), st.booleans())
def test_the_pass_holds_its_budget_and_is_at_rest_after(
    program: Program, room: float, in_flight: int, caching: bool
) -> None:
    given = sliced(program)
    target = TARGET.model_copy(update={"allocator": "caching"}) if caching else TARGET
    context = PassContext(target, MODEL, int(device_memory(given, target).total_bytes * room))
    item = PipelineSlices(in_flight=in_flight, engines=in_flight, least_gain=0.0)
    result = item.run(given, context)
    if not result.changed:
        assert result.explanations
        return
    verify(result.program)
    assert device_memory(result.program, target).total_bytes <= context.memory  # type: ignore[operator]
    assert all(torch.equal(a, b) for a, b in zip(run(result.program), run(given), strict=True))
    assert item.run(result.program, context).program is result.program
    loops = [ir.loop_of(node) for node in result.program.graph.nodes if ir.is_loop(node)]
    assert result.stats["pipelined"] == sum(loop.pipeline is not None for loop in loops)
    with tempfile.TemporaryDirectory() as folder:
        result.program.save(Path(folder))
        loaded = Program.load(Path(folder))
    assert loaded.text() == result.program.text()
    assert peak_activation_bytes(loaded) == peak_activation_bytes(result.program)
