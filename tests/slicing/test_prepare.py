"""Norms apart and together again, and buffers reused only where nobody can tell."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from torch import fx

from tests.graph_builder import Builder, aten, own
from tests.properties.graphs import programs, quick, run, tracked_peak
from tests.sliced_examples import EXAMPLES
from tests.slicing.loops import outputs_of
from vgcomp.memory import analyse, peak_activation_bytes
from vgcomp.program import Program, copy_graph
from vgcomp.slicing.prepare import assign_reuse, fuse_group_norms, split_group_norms
from vgcomp.verify import verify


def targets(graph: fx.Graph) -> list[Any]:
    return [node.target for node in graph.nodes if node.op == "call_function"]


def norm_graph(*args: Any, affine: bool = True, permuted: bool = False) -> fx.Graph:
    b = Builder()
    x = b.input("x", (2, 6, 4, 8) if permuted else (2, 8, 6, 4))
    if permuted:
        x = b.call(aten.permute.default, x, [0, 3, 1, 2])
    weights = [b.weight("w", (8,)), b.weight("b", (8,))] if affine else [None, None]
    y = b.call(
        aten.group_norm.default, b.call(aten.mul.Tensor, x, 3.0), 4, *weights[: 2 if args or affine else 0], *args
    )
    return b.done(b.call(aten.silu.default, y))


NORMS = {
    "plain": lambda: norm_graph(1e-5),
    "eps by default": norm_graph,
    "no weights": lambda: norm_graph(affine=False),
    "no weights, eps": lambda: norm_graph(1e-3, affine=False),
    "channels last": lambda: norm_graph(1e-6, permuted=True),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_in_two_halves_is_the_norm(name: str) -> None:
    graph, split = NORMS[name](), NORMS[name]()
    assert split_group_norms(split) == 1
    split.lint()
    assert aten.group_norm.default not in targets(split)
    (wanted,), (found,) = outputs_of(graph), outputs_of(split)
    assert found.stride() == wanted.stride()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert split_group_norms(split) == 0


@pytest.mark.parametrize("name", NORMS)
def test_halves_become_the_norm_again(name: str) -> None:
    graph, split = NORMS[name](), NORMS[name]()
    split_group_norms(split)
    assert fuse_group_norms(split) == 1
    assert targets(split) == targets(graph)
    assert all(torch.equal(a, b) for a, b in zip(outputs_of(split), outputs_of(graph), strict=True))
    assert fuse_group_norms(split) == 0


def test_a_norm_whose_halves_would_lie_otherwise_stays_whole() -> None:
    b = Builder()
    x = b.call(aten.permute.default, b.input("x", (1, 2, 4, 1, 1)), [0, 2, 1, 3, 4])
    norm = b.call(aten.group_norm.default, x, 2)
    graph = b.done(b.call(aten.permute.default, norm, [0, 2, 1, 3, 4]))
    kept = targets(graph)
    split_group_norms(graph)
    if targets(graph) == kept:  # whether sizes of 1 are channels last is for torch to say
        return
    applied = next(node for node in graph.nodes if node.target is own.group_norm_apply.default)
    assert applied.meta["val"].stride() == norm.meta["val"].stride()


def test_a_half_that_overwrites_its_operand_stays() -> None:
    graph = NORMS["plain"]()
    split_group_norms(graph)
    assign_reuse(graph)
    assert fuse_group_norms(graph) == 0
    assert targets(graph)[1:3] == [own.group_moments.default, own.group_norm_apply.default]


def test_moments_of_another_tensor_stay_apart() -> None:
    b = Builder()
    x, y = b.input("x", (2, 4, 3)), b.input("y", (2, 4, 3))
    moments = b.call(own.group_moments.default, y, 2)
    graph = b.done(b.call(own.group_norm_apply.default, x, moments, 2, None, None, 1e-5))
    assert fuse_group_norms(graph) == 0


def reused(*build: Any) -> dict[str, Any]:
    """``meta["reuse"]`` by name, of a graph that ``build`` ends with its outputs."""
    b = Builder()
    outputs = build[0](b, b.input("x", (4, 6)))
    graph = b.done(*outputs)
    assign_reuse(graph)
    return {node.name: node.meta["reuse"] for node in graph.nodes if "reuse" in node.meta}


def test_the_callers_input_is_not_overwritten() -> None:
    assert reused(lambda b, x: [b.call(aten.neg.default, x)]) == {}


def test_a_value_read_again_is_not_overwritten() -> None:
    def build(b: Builder, x: fx.Node) -> list[fx.Node]:
        y = b.call(aten.neg.default, x)
        return [b.call(aten.add.Tensor, b.call(aten.exp.default, y), y)]

    assert reused(build) == {"add_tensor": 0}


def test_an_output_is_not_overwritten() -> None:
    def build(b: Builder, x: fx.Node) -> list[fx.Node]:
        y = b.call(aten.neg.default, x)
        return [y, b.call(aten.exp.default, y)]

    assert reused(build) == {}


def test_a_view_in_use_protects_its_base() -> None:
    def build(b: Builder, x: fx.Node) -> list[fx.Node]:
        y = b.call(aten.neg.default, x)
        view = b.call(aten.reshape.default, y, [24])
        z = b.call(aten.exp.default, y)
        return [z, b.call(aten.abs.default, view)]

    # The exponential must not; the absolute value may, as the last to look at the buffer.
    assert reused(build) == {"abs_default": 0}


def test_two_views_of_one_buffer_are_not_mixed() -> None:
    def build(b: Builder, x: fx.Node) -> list[fx.Node]:
        y = b.call(aten.neg.default, b.call(aten.reshape.default, x, [24]))
        y = b.call(aten.reshape.default, y, [4, 6])
        square = b.call(aten.slice.Tensor, y, 1, 0, 4)
        return [b.call(aten.add.Tensor, square, b.call(aten.permute.default, square, [1, 0]))]

    assert reused(build) == {}


def test_another_shape_dtype_or_stride_is_not_reused() -> None:
    def build(b: Builder, x: fx.Node) -> list[fx.Node]:
        small = b.call(aten.neg.default, b.call(aten.slice.Tensor, x, 0, 0, 1))
        wide = b.call(aten.add.Tensor, small, x)
        flags = b.call(aten.gt.Scalar, b.call(aten.exp.default, x), 0.0)
        return [wide, flags]

    assert reused(build) == {}


def test_broadcast_operands_are_skipped_for_one_that_fits() -> None:
    def build(b: Builder, x: fx.Node) -> list[fx.Node]:
        row = b.call(aten.neg.default, b.call(aten.slice.Tensor, x, 0, 0, 1))
        return [b.call(aten.mul.Tensor, row, b.call(aten.exp.default, x))]

    assert reused(build) == {"mul_tensor": 1}


def test_chains_of_reuse_end_with_their_last_reader() -> None:
    def build(b: Builder, x: fx.Node) -> list[fx.Node]:
        a = b.call(aten.neg.default, x)
        c = b.call(aten.exp.default, a)  # over a
        d = b.call(aten.abs.default, c)  # not over c: it is read below
        return [b.call(aten.add.Tensor, c, d)]

    assert reused(build) == {"exp_default": 0, "add_tensor": 0}


def test_assigning_again_changes_nothing() -> None:
    for name in NORMS:
        graph = NORMS[name]()
        split_group_norms(graph)
        first = assign_reuse(graph)
        marks = [node.meta.get("reuse") for node in graph.nodes]
        assert assign_reuse(graph) == first > 0
        assert [node.meta.get("reuse") for node in graph.nodes] == marks


@pytest.mark.parametrize("name", EXAMPLES)
def test_reuse_around_loops(name: str) -> None:
    for graph in EXAMPLES[name]():
        marked = copy_graph(graph)
        assign_reuse(marked)
        assert analyse(marked).peak <= analyse(graph).peak
        assert all(torch.equal(a, b) for a, b in zip(outputs_of(marked), outputs_of(graph), strict=True))


@quick
@given(programs())
def test_any_network_prepared_is_the_same_network(program: Program) -> None:
    prepared = program.copy()
    split_group_norms(prepared.graph)
    assign_reuse(prepared.graph)
    verify(prepared)
    for found, wanted in zip(run(prepared), run(program), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert peak_activation_bytes(prepared, workspace="cpu") == tracked_peak(prepared)
    fuse_group_norms(prepared.graph)
    verify(prepared)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(run(prepared), run(program), strict=True))
