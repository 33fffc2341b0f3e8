"""Summaries of programs that differ little are those of whole simulations, to the last bit of memory."""

import functools

import pytest
import torch

from tests.sliced_examples import EXAMPLES
from tests.test_simulate import program_of
from vgcomp import ir, models
from vgcomp.cost_models import AnalyticModel
from vgcomp.infer import node_value
from vgcomp.ir import aten
from vgcomp.resimulate import Simulator
from vgcomp.simulate import simulate
from vgcomp.targets import load_target

TARGETS = ("a100", "a18pro", "cpu")


@functools.cache
def built(name):
    return models.build(name)


def agree(simulator, program, target, mode="eager"):
    whole = simulate(program, target, AnalyticModel(), mode=mode)
    found = simulator.summary(program)
    assert found.peak_activation_bytes == whole.peak_activation_bytes
    assert found.peak_bytes == whole.peak_bytes
    assert found.flops == pytest.approx(whole.flops)
    assert found.latency_s == pytest.approx(whole.latency_s)
    return found


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("target", TARGETS)
def test_hand_made_graphs_with_and_without_loops(name, target):
    device = load_target(target)
    simulator = Simulator(device, AnalyticModel())
    for graph in EXAMPLES[name]():
        agree(simulator, program_of(graph), device)


@pytest.mark.parametrize("mode", ["eager", "compiled", "graph"])
@pytest.mark.parametrize("name", ["sd-vae-decoder-small", "clip-vit-l-text-small"])
def test_networks(name, mode):
    program = built(name)
    for target in TARGETS:
        device = load_target(target)
        agree(Simulator(device, AnalyticModel(), mode), program, device, mode)


def test_one_changed_op_is_seen():
    program = models.build("snapgen-v-small")
    device = load_target("a100")
    simulator = Simulator(device, AnalyticModel())
    before = agree(simulator, program, device)
    assert agree(simulator, program.copy(), device) == before
    changed = program.copy()
    node = next(n for n in changed.graph.nodes if n.target is aten.linear.default and n.users)
    with changed.graph.inserting_after(node):
        more = changed.graph.call_function(aten.silu.default, (node,))
        more.meta["val"] = node_value(more)
    node.replace_all_uses_with(more, delete_user_cb=lambda user: user is not more)
    assert agree(simulator, changed, device).flops == before.flops + ir.val(node).numel()


def test_rewired_inputs_and_causality_are_seen():
    program = models.build("clip-vit-l-text-small", dtype="fp16", weights="absent")
    device = load_target("a100")
    simulator = Simulator(device, AnalyticModel())
    before = agree(simulator, program, device)
    changed = program.copy()
    for node in changed.graph.nodes:
        if node.target is aten.scaled_dot_product_attention.default:
            node.args = (*node.args[:3], None, 0.0, not node.args[5])
    assert agree(simulator, changed, device).flops > before.flops
    last = program.copy()
    norms = [n for n in last.graph.nodes if n.target is aten.layer_norm.default]
    norms[-1].args = (norms[0].args[0], *norms[-1].args[1:])
    agree(simulator, last, device)


def test_a_view_of_an_input_keeps_it():
    from tests.graph_builder import Builder

    b = Builder()
    x = b.input("x", (64, 32), torch.float16)
    y = b.call(aten.silu.default, b.call(aten.permute.default, x, [1, 0]))
    device = load_target("a100")
    agree(Simulator(device, AnalyticModel()), program_of(b.done(y, y)), device)
