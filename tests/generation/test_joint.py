"""Joint plans of small stages: budgets held by real plans, reports whole, the smallest budget feasible."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vgcomp import capture, ir
from vgcomp.backends.torch_module import TorchModule
from vgcomp.backends.torch_runtime import compile_graph
from vgcomp.check import load_weights, random_inputs
from vgcomp.device_memory import device_memory, fixed_bytes
from vgcomp.errors import Infeasible, UsageError
from vgcomp.generation.joint import Generation, GenerationResult, generate_plan
from vgcomp.generation.report import GenerationReport
from vgcomp.generation.stage import Stage
from vgcomp.generation.streaming import Streamed, weights_at_use
from vgcomp.program import Program
from vgcomp.targets import load_target
from vgcomp.units import MIB

A100 = load_target("a100")
FIXED = fixed_bytes(A100)


def encoder() -> Program:
    """24 MiB of weights, next to no activations."""
    layers = [nn.Linear(1024, 1024, bias=False) for _ in range(6)]
    return capture(nn.Sequential(*layers), (torch.zeros(1, 1024),), name="encoder")


def decoder() -> Program:
    """48 MiB at its peak, with a window; next to no weights."""
    layers = nn.Sequential(
        nn.Conv2d(4, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 3, 1)
    )
    return capture(layers, (torch.zeros(4, 4, 192, 256),), name="decoder")


@pytest.fixture(scope="module")
def generation() -> Generation:
    torch.manual_seed(0)
    stages = [Stage("text encoder", encoder(), 2, "2 prompts"), Stage("vae decoder", decoder(), held=(MIB,))]
    return Generation("made up", stages, A100)


@pytest.fixture(scope="module")
def ample(generation: Generation) -> GenerationResult:
    return generation.plan("2GB")


def test_with_room_for_all_nothing_moves_and_nothing_is_sliced(ample: GenerationResult) -> None:
    report = ample.report
    assert [stage.weights for stage in report.stages] == ["kept", "kept"]
    assert report.after.copy_s == 0
    assert report.after.latency_s == sum(stage.runs * stage.after.latency_s for stage in report.stages)
    assert report.after.peak_stage == "vae decoder"
    assert report.stages[1].after.parts["held"] == 2 * MIB, "a small tensor lies in a segment of 2 MiB"
    assert report.lower_bound_bytes <= report.after.peak_bytes


def test_a_report_survives_json_and_has_its_tables(ample: GenerationResult) -> None:
    report = ample.report
    assert GenerationReport.from_json(report.to_json()) == report
    with pytest.raises(ValueError, match="add up"):
        GenerationReport.from_json(report.to_json().replace('"context": ', '"context": 1', 1))
    text = report.to_markdown()
    assert text.startswith("# made up on a100")
    assert "| vae decoder | once | kept |" in text


def test_a_budget_is_held_and_weights_leave_for_it(generation: Generation, ample: GenerationResult) -> None:
    budget = generation.smallest().need_bytes
    report = generation.plan(budget).report
    assert budget < ample.report.after.peak_bytes - 30 * MIB
    assert all(stage.after.peak_bytes <= budget for stage in report.stages)
    gone = [stage for stage in report.stages if stage.weights != "kept"]
    assert "text encoder" in {stage.name for stage in gone}
    assert A100.host_bytes_per_s is not None
    for stage in gone:
        copies = stage.runs if stage.weights == "streamed" else 1
        assert stage.copy_s == pytest.approx(copies * stage.weight_bytes / A100.host_bytes_per_s)
    assert report.after.copy_s == pytest.approx(sum(stage.copy_s for stage in gone))


def test_too_small_a_budget_names_the_smallest_which_is_feasible(generation: Generation) -> None:
    with pytest.raises(Infeasible, match="no plan of made up fits") as raised:
        generation.plan(FIXED + MIB)
    error = raised.value
    assert error.culprit.endswith(("in vae decoder", "in text encoder"))
    report = generation.plan(error.smallest_bytes).report
    assert report.after.peak_bytes <= error.smallest_bytes


def test_one_memory_keeps_all_weights(generation: Generation) -> None:
    report = Generation("made up", generation.stages, "cpu").plan("1GB").report
    assert [stage.weights for stage in report.stages] == ["kept", "kept"]
    assert report.host_bytes_per_s is None
    assert report.stages[1].after.parts["other weights"] == generation.stages[0].program.weight_bytes()


def test_what_is_made_of_the_result_counts() -> None:
    stage = Stage("vae decoder", decoder(), after=900 * MIB)
    report = Generation("made up", [stage], A100).plan("2GB").report
    assert report.after.peak_bytes >= FIXED + 900 * MIB
    assert "frames out" in report.stages[0].after.parts
    assert report.stages[0].culprit == "the frames on their way out"


def test_stages_have_names_of_their_own(generation: Generation) -> None:
    with pytest.raises(UsageError, match="a name of its own"):
        Generation("made up", [generation.stages[0]] * 2, A100)
    with pytest.raises(UsageError, match="did you mean 'svd-xt'"):
        generate_plan("svd-x", target="a100")


# -- streamed weights --------------------------------------------------------------------------------


def test_streamed_weights_are_there_only_while_they_are_used(generation: Generation) -> None:
    program = generation.stages[0].program
    whole, streamed = device_memory(program, A100), device_memory(weights_at_use(program), A100, streamed=True)
    assert whole.weights == 24 * MIB
    assert streamed.weights == 4 * MIB
    assert streamed.total_bytes < whole.total_bytes


@pytest.mark.parametrize("stage", [0, 1])
def test_streamed_weights_compute_the_same(generation: Generation, ample: GenerationResult, stage: int) -> None:
    name = generation.stages[stage].name
    # What fits the smallest room is sliced, so that loops look weights up too.
    answer = generation.planners[stage].smallest()
    assert answer.plan is not None
    planned, given = answer.plan.program, generation.stages[stage].program
    weights, inputs = load_weights(given, seed=0), random_inputs(given)
    looked_up = _Counted(weights)
    (got,) = compile_graph(weights_at_use(planned).graph).run(inputs, looked_up)
    (wanted,) = TorchModule(given, weights=weights)(*inputs)
    assert float((got - wanted).abs().max() / wanted.abs().max()) <= 1e-5, name
    loops = sum(ir.is_loop(node) for node in planned.graph.nodes)
    assert max(looked_up.counts.values()) <= 1 + loops, "not again for every slice"


class _Counted(Streamed):
    """Counts look-ups."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__(weights, torch.device("cpu"))
        self.counts: dict[str, int] = {}

    def __getitem__(self, name: str) -> Tensor:
        self.counts[name] = self.counts.get(name, 0) + 1
        return super().__getitem__(name)
