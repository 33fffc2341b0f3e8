"""Side by side: what kernels leave to each other, and no more."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.pipelined import normed_frames
from tests.test_simulate import program_of
from vgcomp import ir
from vgcomp.cost_models import AnalyticModel
from vgcomp.cost_models.base import Phase
from vgcomp.cost_models.work import work_of
from vgcomp.infer import fake_tensor
from vgcomp.overlap import least_s, pipelined_s, together_s
from vgcomp.pipelining import best_overlap, pipelined
from vgcomp.simulate import Setup, node_seconds, node_work, simulate, workspace_of
from vgcomp.targets import load_target

A100 = load_target("a100")
aten = ir.aten


def phases(target: Any, *args: Any) -> tuple[Phase, ...]:
    """Of an op on fp16 tensors of the shapes given, and other arguments as they are."""
    made = [fake_tensor(arg, torch.float16) if isinstance(arg, tuple) else arg for arg in args]
    return AnalyticModel().op_seconds(work_of(target, made, {}, target(*made)), A100).phases


def test_two_kernels_that_fill_the_device_take_turns() -> None:
    full = [Phase(1.0, 1.0, 0.1)]
    assert together_s([full, full]) == pytest.approx(2.0)


def test_what_leaves_units_and_bandwidth_goes_beside() -> None:
    assert together_s([[Phase(1.0, 0.6, 0.5)], [Phase(1.0, 0.4, 0.5)]]) == pytest.approx(1.0)
    assert together_s([[Phase(1.0, 0.3, 1.0)], [Phase(1.0, 0.3, 1.0)]]) == pytest.approx(2.0), "one memory"
    # The higher engine has first claim; the lower one goes on in what is left, then alone.
    assert together_s([[Phase(1.0, 1.0, 0.0)], [Phase(1.0, 0.3, 0.0)]]) == pytest.approx(1.3)


def test_launches_hide_behind_kernels() -> None:
    launches = [Phase(0.5, 0.0, 0.0), Phase(1.0)]
    assert together_s([launches, launches]) == pytest.approx(2.5)
    assert together_s([[Phase(3.0)], [Phase(0.5, 0.0, 0.0)]]) == pytest.approx(3.0)
    assert together_s([[], []]) == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_no_model_gains_more_than_there_is(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    chains = [
        [Phase(*torch.rand(3, generator=draw).tolist()) for _ in range(int(torch.randint(0, 6, (), generator=draw)))]
        for _ in range(3)
    ]
    alone = sum(phase.seconds for chain in chains for phase in chain)
    assert least_s(chains) - 1e-9 <= together_s(chains) <= alone + 1e-9


def test_phases_add_up_to_the_device_time() -> None:
    for node in list(normed_frames().nodes):
        if not ir.is_loop(node):
            continue
        for inner in ir.loop_of(node).bodies[0].graph.nodes:
            work = node_work(inner)
            if work is not None:
                cost = AnalyticModel().op_seconds(work, A100)
                assert sum(phase.seconds for phase in cost.phases) == pytest.approx(cost.device_s)
                assert all(0.0 <= p.units <= 1.0 and 0.0 <= p.bandwidth <= 1.0 for p in cost.phases)


def test_a_large_product_fills_the_device_until_its_last_round() -> None:
    *_, whole, last = phases(aten.matmul.default, (128 * 108 * 4, 4096), (4096, 4096))
    assert whole.units == last.units == 1.0
    _, small = phases(aten.matmul.default, (128, 4096), (4096, 128))
    assert small.units < 0.2
    assert whole.bandwidth < 1.0


def test_few_groups_leave_units() -> None:
    few = phases(aten.group_norm.default, (1, 64, 512, 512), 4)
    assert min(phase.units for phase in few if phase.bandwidth) == pytest.approx(4 / A100.units)


def test_only_gpus_have_phases() -> None:
    work = work_of(aten.silu.default, [fake_tensor((64, 64), torch.float16)], {}, fake_tensor((64, 64), torch.float16))
    assert not AnalyticModel().op_seconds(work, load_target("cpu")).phases


def test_the_simulation_times_a_pipelined_loop_by_rounds() -> None:
    graph = normed_frames()
    node = next(node for node in graph.nodes if ir.is_loop(node))
    setup = Setup(A100, AnalyticModel(), "graph")
    found = best_overlap(node, setup, 2, 2)
    assert not isinstance(found, str)
    before = simulate(program_of(graph), A100, AnalyticModel(), mode="graph")
    node.args = (pipelined(ir.loop_of(node), found.pipeline), *node.args[1:])
    after = simulate(program_of(graph), A100, AnalyticModel(), mode="graph")
    assert after.latency_s == pytest.approx(before.latency_s - found.gain_s)
    assert sum(entry.duration_s for entry in after.entries) == pytest.approx(after.latency_s)
    assert after.flops == before.flops
    assert max(entry.live_bytes for entry in after.entries) == after.peak_activation_bytes
    assert node_seconds(node, A100, AnalyticModel(), workspace_of(A100)) > 0.0
    cpu = load_target("cpu")
    assert simulate(program_of(graph), cpu, AnalyticModel()).latency_s > 0.0, "one after the other there"


def test_rounds_alike_are_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from vgcomp import overlap

    timed: list[object] = []
    monkeypatch.setattr(overlap, "together_s", lambda chains: timed.append(chains) or together_s(chains))
    steps = tuple(ir.Step(0, (), ()) for _ in range(1000))
    work = [[[Phase(1.0, 0.5, 0.1)], [Phase(1.0, 0.5, 0.1)]]]
    assert pipelined_s(work, steps, (0, 1)) == pytest.approx(1001.0)
    assert len(timed) == 3
