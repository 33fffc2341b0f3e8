"""Kernels for GPUs on an emulated device: tiles that do not divide, long rows, all sides' layouts; small networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import fx

from tests.backends.tvm.support import TOLERANCE, Compiled, program_of, relative_error, weights_of
from tests.graph_builder import Builder, aten, own
from vgcomp import check, ir
from vgcomp.backends.torch_module import TorchModule, run_graph
from vgcomp.backends.tvm.lower import lower
from vgcomp.errors import ModelError
from vgcomp.models import build

#: Largest difference over the largest value; bfloat16 has eight bits.
LIMITS = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def _graph(dtype: torch.dtype) -> fx.Graph:
    """Every kind of kernel that is written with its threads, at sizes of several tiles that tiles do not divide."""
    b = Builder()

    def x(name: str, *shape: int) -> fx.Node:
        return b.input(name, shape, dtype)

    ones, none = [1, 1], [0, 0]
    image, filters, bias = x("image", 2, 35, 13, 17), x("filters", 70, 35, 3, 3), x("bias", 70)
    rows, weight = x("rows", 2, 67, 50), x("weight", 130, 50)
    left, right = x("left", 3, 1, 66, 40), x("right", 5, 40, 71)
    q, k, v = x("q", 2, 3, 70, 40), x("k", 2, 3, 130, 40), x("v", 2, 3, 130, 24)
    deep = [x(name, 1, 1, 20, 512) for name in ("dq", "dk", "dv")]
    mask = b.input("mask", (70, 130), torch.bool)
    attention = aten.scaled_dot_product_attention.default
    made = [
        b.call(aten.convolution.default, image, filters, bias, ones, ones, ones, False, none, 1),
        b.call(aten.convolution.default, image, filters, None, [2, 2], ones, [2, 1], False, none, 1),
        b.call(aten.convolution.default, image, x("back", 35, 20, 3, 3), None, [2, 2], ones, ones, True, none, 1),
        b.call(aten.convolution.default, image, x("each", 35, 1, 3, 3), None, ones, ones, ones, False, none, 35),
        b.call(aten.linear.default, rows, weight, x("shift", 130)),
        b.call(aten.linear.default, b.call(aten.permute.default, x("turned", 2, 50, 67), [0, 2, 1]), weight, None),
        b.call(aten.matmul.default, left, right),
        b.call(aten.matmul.default, rows, x("vector", 50)),
        b.call(attention, q, k, v),
        b.call(attention, q, k, v, mask),
        b.call(attention, q, q, q, None, 0.0, True),
        b.call(attention, *deep),
        b.call(own.attention_partial.default, q, k, v, 0.2),
        b.call(aten.softmax.int, x("long", 5, 1000), -1),
        b.call(aten.layer_norm.default, x("wide", 3, 7, 700), [700], x("lw", 700), x("lb", 700), 1e-5),
        b.call(aten.group_norm.default, x("groups", 2, 12, 19, 23), 3, x("gw", 12), x("gb", 12), 1e-5),
        b.call(aten.mean.dim, x("sums", 4, 5, 600), [2], False),
    ]
    return b.done(*made)


@pytest.mark.parametrize("dtype", LIMITS, ids=["fp32", "fp16", "bf16"])
def test_tiles_that_do_not_divide(dtype: torch.dtype, tmp_path: Path) -> None:
    graph = _graph(dtype)
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for node in graph.nodes:
        if node.op == "placeholder":
            value = torch.randn(ir.val(node).shape, generator=generator)
            inputs.append(value > -0.5 if ir.val(node).dtype == torch.bool else value.to(dtype))
    wanted = run_graph(graph, inputs, {})
    names = [f"out_{i}" for i in range(len(wanted))]
    found = Compiled(program_of(graph, names), tmp_path, "cuda")(inputs, {})
    wrong = {
        name: error
        for name, a, b in zip(names, found, wanted, strict=True)
        if not (error := relative_error([a], [b])) <= LIMITS[dtype]
    }
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype"), [("wan-1.3b-small", torch.float16), ("ltx-video-small", torch.float32)])
def test_small_networks_on_an_emulated_device(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    program = build(name, dtype="fp16" if dtype == torch.float16 else "fp32", weights="random")
    inputs = check.random_inputs(program)
    found = Compiled(program, tmp_path, "cuda")(inputs, weights_of(program))
    assert relative_error(found, TorchModule(program)(*inputs)) < TOLERANCE[dtype]


def test_heads_too_deep_for_shared_memory_are_refused() -> None:
    b = Builder()
    q = b.input("q", (1, 1, 64, 4096))
    program = program_of(b.done(b.call(aten.scaled_dot_product_attention.default, q, q, q)))
    with pytest.raises(ModelError, match="4096 channels a head"):
        lower(program, "cuda")
