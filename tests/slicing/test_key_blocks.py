"""Attention of few queries to many keys: the keys come block by block, made and dropped as they are read."""

from __future__ import annotations

from functools import cache

import pytest
from torch import fx

from tests.backends.test_onnx_export import make_program
from tests.graph_builder import Builder, aten
from tests.plans import measured, relative_error
from vgcomp import ir
from vgcomp.cost_models import AnalyticModel
from vgcomp.memory import peak_activation_bytes
from vgcomp.program import copy_graph
from vgcomp.slicing.engine import Slicer, Solution
from vgcomp.slicing.prepare import fuse_attentions, split_attentions
from vgcomp.targets import load_target
from vgcomp.verify import verify

CPU = load_target("cpu")
TOKENS, QUERIES, WIDTH = 2048, 16, 32


def pooled(queries: int = QUERIES) -> fx.Graph:
    """Learnt queries, projected, look at all the tokens of a clip, twice as wide in between."""
    b = Builder()
    tokens, asked = b.input("tokens", (1, TOKENS, WIDTH)), b.input("queries", (1, queries, WIDTH))
    up, down = b.weight("up", (2 * WIDTH, WIDTH)), b.weight("down", (WIDTH, 2 * WIDTH))
    keys, values = b.weight("keys", (WIDTH, WIDTH)), b.weight("values", (WIDTH, WIDTH))
    wide = b.call(aten.silu.default, b.call(aten.linear.default, tokens, up))
    x = b.call(aten.linear.default, wide, down)
    k, v = b.call(aten.linear.default, x, keys), b.call(aten.linear.default, x, values)
    return b.done(b.call(aten.scaled_dot_product_attention.default, asked, k, v))


@cache
def solved() -> tuple[Slicer, Solution]:
    slicer = Slicer(make_program(pooled()), CPU, AnalyticModel(CPU))
    solution = slicer.solve(int(1.3 * slicer.floor))
    assert solution is not None
    return slicer, solution


def combined(graph: fx.Graph) -> list[str]:
    loops = [ir.loop_of(node) for node in graph.nodes if ir.is_loop(node)]
    return [result.combine for loop in loops for result in loop.results if result.combine]


def test_keys_and_values_are_never_whole() -> None:
    slicer, solution = solved()
    assert combined(solution.program.graph) == ["softmax"]
    # Beside the inputs not even one of them would fit.
    assert solution.peak - slicer.floor < TOKENS * WIDTH * 4
    verify(solution.program)


def test_the_softmax_is_that_of_all_keys() -> None:
    slicer, solution = solved()
    wanted, found = measured(slicer.program), measured(solution.program)
    assert relative_error(found, wanted) <= 1e-5
    assert found.peak == pytest.approx(peak_activation_bytes(solution.program, workspace="cpu"), rel=0.02)


def test_attention_is_taken_apart_only_where_the_merged_part_is_small() -> None:
    assert split_attentions(pooled()) == 1
    assert split_attentions(pooled(queries=TOKENS)) == 0


def test_halves_that_no_loop_parts_become_one_again() -> None:
    graph = pooled()
    wanted = [str(node.target) for node in graph.nodes]
    again = copy_graph(graph)
    split_attentions(again)
    assert fuse_attentions(again) == 1
    again.lint()
    assert [str(node.target) for node in again.nodes] == wanted
