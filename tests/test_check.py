"""The checker passes what is equal, fails what is not, and says why it skipped."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from tests.graph_builder import Builder, aten
from tests.sliced_examples import EXAMPLES
from tests.test_simulate import program_of
from vgcomp.capture import capture
from vgcomp.check import check, load_weights, random_weight
from vgcomp.errors import ModelError
from vgcomp.program import Program


def scaled(factor: float) -> fx.Graph:
    b = Builder()
    return b.done(b.call(aten.mul.Tensor, b.input("x", (4, 5)), factor))


@pytest.mark.parametrize("name", EXAMPLES)
def test_sliced_examples_pass(name: str) -> None:
    plain, sliced = EXAMPLES[name]()
    result = check(program_of(plain), program_of(sliced))
    assert result.status == "passed", result.reason
    assert result.max_rel_error is not None
    assert result.max_rel_error < 1e-6


def test_exact_is_bit_for_bit() -> None:
    almost = program_of(scaled(1.0 + 1e-6))
    assert check(program_of(scaled(1.0)), almost, equivalence="exact").status == "failed"
    assert check(program_of(scaled(1.0)), almost).status == "passed"


def test_failure_names_output_and_size() -> None:
    result = check(program_of(scaled(1.0)), program_of(scaled(1.5)))
    assert result.status == "failed"
    assert result.max_rel_error == pytest.approx(0.5)
    assert "'out'" in result.reason


def test_skips_what_does_not_fit() -> None:
    program = program_of(scaled(1.0))
    result = check(program, program, memory_limit=100)
    assert (result.status, result.max_abs_error, result.shape) == ("skipped", None, (4, 5))
    assert "100" in result.reason


def test_other_interface_is_refused() -> None:
    b = Builder()
    other = b.done(b.call(aten.mul.Tensor, b.input("x", (4, 6)), 1.0))
    with pytest.raises(ModelError, match="inputs"):
        check(program_of(scaled(1.0)), program_of(other))


def test_absent_weights_are_random_and_shared() -> None:
    plain, sliced = (program_of(graph) for graph in EXAMPLES["norm-in-two-loops"]())
    weights = load_weights(plain, sliced)
    assert set(weights) == {"scale", "shift"}
    assert all((value != 0).all() for value in weights.values())
    assert torch.equal(random_weight("w", (3, 4), torch.float32), random_weight("w", (3, 4), torch.float32))
    assert not torch.equal(random_weight("w", (3, 4), torch.float32), random_weight("v", (3, 4), torch.float32))


def test_equal_names_of_different_weights_are_no_agreement() -> None:
    def with_weight(value: float) -> Program:
        module = torch.nn.Linear(4, 4, bias=False)
        torch.nn.init.constant_(module.weight, value)
        return capture(module, (torch.randn(2, 4),))

    assert check(with_weight(1.0), with_weight(1.0)).status == "passed"
    assert check(with_weight(1.0), with_weight(2.0)).status == "failed"
