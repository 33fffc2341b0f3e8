"""``pipeline-slices``: what it does to a loop, what it leaves alone and why, and that it never passes a budget."""

# ruff: noqa: E501 (expected text)
from __future__ import annotations

from pathlib import Path

import pytest

from tests.passes.support import A100, body, body_of, program, run_pass, with_budget
from tests.passes.test_pipeline import context
from tests.pipelined import normed_frames
from tests.sliced_examples import EXAMPLES
from vgcomp import ir
from vgcomp.cost_models import AnalyticModel
from vgcomp.device_memory import device_memory
from vgcomp.errors import UsageError
from vgcomp.memory import peak_activation_bytes
from vgcomp.passes.base import PassContext
from vgcomp.passes.pipeline_slices import PipelineSlices
from vgcomp.passes.registry import build_pipeline
from vgcomp.program import Program
from vgcomp.simulate import simulate
from vgcomp.targets import load_target

EXPECTED = """
%x : f16[4, 32, 64, 64] = input
%w : f16[32, 32, 3, 3] = weight 'w'
%sliced : (f16[4, 32, 64, 64]) = sliced(%x, %w)
  loop 'frames': 4 steps, 1 bodies
  pipeline: 2 slices in flight, stage 0 on engine 1, stage 1 on engine 0
  operand 0: dim 0 x 4
  result 0: f16[4, 32, 64, 64], dim 0 x 4
  step 0: body 0, reads [0:1, -], writes [0:1]
  step 1: body 0, reads [1:2, -], writes [1:2]
  step 2: body 0, reads [2:3, -], writes [2:3]
  step 3: body 0, reads [3:4, -], writes [3:4]
  body 0: operands [0, 1], results [0], stage 1 from %convolution_default
    %part : f16[1, 32, 64, 64] = input
    %v : f16[32, 32, 3, 3] = input
    %group_norm_default : f16[1, 32, 64, 64] = group_norm(%part, 4)
    %silu_default : f16[1, 32, 64, 64] = silu(%group_norm_default)
    %convolution_default : f16[1, 32, 64, 64] = convolution(%silu_default, %v, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    return [%convolution_default]
%getitem : f16[4, 32, 64, 64] = getitem(%sliced, 0)
return [%getitem]
"""

#: An A100 whose host issues ops in no time: frames as small as a test's are the host's otherwise.
FAST = A100.model_copy(update={"host_issue_s": 0.0, "host_view_s": 0.0})


def on(target: object, memory: int | None = None) -> PassContext:
    return context(target=target, cost_model=AnalyticModel(FAST), memory=memory)


@pytest.fixture(scope="module")
def frames() -> Program:
    return program(normed_frames(4, 32, 64))


@pytest.fixture(scope="module")
def piped(frames: Program) -> Program:
    result = PipelineSlices().run(frames, on(FAST))
    assert result.changed
    return result.program


def test_a_norm_of_few_groups_goes_beside_the_convolution(frames: Program) -> None:
    result = run_pass(PipelineSlices(), frames, on(FAST), "exact")
    assert body_of(result.program) == body(EXPECTED), body_of(result.program)
    assert result.stats["pipelined"] == result.stats["loops"] == 1
    model = AnalyticModel(FAST)
    before, after = (simulate(p, FAST, model).latency_s for p in (frames, result.program))
    assert before - after == pytest.approx(result.stats["gain_s"])
    assert "with 2 in flight" in result.explanations[0].reason


def test_saved_and_loaded_it_is_the_same(piped: Program, tmp_path: Path) -> None:
    piped.save(tmp_path / "p")
    loaded = Program.load(tmp_path / "p")
    assert loaded.text() == piped.text()
    assert peak_activation_bytes(loaded) == peak_activation_bytes(piped)


@pytest.mark.parametrize("hands_out", ["live", "caching"])
def test_the_budget_holds_to_the_byte(frames: Program, piped: Program, hands_out: str) -> None:
    target = FAST.model_copy(update={"allocator": hands_out})
    needed = device_memory(PipelineSlices().run(frames, on(target)).program, target).total_bytes
    assert needed > device_memory(frames, target).total_bytes
    assert PipelineSlices().run(frames, on(target, needed)).changed
    result = PipelineSlices().run(frames, on(target, needed - 1))
    assert not result.changed
    assert "pass the budget" in result.explanations[0].reason


def test_the_matrix_library_has_a_workspace_a_stream(frames: Program, piped: Program) -> None:
    target = load_target("a100")
    before, after = device_memory(frames, target), device_memory(piped, target)
    assert after.workspaces - before.workspaces >= target.blas_workspace_bytes


def test_why_not(frames: Program, piped: Program) -> None:
    def reason(given: Program, where: PassContext) -> str:
        result = PipelineSlices().run(given, where)
        assert result.program is given
        return result.explanations[0].reason

    plain, sliced = (program(graph) for graph in EXAMPLES["frames"]())
    assert reason(plain, on(FAST)) == "nothing in it is sliced"
    assert reason(piped, on(FAST)) == "it is pipelined already"
    assert "runs one op at a time" in reason(frames, on(load_target("a18")))
    assert "over the budget of" in reason(frames, with_budget(1000))
    assert "its gain is below" in reason(sliced, on(A100)) or "no less time" in reason(sliced, on(A100))


def test_a_loop_whose_slices_depend_on_each_other_says_so() -> None:
    """Rows with line buffers taken at the front of a body and made at its end."""
    _, sliced = EXAMPLES["rows-in-place-late-carry"]()
    result = PipelineSlices().run(program(sliced), on(FAST))
    assert not result.changed
    assert "the next slice takes in stage 0 what a slice makes in stage 1" in result.explanations[0].reason


def test_options() -> None:
    (item,) = build_pipeline("pipeline-slices{in-flight=3,engines=2}")
    assert item == PipelineSlices(in_flight=3, engines=2)
    with pytest.raises(UsageError, match="must be 2 or more"):
        build_pipeline("pipeline-slices{in-flight=1}")


def test_more_slices_in_flight_are_never_slower(frames: Program) -> None:
    gains = [PipelineSlices(in_flight=n, engines=n).run(frames, on(FAST)).stats["gain_s"] for n in (2, 3)]
    assert gains[0] <= gains[1]


def test_other_backends_may_run_it_slice_by_slice(piped: Program) -> None:
    (unrolled,) = build_pipeline("unroll-loops")
    result = unrolled.run(piped, on(FAST))
    assert not any(ir.is_loop(node) for node in result.program.graph.nodes)
