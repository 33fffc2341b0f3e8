"""``slice-and-group``: Before and Expected, the budget held, and a clear answer where it cannot be."""

from __future__ import annotations

import pytest
from torch import fx

from tests.graph_builder import Builder, aten
from tests.passes.support import body, body_of, program, run_pass, with_budget
from vgcomp import ir
from vgcomp.errors import Infeasible
from vgcomp.memory import peak_activation_bytes
from vgcomp.passes.slice_and_group import SliceAndGroup
from vgcomp.program import Program

BEFORE = body("""
    %x : f32[1, 2, 3, 8, 16] = input
    %up : f32[8, 2, 3, 1, 1] = weight 'up'
    %down : f32[2, 8, 3, 1, 1] = weight 'down'
    %convolution_default : f32[1, 8, 3, 8, 16] = convolution(%x, %up, None, [1, 1, 1], [1, 0, 0], [1, 1, 1], \
False, [0, 0, 0], 1)
    %group_norm_default : f32[1, 8, 3, 8, 16] = group_norm(%convolution_default, 4)
    %silu_default : f32[1, 8, 3, 8, 16] = silu(%group_norm_default)
    %convolution_default_1 : f32[1, 2, 3, 8, 16] = convolution(%silu_default, %down, None, [1, 1, 1], [1, 0, 0], \
[1, 1, 1], False, [0, 0, 0], 1)
    return [%convolution_default_1]
""")

# Rows, along which neither convolution has a window: the statistics of all of them first, then everything at once.
EXPECTED = body("""
    %x : f32[1, 2, 3, 8, 16] = input
    %up : f32[8, 2, 3, 1, 1] = weight 'up'
    %down : f32[2, 8, 3, 1, 1] = weight 'down'
    %loop_0 : (f32[3, 1, 4]) = sliced(%x, %up)
      loop 'loop_0': 2 steps, 1 bodies  # statistics of group_moments_default
      operand 0: dim 3 x 8
      result 0: f32[3, 1, 4], combined by moments
      step 0: body 0, reads [0:4, -], writes [-]
      step 1: body 0, reads [4:8, -], writes [-]
      body 0: operands [0, 1], results [0]
        %x : f32[1, 2, 3, 4, 16]{768, 384, 128, 16, 1} = input
        %up : f32[8, 2, 3, 1, 1] = input
        %convolution_default : f32[1, 8, 3, 4, 16] = convolution(%x, %up, None, [1, 1, 1], [1, 0, 0], [1, 1, 1], \
False, [0, 0, 0], 1)
        %group_moments_default : f32[3, 1, 4] = vgcomp.group_moments(%convolution_default, 4)
        return [%group_moments_default]
    %group_moments_default : f32[3, 1, 4] = getitem(%loop_0, 0)
    %loop_1 : (f32[1, 2, 3, 8, 16]) = sliced(%x, %up, %group_moments_default, %down)
      loop 'loop_1': 2 steps, 1 bodies
      operand 0: dim 3 x 8
      result 0: f32[1, 2, 3, 8, 16], dim 3 x 8
      step 0: body 0, reads [0:4, -, -, -], writes [0:4]
      step 1: body 0, reads [4:8, -, -, -], writes [4:8]
      body 0: operands [0, 1, 2, 3], results [0]
        %x : f32[1, 2, 3, 4, 16]{768, 384, 128, 16, 1} = input
        %up : f32[8, 2, 3, 1, 1] = input
        %group_moments_default : f32[3, 1, 4] = input
        %down : f32[2, 8, 3, 1, 1] = input
        %convolution_default : f32[1, 8, 3, 4, 16] = convolution(%x, %up, None, [1, 1, 1], [1, 0, 0], [1, 1, 1], \
False, [0, 0, 0], 1)
        %group_norm_apply_default : f32[1, 8, 3, 4, 16] = vgcomp.group_norm_apply(%convolution_default, \
%group_moments_default, 4, None, None, 1e-05)  # over argument 0
        %silu_default : f32[1, 8, 3, 4, 16] = silu(%group_norm_apply_default)  # over argument 0
        %convolution_default_1 : f32[1, 2, 3, 4, 16] = convolution(%silu_default, %down, None, [1, 1, 1], [1, 0, 0], \
[1, 1, 1], False, [0, 0, 0], 1)
        return [%convolution_default_1]
    %convolution_default_1 : f32[1, 2, 3, 8, 16] = getitem(%loop_1, 0)
    return [%convolution_default_1]
""")


