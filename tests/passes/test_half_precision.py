"""``half-precision``: Before and Expected, what stays wide, and how near the result is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.graph_builder import Builder, aten
from tests.passes.engine import a18
from tests.passes.support import body, body_of, program
from tests.sliced_examples import EXAMPLES
from vgcomp import ir
from vgcomp.backends.torch_module import TorchModule
from vgcomp.check import load_weights, random_inputs
from vgcomp.passes.half_precision import HalfPrecision
from vgcomp.passes.unroll_loops import UnrollLoops
from vgcomp.program import Program
from vgcomp.verify import verify
from vgcomp.weights import from_tensor


def halved(given: Program) -> Program:
    result = HalfPrecision().run(given, a18())
    verify(result.program)
    again = HalfPrecision().run(result.program, a18())
    assert not again.changed
    return result.program


def test_angles_stay_wide_and_the_rest_is_fp16() -> None:
    b = Builder()
    t, x = b.input("t", ()), b.input("x", (2, 3))
    freqs, w = b.weight("freqs", (1, 3)), b.weight("w", (3, 3))
    wave = b.call(aten.sin.default, b.call(aten.mul.Tensor, t, freqs))
    out = b.call(aten.add.Tensor, b.call(aten.linear.default, wave, w), x)
    assert body_of(halved(program(b.done(out)))) == body(
        """
        %t : f32[] = input
        %x : f16[2, 3] = input
        %freqs : f32[1, 3] = weight 'freqs'
        %w : f16[3, 3] = weight 'w'
        %mul_tensor : f32[1, 3] = mul.Tensor(%t, %freqs)
        %sin_default : f32[1, 3] = sin(%mul_tensor)
        %convert_element_type_default : f16[1, 3] = convert_element_type(%sin_default, float16)
        %linear_default : f16[1, 3] = linear(%convert_element_type_default, %w)
        %add_tensor : f16[2, 3] = add.Tensor(%linear_default, %x)
        return [%add_tensor]
        """
    )


def test_conversions_that_change_nothing_go() -> None:
    b = Builder()
    x = b.input("x", (4,), torch.float16)
    wide = b.call(ir.prims.convert_element_type.default, x, torch.float32)
    wide = b.call(aten.exp.default, wide)
    made = halved(program(b.done(b.call(ir.prims.convert_element_type.default, wide, torch.float16))))
    assert [node.target for node in made.graph.nodes if node.op == "call_function"] == [aten.exp.default]


def test_bounds_that_fp16_does_not_hold_are_brought_into_it() -> None:
    b = Builder()
    made = halved(program(b.done(b.call(aten.clamp.default, b.input("x", (4,)), 1e-12, 1e30))))
    (node,) = [node for node in made.graph.nodes if node.target is aten.clamp.default]
    assert 0.0 < node.args[1] < 1e-4  # type: ignore[operator]
    assert node.args[2] == 65504.0


def test_weights_are_converted_when_they_are_loaded(tmp_path: Path) -> None:
    b = Builder()
    x = b.input("x", (2, 3))
    graph = b.done(b.call(aten.linear.default, x, b.weight("w", (4, 3))))
    values = torch.randn(4, 3)
    given = program(graph)
    given.weights["w"] = from_tensor("w", values)
    made = halved(given)
    assert torch.equal(made.weights["w"].load(), values.half())
    made.save(tmp_path / "half")
    assert torch.equal(Program.load(tmp_path / "half").weights["w"].load(), values.half())
    assert not halved(program(graph)).weights["w"].present


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_statistics_of_unrolled_slices_stay_wide(name: str) -> None:
    _, sliced = EXAMPLES[name]()
    given = UnrollLoops().run(program(sliced), a18()).program
    made = halved(given)
    inputs, weights = random_inputs(given), load_weights(given)
    (wanted, *_) = TorchModule(given, weights=weights)(*inputs)
    half = {key: value.half() for key, value in weights.items()}
    (found, *_) = TorchModule(made, weights=half)(*(value.half() for value in inputs))
    assert float((found.float() - wanted).abs().max() / wanted.abs().max()) < 1e-2


def test_sliced_programs_are_left_alone() -> None:
    _, sliced = EXAMPLES["frames"]()
    result = HalfPrecision().run(program(sliced), a18())
    assert (result.changed, "unroll-loops" in result.explanations[0].reason) == (False, True)
