"""The runtime computes what the plain graph computes."""

from __future__ import annotations

import pytest
import torch

from tests.graph_builder import Builder, aten, random_inputs, random_weights
from tests.sliced_examples import EXAMPLES
from vgcomp import ir
from vgcomp.backends.torch_module import run_graph
from vgcomp.inplace import can_reuse

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
