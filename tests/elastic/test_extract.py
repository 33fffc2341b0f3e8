"""Subnets of small graphs: what they look like, that they are the networks of that size, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.elastic.networks import GROUPS, HEAD, LAYERS, REMOVABLE, Net, network, with_weights
from tests.graph_builder import Builder, aten
from tests.passes.support import body, body_of, program
from vgcomp.elastic import AxisMark, BlockMark, Marks, extract
from vgcomp.errors import UsageError
from vgcomp.program import Program
from vgcomp.verify import verify

OUTER, INNER = 12, 8


def cut(layers, outer, inner, gone=()):
    """The subnet of a network of these layers, and its weights' elements as the supernet's corner."""
    supernet, marks = network(layers, OUTER, INNER)
    supernet = with_weights(supernet)
    widths = {"outer": outer, "inner": inner}
    named = {c: widths.get(c, "skip" if c in gone else "keep") for c in marks.choices}
    return supernet, extract(supernet, marks, named)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_subnet_is_the_network_of_its_widths(layer):
    supernet, subnet = cut([layer], 8, 4)
    verify(subnet)
    assert body_of(subnet) == body_of(network([layer], 8, 4)[0])
    first, before = subnet.weights["w1"].load(), supernet.weights["w1"].load()
    assert torch.equal(first, before[:8])


@given(
    st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=4),
    st.integers(1, OUTER // GROUPS),
    st.integers(1, INNER // HEAD),
    st.data(),
)
@settings(max_examples=25, deadline=None)
def test_any_network_cut_is_the_network_built_at_that_size(layers, groups, heads, data):
    outer, inner = groups * GROUPS, heads * HEAD
    gone = [n for n, layer in enumerate(layers) if layer in REMOVABLE and data.draw(st.booleans())]
    _, subnet = cut(layers, outer, inner, {f"block.{n}" for n in gone})
    verify(subnet)
    wanted, _ = network([layer for n, layer in enumerate(layers) if n not in gone], outer, inner)
    shapes = [weight.shape for weight in subnet.weights.values()]
    assert shapes == [weight.shape for weight in wanted.weights.values()]
    assert [n.target for n in subnet.graph.nodes if n.op == "call_function"] == [
        n.target for n in wanted.graph.nodes if n.op == "call_function"
    ]
    values = [(n.meta["val"].shape, n.meta["val"].stride()) for n in subnet.graph.nodes if n.op == "call_function"]
    assert values == [
        (n.meta["val"].shape, n.meta["val"].stride()) for n in wanted.graph.nodes if n.op == "call_function"
    ]


def test_convolution_norm_convolution():
    """Only the first weight is marked."""
    net = Net(6, 6)
    x = net.convolution(net.input("x", (1, 3, 2, 2)), 3, 6, 1)
    graph = net.done(net.convolution(net.norm(x, 6), 6, 2, 1))
    marks = Marks((AxisMark("w1", 0, "width", {"4": 4, "6": 6}),))
    expected = """
        %x : f32[1, 3, 2, 2] = input
        %w1 : f32[4, 3, 1, 1] = weight 'w1'
        %w2 : f32[4] = weight 'w2'
        %w3 : f32[4] = weight 'w3'
        %w4 : f32[4] = weight 'w4'
        %w5 : f32[2, 4, 1, 1] = weight 'w5'
        %w6 : f32[2] = weight 'w6'
        %convolution_default : f32[1, 4, 2, 2] = convolution(%x, %w1, %w2, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
        %group_norm_default : f32[1, 4, 2, 2] = group_norm(%convolution_default, 2, %w3, %w4, 1e-05)
        %convolution_default_1 : f32[1, 2, 2, 2] = convolution(%group_norm_default, %w5, %w6, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
        return [%convolution_default_1]
    """  # noqa: E501
    assert body_of(extract(_ordered(graph), marks, {"width": 4})) == body(expected)


def test_blocks_that_follow_each_other_go_together():
    before, subnet = cut(["residual", "residual", "attention"], 12, 8, {"block.0", "block.1", "block.2"})
    assert before.n_nodes > subnet.n_nodes == 2
    _, first = cut(["residual", "residual"], 12, 8, {"block.0"})
    assert [w.shape for w in first.weights.values()] == [
        w.shape for w in network(["residual"], 12, 8)[0].weights.values()
    ]


def test_what_no_choice_reaches_stays_as_it_is():
    supernet, subnet = cut(list(LAYERS), OUTER, INNER)
    assert subnet.text() == supernet.text()
    assert all(subnet.weights[name].load() is weight.load() for name, weight in supernet.weights.items())


def test_halves_are_cut_each():
    supernet, subnet = cut(["split"], 12, 4)
    before = supernet.weights["w3"].load()
    assert torch.equal(subnet.weights["w3"].load(), torch.cat((before[:4], before[8:12])))


def two_branches() -> tuple[Program, Marks]:
    """A sum of two convolutions, whose widths are two choices."""
    net = Net(8, 8)
    x = net.input("x", (1, 3, 2, 2))
    one, other = (net.convolution(x, 3, 8, 1, decides=choice) for choice in ("left", "right"))
    total = net.call(aten.add.Tensor, net.call(aten.silu.default, one), other)
    return _ordered(net.done(net.convolution(total, 8, 3, 1))), Marks(tuple(net.axes))


def test_a_sum_of_two_widths_is_refused_by_name():
    supernet, marks = two_branches()
    assert extract(supernet, marks, {"left": 4, "right": 4}).weights["w5"].shape == (3, 4, 1, 1)
    with pytest.raises(
        UsageError, match=r"add_tensor joins .* 4 \(left=4 at w1\) and 6 \(right=6 at w3\) of 8"
    ) as error:
        extract(supernet, marks, {"left": 4, "right": 6})
    assert "\n" not in str(error.value)


def test_a_part_of_a_head_is_refused():
    with pytest.raises(UsageError, match=r"reshape_default_\d: 6 of 8 elements \(inner=6 at w5\) are no whole blocks"):
        cut(["attention"], OUTER, 6)


def test_uneven_groups_are_refused():
    with pytest.raises(UsageError, match="group_norm_default: 7 channels are not a multiple of its 2 groups"):
        cut(["residual"], 7, INNER)


def test_a_width_that_reaches_the_interface_is_refused():
    supernet, marks = network([], OUTER, INNER)
    last = AxisMark("w3", 0, "out", {"2": 2})
    with pytest.raises(UsageError, match=r"joins widths that differ, 2 \(out=2 at w3\) and 3"):
        extract(supernet, replace(marks, axes=(*marks.axes, last)), {"outer": 12, "out": 2})


def test_a_width_that_reaches_an_op_without_a_rule_is_refused():
    b = Builder()
    x = b.call(aten.convolution.default, b.input("x", (1, 3, 2, 2)), b.weight("w", (8, 3, 1, 1)), *_PLAIN)
    moments = b.call(torch.ops.vgcomp.group_moments.default, x, 2)
    marks = Marks((AxisMark("w", 0, "width", {"4": 4}),))
    with pytest.raises(UsageError, match=r"4 \(width=4 at w\) and 8 \(what group_moments_default fixes\)"):
        extract(_ordered(b.done(moments)), marks, {"width": 4})


_PLAIN = (None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)


def _ordered(graph) -> Program:
    first = next(node for node in graph.nodes if node.op == "call_function")
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        first.prepend(node)
    return program(graph)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"left": 4}, "wants an option for 'right'"),
        ({"left": 4, "right": 4, "up": 1}, "has no choice 'up'"),
        ({"left": 4, "right": 9}, "choice 'right' is one of 1, .*: not 9"),
    ],
)
def test_a_choice_that_is_not_the_supernet_s_is_refused(named, message):
    with pytest.raises(UsageError, match=message):
        extract(*two_branches(), named)


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        (Marks((AxisMark("nothing", 0, "a", {"1": 1}),)), "it has no 'nothing'"),
        (Marks((AxisMark("w1", 4, "a", {"1": 1}),)), "no 'w1' with an axis 4"),
        (Marks((AxisMark("w1", 0, "a", {"1": 9}),)), "has 8 elements, which 'a' exceeds"),
        (Marks((), (BlockMark("a", ("1",), "add_tensor", "x"),)), "changes the shape"),
    ],
)
def test_marks_on_what_is_not_there_are_refused(marks, message):
    with pytest.raises(UsageError, match=message):
        extract(two_branches()[0], marks, {"a": 1})
