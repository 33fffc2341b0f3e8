"""``canonicalize``: Before and Expected, bit for bit the same, and nothing left for a second run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import fx

from tests.graph_builder import Builder, aten, slice_of, spans
from tests.passes.test_pipeline import context
from tests.sliced_examples import EXAMPLES
from tests.test_simulate import program_of
from vgcomp import ir
from vgcomp.check import check
from vgcomp.passes.base import PassResult
from vgcomp.passes.canonicalize import Canonicalize
from vgcomp.program import Program


def run(graph: fx.Graph) -> tuple[Program, PassResult]:
    """The program before, and the result; holds the pass to being exact and idempotent on the way."""
    program = program_of(graph)
    program = replace(program, output_names=tuple(f"out{i}" for i in range(len(program.outputs))))
    result = Canonicalize().run(program, context())
    assert check(program, result.program, equivalence="exact").status == "passed"
    again = Canonicalize().run(result.program, context())
    assert not again.changed, again.stats
    assert again.program is result.program
    return program, result


def targets(program: Program) -> list[str]:
    return [str(node.target).split(".")[1] for node in program.graph.nodes if node.op == "call_function"]


def test_dead_nodes_go_but_inputs_stay() -> None:
    b = Builder()
    x = b.input("x", (4, 8))
    b.input("unused", (2,))
    b.call(aten.exp.default, b.call(aten.neg.default, x))
    _, result = run(b.done(b.call(aten.abs.default, x)))
    assert targets(result.program) == ["abs"]
    assert result.program.input_names == ("x", "unused")
    assert result.stats["dead"] == 2


def test_views_that_change_nothing_go() -> None:
    b = Builder()
    x = b.call(aten.neg.default, b.input("x", (4, 8)))
    x = b.call(aten.slice.Tensor, x, 0, 0, 4)
    x = b.call(aten.permute.default, x, [0, 1])
    x = b.call(aten.reshape.default, x, [4, 8])
    x = b.call(aten.expand.default, x, [4, 8])
    _, result = run(b.done(b.call(aten.abs.default, x)))
    assert targets(result.program) == ["neg", "abs"]


def test_a_view_of_a_view_reads_the_base() -> None:
    b = Builder()
    x = b.call(aten.neg.default, b.input("x", (4, 8, 2)))
    x = b.call(aten.reshape.default, b.call(aten.reshape.default, x, [32, 2]), [8, 8])
    x = b.call(aten.permute.default, b.call(aten.permute.default, x, [1, 0]), [1, 0])
    _, result = run(b.done(b.call(aten.abs.default, x)))
    assert targets(result.program) == ["neg", "reshape", "abs"]


def test_a_reshape_that_copies_keeps_its_place() -> None:
    b = Builder()
    x = b.call(aten.permute.default, b.call(aten.neg.default, b.input("x", (4, 8))), [1, 0])
    x = b.call(aten.reshape.default, b.call(aten.reshape.default, x, [32]), [4, 8])
    _, result = run(b.done(b.call(aten.abs.default, x)))
    assert targets(result.program) == ["neg", "permute", "reshape", "reshape", "abs"]


def test_equal_views_merge_but_large_equal_results_do_not() -> None:
    b = Builder()
    x = b.input("x", (1024, 1024))
    one, two = (b.call(aten.reshape.default, x, [2048, 512]) for _ in range(2))
    large = [b.call(aten.neg.default, view) for view in (one, two)]
    _, result = run(b.done(*large))
    assert targets(result.program) == ["reshape", "neg", "neg"], "a merge would keep 4 MiB alive between its readers"


def test_small_equal_results_merge() -> None:
    b = Builder()
    x = b.input("x", (4, 8))
    _, result = run(b.done(b.call(aten.add.Tensor, *(b.call(aten.neg.default, x) for _ in range(2)))))
    assert targets(result.program) == ["neg", "add"]


def test_scalars_of_different_types_are_different() -> None:
    b = Builder()
    x = b.input("x", (4,), dtype=torch.int64)
    _, result = run(b.done(b.call(aten.mul.Tensor, x, 2), b.call(aten.mul.Tensor, x, 2.0)))
    assert targets(result.program) == ["mul", "mul"]


def test_an_input_is_not_returned_as_an_output() -> None:
    b = Builder()
    x = b.input("x", (4, 8))
    _, result = run(b.done(b.call(aten.reshape.default, x, [4, 8])))
    assert targets(result.program) == ["reshape"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_loops_pass_through(name: str) -> None:
    for graph in EXAMPLES[name]():
        run(graph)


@pytest.mark.parametrize("reader", ["loop", "op"])
def test_what_is_written_over_is_not_read_instead_of_its_equal(reader: str) -> None:
    """Two equal values; one of them dies in a loop, or an op, that writes over it."""
    b = Builder()
    x = b.input("x", (4, 8))
    one, two = b.call(aten.neg.default, x), b.call(aten.neg.default, x)
    if reader == "op":
        out = b.call(aten.exp.default, one, reuse=0)
    else:
        inner = Builder()
        part = inner.value("part", slice_of(one, ir.Axis(0, 4), (0, 2)))
        body = ir.Body(inner.done(inner.call(aten.exp.default, part)), (0,), (0,))
        steps = tuple(ir.Step(0, (span,), (span,)) for span in spans(4, 2))
        result = ir.Result((4, 8), torch.float32, ir.Axis(0, 4), into=0)
        (out,) = b.loop(ir.Loop("rows", (body,), steps, (ir.Axis(0, 4),), (result,)), [one])
    _, outcome = run(b.done(out, b.call(aten.abs.default, two)))
    assert not outcome.changed
