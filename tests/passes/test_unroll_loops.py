"""``unroll-loops``: the same values without loops, and what a fixed example becomes."""

# ruff: noqa: E501 (expected text)
from __future__ import annotations

import pytest

from tests.passes.support import body, body_of, program, run_pass, with_budget
from tests.sliced_examples import EXAMPLES
from vgcomp import ir
from vgcomp.check import check
from vgcomp.passes.unroll_loops import UnrollLoops


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_the_unrolled_graph_computes_the_same(name: str) -> None:
    plain, sliced = EXAMPLES[name]()
    given = program(sliced)
    # Merges of statistics are spelled out, in another order of additions.
    result = run_pass(UnrollLoops(), given, with_budget(None), "reassociated")
    assert result.changed
    assert not any(ir.is_loop(node) for node in result.program.graph.nodes)
    assert check(program(plain), result.program).status == "passed"


def test_steps_become_ops_and_one_concatenation() -> None:
    _, sliced = EXAMPLES["frames"]()
    given = program(sliced)
    result = run_pass(UnrollLoops(), given, with_budget(None), "exact")
    assert result.stats == {"steps": 3}
    assert body_of(result.program).endswith(
        body(
            """
            %slice_tensor_2 : f32[2, 4, 16, 12] = slice.Tensor(%mul_tensor, 0, 4, 6)
            %convolution_default_4 : f32[2, 8, 16, 12] = convolution(%slice_tensor_2, %w1, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
            %silu_default_4 : f32[2, 8, 16, 12] = silu(%convolution_default_4)
            %convolution_default_5 : f32[2, 4, 16, 12] = convolution(%silu_default_4, %w2, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
            %silu_default_5 : f32[2, 4, 16, 12] = silu(%convolution_default_5)
            %cat_default : f32[6, 4, 16, 12] = cat([%silu_default_1, %silu_default_3, %silu_default_5], 0)
            return [%cat_default]
            """
        )
    ), body_of(result.program)


def test_a_program_without_loops_stays() -> None:
    plain, _ = EXAMPLES["frames"]()
    assert not run_pass(UnrollLoops(), program(plain), with_budget(None), "exact").changed
