"""``assign-buffers``: Before and Expected, bit for bit the same, and less memory where a value dies in an op."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.graph_builder import Builder, aten
from tests.passes.support import body, body_of, program, run_pass, with_budget
from tests.properties.graphs import programs, quick, tracked_peak
from tests.sliced_examples import EXAMPLES
from vgcomp.memory import peak_activation_bytes
from vgcomp.passes.assign_buffers import AssignBuffers
from vgcomp.program import Program

BEFORE = body("""
    %x : f32[4, 6] = input
    %w : f32[6, 6] = weight 'w'
    %linear_default : f32[4, 6] = linear(%x, %w)
    %silu_default : f32[4, 6] = silu(%linear_default)
    %mul_tensor : f32[4, 6] = mul.Tensor(%x, %silu_default)
    %add_tensor : f32[4, 6] = add.Tensor(%mul_tensor, %silu_default)
    return [%add_tensor]
""")

EXPECTED = body("""
    %x : f32[4, 6] = input
    %w : f32[6, 6] = weight 'w'
    %linear_default : f32[4, 6] = linear(%x, %w)
    %silu_default : f32[4, 6] = silu(%linear_default)  # over argument 0
    %mul_tensor : f32[4, 6] = mul.Tensor(%x, %silu_default)
    %add_tensor : f32[4, 6] = add.Tensor(%mul_tensor, %silu_default)  # over argument 0
    return [%add_tensor]
""")


def gate() -> Program:
    b = Builder()
    x, w = b.input("x", (4, 6)), b.weight("w", (6, 6))
    y = b.call(aten.silu.default, b.call(aten.linear.default, x, w))
    return program(b.done(b.call(aten.add.Tensor, b.call(aten.mul.Tensor, x, y), y)))


def test_ops_write_over_what_dies_in_them() -> None:
    before = gate()
    assert body_of(before) == BEFORE
    result = run_pass(AssignBuffers(), before, with_budget(None), "exact")
    assert body_of(result.program) == EXPECTED
    assert result.stats == {"in_place": 2}
    nbytes = 4 * 6 * 4
    assert (peak_activation_bytes(before), peak_activation_bytes(result.program)) == (4 * nbytes, 3 * nbytes)


def test_nothing_to_overwrite_changes_nothing() -> None:
    b = Builder()
    before = program(b.done(b.call(aten.neg.default, b.input("x", (4, 6)))))
    assert not run_pass(AssignBuffers(), before, with_budget(None), "exact").changed


@pytest.mark.parametrize("name", EXAMPLES)
def test_loops_pass_through(name: str) -> None:
    for graph in EXAMPLES[name]():
        run_pass(AssignBuffers(), program(graph), with_budget(None), "exact")


@quick
@given(programs())
def test_any_network_needs_what_is_predicted_and_no_more(network: Program) -> None:
    result = run_pass(AssignBuffers(), network, with_budget(None), "exact").program
    assert peak_activation_bytes(result, workspace="cpu") == tracked_peak(result)
    assert peak_activation_bytes(result) <= peak_activation_bytes(network)
