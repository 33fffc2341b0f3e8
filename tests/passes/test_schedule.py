"""``schedule``: Before and Expected, bit for bit the same, and no worse in memory."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.graph_builder import Builder, aten
from tests.passes.support import body, body_of, program, run_pass, with_budget
from tests.properties.graphs import programs, quick
from tests.sliced_examples import EXAMPLES
from vgcomp.memory import peak_activation_bytes
from vgcomp.passes.schedule import Schedule
from vgcomp.program import Program

BEFORE = body("""
    %x : f32[2, 8, 4, 4] = input
    %emb : f32[2, 4] = input
    %w : f32[8, 4] = weight 'w'
    %linear_default : f32[2, 8] = linear(%emb, %w)
    %reshape_default : f32[2, 8, 1, 1] = reshape(%linear_default, [2, 8, 1, 1])
    %mean_dim : f32[2, 1, 4, 4] = mean.dim(%x, [1], True)
    %mul_tensor : f32[2, 8, 4, 4] = mul.Tensor(%x, %mean_dim)
    %mul_tensor_1 : f32[2, 8, 4, 4] = mul.Tensor(%mul_tensor, %reshape_default)
    return [%mul_tensor_1]
""")

EXPECTED = body("""
    %x : f32[2, 8, 4, 4] = input
    %emb : f32[2, 4] = input
    %w : f32[8, 4] = weight 'w'
    %mean_dim : f32[2, 1, 4, 4] = mean.dim(%x, [1], True)
    %mul_tensor : f32[2, 8, 4, 4] = mul.Tensor(%x, %mean_dim)
    %linear_default : f32[2, 8] = linear(%emb, %w)
    %reshape_default : f32[2, 8, 1, 1] = reshape(%linear_default, [2, 8, 1, 1])
    %mul_tensor_1 : f32[2, 8, 4, 4] = mul.Tensor(%mul_tensor, %reshape_default)
    return [%mul_tensor_1]
""")


def early_scale() -> Program:
    """A scale computed at the start and used at the end, as modulated blocks have it."""
    b = Builder()
    x, emb, w = b.input("x", (2, 8, 4, 4)), b.input("emb", (2, 4)), b.weight("w", (8, 4))
    scale = b.call(aten.reshape.default, b.call(aten.linear.default, emb, w), [2, 8, 1, 1])
    h = b.call(aten.mul.Tensor, x, b.call(aten.mean.dim, x, [1], True))
    return program(b.done(b.call(aten.mul.Tensor, h, scale)))


def test_a_scale_is_made_where_it_is_used() -> None:
    before = early_scale()
    assert body_of(before) == BEFORE
    result = run_pass(Schedule(), before, with_budget(None), "exact")
    assert body_of(result.program) == EXPECTED
    assert result.stats["moved"] == 4


def test_an_order_that_holds_more_is_not_taken() -> None:
    """Keys and values first would keep the (large) operand of the queries alive beside them."""
    b = Builder()
    x = b.input("x", (1, 2, 4, 8))
    large = b.call(aten.expand.default, b.call(aten.neg.default, x), [64, 2, 4, 8])
    large = b.call(aten.exp.default, large)
    q = b.call(aten.slice.Tensor, b.call(aten.silu.default, large), 0, 0, 1)
    k, v = b.call(aten.tanh.default, x), b.call(aten.sin.default, x)
    given_program = program(b.done(b.call(aten.scaled_dot_product_attention.default, q, k, v)))
    result = run_pass(Schedule(), given_program, with_budget(None), "exact")
    assert peak_activation_bytes(result.program) <= peak_activation_bytes(given_program)


@pytest.mark.parametrize("name", EXAMPLES)
def test_loops_pass_through(name: str) -> None:
    for graph in EXAMPLES[name]():
        run_pass(Schedule(), program(graph), with_budget(None), "exact")


@quick
@given(programs())
def test_any_network_needs_no_more_memory(network: Program) -> None:
    result = run_pass(Schedule(), network, with_budget(None), "exact")
    assert peak_activation_bytes(result.program) <= peak_activation_bytes(network)
