"""Eager, compiled and recorded runs: the host's lead, fewer kernels, and the processor beside an engine."""

import pytest
import torch

from tests.graph_builder import Builder
from tests.sliced_examples import EXAMPLES
from tests.test_simulate import program_of
from vgcomp.cost_models import AnalyticModel
from vgcomp.execution import Clock, issue
from vgcomp.ir import aten
from vgcomp.simulate import simulate
from vgcomp.targets import load_target

A100 = load_target("a100")
F16 = torch.float16


def run(graph, mode="eager", target=A100):
    return simulate(program_of(graph), target, AnalyticModel(), mode=mode)


def chain(elements, length, first=None):
    b = Builder()
    x = b.input("x", (elements,), F16)
    y = (
        x
        if first is None
        else b.call(aten.matmul.default, b.input("a", (first, first), F16), b.input("c", (first, first), F16))
    )
    outs = [] if first is None else [y]
    z = x
    for _ in range(length):
        z = b.call(aten.silu.default, z)
    return b.done(z, *outs)


def test_short_kernels_are_bound_by_the_host():
    timeline = run(chain(64, 20))
    assert timeline.latency_s == pytest.approx(20 * A100.host_issue_s, rel=0.3)
    assert {entry.bound for entry in timeline.entries} == {"launch"}


def test_the_host_runs_ahead_of_a_long_kernel():
    alone = run(chain(64, 20)).latency_s
    long = run(chain(64, 0, first=8192)).latency_s
    assert long > alone, "the product is long enough to hide the rest"
    assert run(chain(64, 20, first=8192)).latency_s < long + 0.7 * alone


def test_a_recorded_graph_waits_for_no_host():
    graph = chain(64, 20)
    assert run(graph, "graph").latency_s == pytest.approx(20 * A100.launch_s, rel=0.2)
    assert run(graph, "graph").latency_s < run(graph).latency_s


def test_compiled_chains_are_one_kernel():
    graph = chain(1 << 24, 20)
    compiled, eager = run(graph, "compiled"), run(graph)
    assert len(compiled.entries) == 1
    assert compiled.flops == eager.flops
    assert compiled.latency_s < eager.latency_s / 10


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("mode", ["eager", "compiled", "graph"])
def test_entries_follow_each_other_in_every_mode(name, mode):
    for graph in EXAMPLES[name]():
        timeline = run(graph, mode)
        assert timeline.latency_s == pytest.approx(sum(entry.duration_s for entry in timeline.entries))
        assert timeline.flops == pytest.approx(run(graph).flops)


def test_only_gpus_have_a_host_to_wait_for():
    assert issue(load_target("cpu"), "eager").op_s == issue(A100, "graph").op_s == 0.0
    assert 0.0 < issue(A100, "compiled").op_s < issue(A100, "eager").op_s


def test_the_clock():
    clock = Clock()
    assert clock.run([1.0], 5.0) == [6.0], "the op starts when it is issued"
    assert clock.run([10.0], 0.1) == [10.0], "the device is behind now"
    assert clock.run([1.0, 2.0], 5.0) == [1.0, 2.0], "and has enough to do while the host issues"
    assert clock.now == 19.0


def test_what_an_engine_refuses_goes_to_the_cpu_and_back():
    target = load_target("a18pro")
    b = Builder()
    x, w = b.input("x", (1, 64, 5, 64, 64), F16), b.input("w", (64, 64, 3, 3, 3), F16)
    one = b.input("u", (64, 64, 1, 1, 1), F16)

    def conv(value, weight):
        pad = [k // 2 for k in weight.meta["val"].shape[2:]]
        return b.call(aten.convolution.default, value, weight, None, [1] * 3, pad, [1] * 3, False, [0] * 3, 1)

    timeline = run(b.done(conv(conv(conv(x, one), w), one)), target=target)
    assert [entry.place for entry in timeline.entries] == ["engine", "cpu", "engine"]
    fallback = target.fallback
    assert timeline.latency_s > 2 * fallback.switch_s + 2 * fallback.dispatch_s
