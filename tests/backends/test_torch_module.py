"""The runtime computes what the plain graph computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.graph_builder import Builder, aten, random_inputs, random_weights, slice_of, spans
from tests.sliced_examples import EXAMPLES
from tests.test_simulate import program_of
from vgcomp import ir
from vgcomp.backends.torch_module import TorchModule, run_graph
from vgcomp.errors import ModelError, UsageError
from vgcomp.inplace import can_reuse
from vgcomp.weights import from_tensor

#: The others go through a vectorised `silu`, whose last few elements of a slice may differ in the last bit.
EXACT = {"frames", "frames-in-place"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_loop_equals_plain_graph(name: str) -> None:
    plain, sliced = EXAMPLES[name]()
    inputs, weights = random_inputs(plain), random_weights(plain)
    kept = [value.clone() for value in inputs]
    (want,) = run_graph(plain, inputs, weights)
    (got,) = run_graph(sliced, inputs, weights)
    assert all(torch.equal(a, b) for a, b in zip(kept, inputs)), "inputs are the caller's"
    assert got.shape == want.shape
    if name in EXACT:
        assert torch.equal(got, want)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EXAMPLES)
def test_runs_under_inference_mode(name: str) -> None:
    plain, sliced = EXAMPLES[name]()
    inputs, weights = random_inputs(plain), random_weights(plain)
    with torch.inference_mode():
        torch.testing.assert_close(
            run_graph(sliced, inputs, weights), run_graph(plain, inputs, weights), atol=1e-5, rtol=1e-5
        )


UNARY = {
    aten.pow.Tensor_Scalar: (2,),
    aten.clamp.default: (-0.5, 0.5),
    aten.leaky_relu.default: (0.1,),
    aten.hardtanh.default: (-0.5, 0.5),
}
BINARY = {
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.maximum.default,
    aten.minimum.default,
}
KEEPS_DTYPE = sorted(
    (op for op in ir.POINTWISE_OPS if (can_reuse(op) and "Scalar" not in op._overloadname) or op in UNARY), key=str
)


@pytest.mark.parametrize("target", KEEPS_DTYPE, ids=str)
def test_reuse_writes_over_the_argument(target: torch._ops.OpOverload) -> None:
    outs = []
    for reuse in (None, 1 if target in BINARY or target is aten.where.self else 0):
        b = Builder()
        x, z = b.input("x", (3, 5)), b.input("z", (3, 5))
        y = b.call(aten.add.Tensor, b.call(aten.abs.default, x), 0.1)
        if target is aten.where.self:
            out = b.call(target, b.call(aten.gt.Scalar, z, 0.0), y, z, reuse=reuse)
        elif target in BINARY:
            out = b.call(target, z, y, reuse=reuse)
        else:
            out = b.call(target, y, *UNARY.get(target, ()), reuse=reuse)
        graph = b.done(y, out) if reuse is not None else b.done(out)
        outs.append(run_graph(graph, random_inputs(graph), {}))
    (want,), (base, got) = outs
    assert torch.equal(want, got)
    assert base.data_ptr() == got.data_ptr()


def test_wrong_inputs_are_named() -> None:
    module = TorchModule(program_of(EXAMPLES["growing-in-place"]()[1]))
    with pytest.raises(UsageError, match="1 inputs wanted"):
        module()
    with pytest.raises(UsageError, match=r"'x' must be torch.float32 of shape \(4, 3, 6, 6\)"):
        module(torch.zeros(4, 3, 6, 7))


def test_absent_weights_must_be_given() -> None:
    program = program_of(EXAMPLES["frames"]()[1])
    with pytest.raises(ModelError, match="'w1' has no data"):
        TorchModule(program)
    module = TorchModule(program, weights=random_weights(program.graph))
    assert {buffer.shape for buffer in module.buffers()} == {torch.Size((8, 4, 3, 3)), torch.Size((4, 8, 3, 3))}


def test_weights_inside_bodies_are_loaded() -> None:
    b = Builder()
    x = b.input("x", (4, 8))
    axis = ir.Axis(0, 4)
    inner = Builder()
    part, w = inner.value("part", slice_of(x, axis, (0, 2))), inner.weight("w", (8,))
    body = ir.Body(inner.done(inner.call(aten.mul.Tensor, part, w)), (0,), (0,))
    steps = tuple(ir.Step(0, (span,), (span,)) for span in spans(4, 2))
    loop = ir.Loop("scale", (body,), steps, (axis,), (ir.Result((4, 8), torch.float32, axis),))
    weight = from_tensor("w", torch.arange(8.0))
    program = replace(program_of(b.done(*b.loop(loop, [x]))), weights={"w": weight})
    (out,) = TorchModule(program)(torch.ones(4, 8))
    assert torch.equal(out, torch.arange(8.0).expand(4, 8))


def test_results_keep_the_strides_asked_for() -> None:
    b = Builder()
    x = b.input("x", (3, 4, 5))
    axis = ir.Axis(1, 4)
    inner = Builder()
    body = ir.Body(inner.done(inner.call(aten.exp.default, inner.value("part", slice_of(x, axis, (0, 2))))), (0,), (0,))
    steps = tuple(ir.Step(0, (span,), (span,)) for span in spans(4, 2))
    result = ir.Result((3, 4, 5), torch.float32, axis, stride=(5, 15, 1))
    graph = b.done(*b.loop(ir.Loop("exp", (body,), steps, (axis,), (result,)), [x]))
    (value,) = random_inputs(graph)
    (out,) = run_graph(graph, [value], {})
    assert out.stride() == (5, 15, 1)
    torch.testing.assert_close(out, value.exp())
