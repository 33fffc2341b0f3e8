"""Compiled chains: what is read and written once, and where a chain must end."""

import torch

from tests.graph_builder import Builder
from vgcomp import ir
from vgcomp.cost_models.fusion import fuse
from vgcomp.ir import aten
from vgcomp.simulate import node_work

F16 = torch.float16
SIZE = 64 * 32 * 2


def fused(graph):
    works = {node: work for node in graph.nodes if (work := node_work(node)) is not None}
    made = fuse(graph, works)
    return works, {node: work for node, work in made.items() if work is not None and work.kind != "view"}


def test_a_chain_reads_once_and_writes_once():
    b = Builder()
    x = b.input("x", (64, 32), F16)
    y = b.call(aten.silu.default, b.call(aten.mul.Tensor, x, 2.0))
    works, made = fused(b.done(b.call(aten.add.Tensor, y, x)))
    (work,) = made.values()
    assert (work.bytes_read, work.bytes_written) == (SIZE, SIZE)
    assert work.flops == sum(w.flops for w in works.values())


def test_what_is_used_elsewhere_is_written():
    b = Builder()
    x, w = b.input("x", (64, 32), F16), b.input("w", (32, 32), F16)
    y = b.call(aten.silu.default, x)
    z = b.call(aten.add.Tensor, y, 1.0)
    _, made = fused(b.done(b.call(aten.linear.default, y, w), z))
    chain = next(work for work in made.values() if work.kind == "pointwise")
    assert chain.bytes_written == 2 * SIZE


def test_a_product_between_ends_a_chain():
    b = Builder()
    x, w = b.input("x", (64, 32), F16), b.input("w", (32, 32), F16)
    y = b.call(aten.silu.default, x)
    back = b.call(aten.linear.default, y, w)
    _, made = fused(b.done(b.call(aten.add.Tensor, y, back)))
    assert [work.kind for work in made.values()] == ["pointwise", "matmul", "pointwise"]


def test_views_do_not_end_a_chain():
    b = Builder()
    x = b.input("x", (64, 32), F16)
    y = b.call(aten.reshape.default, b.call(aten.silu.default, x), [32, 64])
    _, made = fused(b.done(b.call(aten.mul.Tensor, y, 2.0)))
    assert len(made) == 1


def test_two_norms_are_two_kernels():
    b = Builder()
    x, w = b.input("x", (64, 32), F16), b.input("w", (32,), F16)
    y = b.call(aten.layer_norm.default, x, [32], w, w, 1e-5)
    _, made = fused(b.done(b.call(aten.layer_norm.default, b.call(aten.silu.default, y), [32], w, w, 1e-5)))
    assert len(made) == 2


def test_every_op_is_in_one_kernel():
    b = Builder()
    x = b.input("x", (64, 32), F16)
    graph = b.done(b.call(aten.silu.default, b.call(aten.neg.default, x)))
    works, _ = fused(graph)
    assert fuse(graph, works).keys() == works.keys()
    assert ir.val(next(iter(works))).dtype == F16
