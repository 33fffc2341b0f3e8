"""How outputs of bodies are put out: in place wherever that is safe, and only there."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from tests.sliced_examples import EXAMPLES
from vgcomp import ir
from vgcomp.loops import Put, plan_outputs, storage_root


def puts_of(name: str, loop: int = 0) -> tuple[tuple[Put, ...], ...]:
    _, graph = EXAMPLES[name]()
    return plan_outputs([node for node in graph.nodes if ir.is_loop(node)][loop])


def hows(puts: tuple[tuple[Put, ...], ...]) -> list[list[str]]:
    return [[put.how for put in body] for body in puts]


@pytest.mark.parametrize(
    ("name", "loop", "expected"),
    [
        ("frames", 0, [["direct"]]),
        ("frames-in-place", 0, [["direct"]]),
        ("rows-with-carries", 0, [["direct", "copy", "copy"], ["direct", "copy", "copy"], ["direct"]]),
        ("norm-in-two-loops", 0, [["merge"]]),
        ("growing-in-place", 0, [["direct"]]),
        ("growing-in-place", 1, [["late"]]),
        ("inner-factor", 0, [["write"]]),
        ("residual-in-place", 0, [["direct"]]),
        ("rows-in-place", 0, [["direct", "keep"], ["direct", "keep"], ["direct"]]),
        # Its carry is read from the operand after the sum is made: the sum has to wait.
        ("rows-in-place-late-carry", 0, [["late", "keep"], ["late", "keep"], ["direct"]]),
    ],
)
def test_outputs(name: str, loop: int, expected: list[list[str]]) -> None:
    assert hows(puts_of(name, loop)) == expected


def test_storage_root_follows_results_into_operands() -> None:
    _, graph = EXAMPLES["residual-in-place"]()
    out: fx.Node = graph.output_node().args[0][0]  # type: ignore[union-attr,index,assignment]
    assert storage_root(out)[0].target is torch.ops.aten.mul.Tensor