def norm_over_video() -> Program:
    """A norm over frames, height and width between two convolutions over time."""
    b = Builder()
    x, up, down = b.input("x", (1, 2, 3, 8, 16)), b.weight("up", (8, 2, 3, 1, 1)), b.weight("down", (2, 8, 3, 1, 1))
    h = b.call(aten.group_norm.default, b.conv(x, up, (1, 0, 0)), 4)
    return program(b.done(b.conv(b.call(aten.silu.default, h), down, (1, 0, 0))))


def budget(given: Program, share: float) -> int:
    return given.weight_bytes() + int(share * peak_activation_bytes(given))


def test_a_norm_between_two_windows_is_sliced_where_there_are_none() -> None:
    before = norm_over_video()
    assert body_of(before) == BEFORE
    result = run_pass(SliceAndGroup(), before, with_budget(budget(before, 0.6)), "reassociated")
    assert body_of(result.program) == EXPECTED
    assert result.stats["regions"] == 1
    assert result.stats["loops"] == 2
    (explanation,) = result.explanations
    assert "2 slices of dimension 3" in explanation.reason


def frames() -> fx.Graph:
    """Images widened and narrowed again, each by itself."""
    b = Builder()
    x, up, down = b.input("x", (8, 2, 16, 16)), b.weight("up", (16, 2, 3, 3)), b.weight("down", (2, 16, 3, 3))
    return b.done(b.conv(b.call(aten.silu.default, b.conv(x, up, (1, 1))), down, (1, 1)))


def tokens() -> fx.Graph:
    """Attention over pixels, and a feed-forward layer."""
    b = Builder()
    x, w = b.input("x", (1, 64, 8)), [b.weight(name, (8, 8)) for name in "qkvo"]
    up, down = b.weight("up", (64, 8)), b.weight("down", (8, 64))
    linear = aten.linear.default
    q, k, v = (
        b.call(aten.permute.default, b.call(aten.reshape.default, b.call(linear, x, m), [1, 64, 2, 4]), [0, 2, 1, 3])
        for m in w[:3]
    )
    y = b.call(aten.scaled_dot_product_attention.default, q, k, v)
    y = b.call(aten.reshape.default, b.call(aten.permute.default, y, [0, 2, 1, 3]), [1, 64, 8])
    x = b.call(aten.add.Tensor, x, b.call(linear, y, w[3]))
    return b.done(b.call(aten.add.Tensor, x, b.call(linear, b.call(aten.gelu.default, b.call(linear, x, up)), down)))


@pytest.mark.parametrize("share", [0.5, 0.4, 0.3])
@pytest.mark.parametrize("make", [frames, tokens])
def test_the_budget_is_held(make: object, share: float) -> None:
    given = program(make())  # type: ignore[operator]
    result = run_pass(SliceAndGroup(), given, with_budget(budget(given, share)), "reassociated")
    assert result.changed
    assert peak_activation_bytes(result.program) <= share * peak_activation_bytes(given)
    assert result.stats["peak_activation_bytes"] == peak_activation_bytes(result.program)
    assert any(ir.is_loop(node) for node in result.program.graph.nodes)


def test_without_a_budget_or_with_a_large_one_nothing_is_sliced() -> None:
    given = program(frames())
    assert not run_pass(SliceAndGroup(), given, with_budget(None), "exact").changed
    result = run_pass(SliceAndGroup(), given, with_budget(budget(given, 1.0)), "exact")
    assert not result.changed
    assert "fit the budget as they are" in result.explanations[0].reason


def test_a_sliced_program_is_not_sliced_again() -> None:
    given = program(frames())
    sliced = run_pass(SliceAndGroup(), given, with_budget(budget(given, 0.4)), "reassociated").program
    result = run_pass(SliceAndGroup(), sliced, with_budget(budget(given, 0.3)), "exact")
    assert not result.changed
    assert "sliced already" in result.explanations[0].reason


@pytest.mark.parametrize("memory", [1, 4000])
def test_an_impossible_budget_is_answered_with_the_smallest(memory: int) -> None:
    given = program(frames())
    with pytest.raises(Infeasible) as caught:
        SliceAndGroup().run(given, with_budget(memory))
    smallest = caught.value.smallest_bytes
    assert smallest is not None
    assert memory < smallest < budget(given, 1.0)
    assert "\n" not in str(caught.value)
    # What it names can be had.
    run_pass(SliceAndGroup(), given, with_budget(smallest), "reassociated")


def test_every_region_and_the_highest_ops_are_explained() -> None:
    given = program(frames())
    result = SliceAndGroup().run(given, with_budget(budget(given, 0.4)))
    assert result.explanations
    names = {node.name for node in given.graph.nodes}
    assert {e.node for e in result.explanations} <= names
    assert all(e.pass_name == "slice-and-group" and "\n" not in e.reason for e in result.explanations)
