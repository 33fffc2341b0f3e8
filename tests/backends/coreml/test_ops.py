"""Every op of the dialect as Core ML's own: built, read back from its bytes, and beside torch in double precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx

from tests.backends.coreml.support import interpreted, legal
from tests.graph_builder import Builder, aten
from tests.op_cases import CASES, covered_ops, make_case
from tests.passes.support import program
from tests.sliced_examples import EXAMPLES
from vgcomp import ir
from vgcomp.axes import operands
from vgcomp.backends.coreml import build
from vgcomp.backends.coreml.build import check_program
from vgcomp.backends.coreml.registry import EMITTERS
from vgcomp.backends.torch_module import run_graph
from vgcomp.check import load_weights, random_inputs
from vgcomp.errors import ModelError
from vgcomp.program import Program
from vgcomp.weights import from_tensor

#: Core ML has no such op, and a package has inputs.
REFUSED = {
    "max_pool2d: dilation": "no max pooling with dilation",
    "conv1d: dilation": "weights are computed",
    "conv1d: stride and dilation": "weights are computed",
}
#: A package has inputs; a Program's dims are spelled out.
NO_PROGRAM = {"full", "permute: negative", "slice: defaults"}


def test_every_op_has_an_emitter_and_a_case() -> None:
    assert set(EMITTERS) >= ir.DIALECT
    assert covered_ops() >= ir.DIALECT - {aten.full.default}


@pytest.mark.parametrize("name", sorted(set(CASES) - set(REFUSED) - NO_PROGRAM))
def test_an_op_is_what_torch_computes(name: str, tmp_path: Path) -> None:
    case = make_case(name)
    values = [value.half().to(value.dtype) if value.is_floating_point() else value for value in case.values()]
    wanted = case.run(values)
    given = dict(zip(case.node.all_input_nodes, _distinct(case.node, values), strict=True))
    inputs = [given.get(x, torch.zeros(ir.val(x).shape)) for x in case.inputs]
    (found,) = interpreted(legal(program(case.node.graph)), inputs, tmp_path)
    _close(found.reshape(wanted.shape), wanted)


def _distinct(node: fx.Node, values: list[Tensor]) -> list[Tensor]:
    """One value an operand, though the op reads it twice."""
    seen = dict(zip(operands(node), values, strict=True))
    return [seen[x] for x in node.all_input_nodes]


def _close(found: Tensor, wanted: Tensor) -> None:
    scale = float(wanted.double().nan_to_num(0.0).abs().max()) or 1.0
    torch.testing.assert_close(found.double(), wanted.double(), rtol=0.0, atol=1e-2 * scale, equal_nan=True)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_has_no_form_is_refused_by_name(name: str) -> None:
    with pytest.raises(ModelError, match=REFUSED[name]):
        build.build_package(legal(program(make_case(name).node.graph)))


@pytest.mark.parametrize("size", [(5,), (5, 3), (3, 5, 3)], ids=["1d", "2d", "3d"])
def test_convolutions_with_constant_weights_dilate(size: tuple[int, ...], tmp_path: Path) -> None:
    b = Builder()
    n = len(size)
    x, w = b.input("x", (2, 3, *(9, 8, 7)[:n])), b.weight("w", (4, 3, *size))
    twos, ones = [2] * n, [1] * n
    out = b.call(aten.convolution.default, x, w, None, ones, [s - 1 for s in size], twos, False, [0] * n, 1)
    given = program(b.done(out))
    inputs, weights = random_inputs(given), load_weights(given)
    (wanted,) = run_graph(given.graph, inputs, weights)
    (found,) = interpreted(legal(_with_data(given, weights)), inputs, tmp_path)
    _close(found, wanted)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_sliced_graphs_are_unrolled(name: str, tmp_path: Path) -> None:
    plain, sliced = EXAMPLES[name]()
    given = program(sliced)
    inputs, weights = random_inputs(given), load_weights(given)
    wanted = run_graph(plain, inputs, weights)
    bound = _with_data(given, weights)
    for found, value in zip(interpreted(legal(bound), inputs, tmp_path), wanted, strict=True):
        _close(found.reshape(value.shape), value)


def _with_data(given: Program, weights: dict[str, Tensor]) -> Program:
    return replace(given, weights={name: from_tensor(name, value) for name, value in weights.items()})


def test_loops_and_high_ranks_are_refused_with_the_pass_that_helps() -> None:
    _, sliced = EXAMPLES["frames"]()
    with pytest.raises(ModelError, match="unroll-loops comes before"):
        check_program(program(sliced))
    b = Builder()
    x = b.input("x", (2, 2, 2, 2, 2, 2), torch.float16)
    with pytest.raises(ModelError, match="x has 6 dimensions and Core ML takes 5"):
        check_program(program(b.done(b.call(aten.neg.default, x))))
