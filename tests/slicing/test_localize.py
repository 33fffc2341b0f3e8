"""An op on slices of its operands is the slice of the op on all of them: every op, axis and kind of span."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, fx

from tests.op_cases import CASES, DTYPE, Case, make_case
from vgcomp import infer, ir
from vgcomp.axes import Window, demands, operands
from vgcomp.backends.torch_module import run_graph
from vgcomp.ir import Axis, Span
from vgcomp.slices import read_slice
from vgcomp.slicing.localize import BodyBuilder, Local, localize, signature


def spans_of(extent: int) -> list[Span]:
    """First, middle and last elements, uneven parts, single elements and the whole."""
    edges = {(0, 1), (extent - 1, extent), (0, extent), (0, extent - 1), (1, extent), (extent // 2, extent // 2 + 1)}
    edges |= {(extent // 3, 2 * extent // 3), (1, extent - 1)}
    return sorted((lo, hi) for lo, hi in edges if lo < hi)


def local_operands(
    body: BodyBuilder, case: Case, axis: Axis, span: Span, values: Sequence[Tensor]
) -> tuple[list[Local], list[Tensor]]:
    """Placeholders for what the span needs of each operand, and their values."""
    wanted = demands(case.node, axis)
    assert wanted is not None
    local: list[Local] = []
    given: list[Tensor] = []
    for k, (x, demand, value) in enumerate(zip(operands(case.node), wanted, values, strict=True)):
        part, fake = value, ir.val(x)
        if isinstance(demand, Window):
            needed = demand.needs(span)
            if needed[0] == needed[1]:
                local.append(None)
                continue
            part = read_slice(value, demand.axis, needed)
            with infer.shared_fake_mode():
                fake = read_slice(fake, demand.axis, needed)
        local.append(body.placeholder(f"x{k}", fake))
        given.append(part)
    return local, given


def run_localized(case: Case, axis: Axis, span: Span, values: Sequence[Tensor]) -> tuple[fx.Graph, Tensor]:
    body = BodyBuilder()
    local, given = local_operands(body, case, axis, span, values)
    out = localize(body, case.node, axis, span, local)
    body.graph.output((out,))
    body.graph.lint()
    (found,) = run_graph(body.graph, given, {})
    assert tuple(ir.val(out).shape) == tuple(found.shape)
    assert tuple(ir.val(out).stride()) == tuple(found.stride()) or 1 in found.shape
    return body.graph, found


@pytest.mark.parametrize("name", CASES)
def test_the_slice_is_that_of_the_whole(name: str) -> None:
    case = make_case(name)
    values = case.values()
    whole = case.run(values)
    for axis in case.axes():
        if demands(case.node, axis) is None:
            continue
        for span in spans_of(axis.extent):
            _, found = run_localized(case, axis, span, values)
            wanted = read_slice(whole, axis, span)
            assert found.dtype == wanted.dtype
            assert found.shape == wanted.shape, (axis, span)
            tolerance = 1e-9 if whole.dtype == DTYPE else 1e-5
            torch.testing.assert_close(
                found,
                wanted,
                rtol=tolerance,
                atol=tolerance,
                equal_nan=True,
                msg=lambda m: f"{axis} {span}: {m}",  # noqa: B023
            )


@pytest.mark.parametrize("name", CASES)
def test_equal_signatures_mean_equal_code(name: str) -> None:
    case = make_case(name)
    values = case.values()
    for axis in case.axes():
        if demands(case.node, axis) is None or not axis.whole_dim:
            continue
        known: dict[object, str] = {}
        for span in ((lo, hi) for lo in range(axis.extent) for hi in range(lo + 1, axis.extent + 1)):
            text = code(run_localized(case, axis, span, values)[0])
            assert known.setdefault(signature(case.node, axis, span), text) == text, (axis, span)


def code(graph: fx.Graph) -> str:
    return "\n".join(f"{n} {n.op} {n.target} {n.args} {n.kwargs} {n.meta.get('val')}" for n in graph.nodes)


@pytest.mark.parametrize("axis", [Axis(1, 6), Axis(1, 3, inner=2), Axis(1, 3, outer=2), Axis(0, 2, outer=2)])
def test_crop_and_join_are_each_others_inverse(axis: Axis) -> None:
    value = torch.randn(4, 6, 3)
    for cut in range(1, axis.extent):
        body = BodyBuilder()
        x = body.placeholder("x", infer.fake_tensor(value.shape, value.dtype))
        first = body.crop(x, axis, (0, axis.extent), (0, cut))
        second = body.crop(x, axis, (0, axis.extent), (cut, axis.extent))
        body.graph.output((first, second, body.join(first, second, axis)))
        left, right, both = run_graph(body.graph, [value], {})
        assert torch.equal(left, read_slice(value, axis, (0, cut)))
        assert torch.equal(right, read_slice(value, axis, (cut, axis.extent)))
        assert torch.equal(both, value)


def test_cropping_to_all_that_is_there_is_nothing() -> None:
    body = BodyBuilder()
    x = body.placeholder("x", infer.fake_tensor((4, 6), torch.float32))
    assert body.crop(x, Axis(0, 8), (2, 6), (2, 6)) is x
