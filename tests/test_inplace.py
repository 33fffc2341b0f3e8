"""Ops that write their result somewhere else write it whole, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx

from tests.op_cases import CASES, Case, make_case
from vgcomp.inplace import call_into, can_reuse, can_write, write_to

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
WRITING = [name for name in CASES if can_write(make_case(name).node)]
REUSING = [name for name in CASES if can_reuse(make_case(name).node.target)]


def arguments(case: Case, dtype: torch.dtype) -> tuple[tuple[object, ...], dict[str, object]]:
    values = iter(v.to(dtype) if v.is_floating_point() else v for v in case.values())
    args, kwargs = fx.node.map_arg((case.node.args, case.node.kwargs), lambda _: next(values))
    return args, kwargs  # type: ignore[return-value]


def assert_close(found: Tensor, wanted: Tensor) -> None:
    rough = wanted.dtype in (torch.float16, torch.bfloat16)
    torch.testing.assert_close(found, wanted, rtol=2e-2 if rough else 1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WRITING)
def test_a_result_is_written_into_a_slice(name: str, dtype: torch.dtype) -> None:
    case = make_case(name)
    args, kwargs = arguments(case, dtype)
    wanted = case.node.target(*args, **kwargs)  # type: ignore[operator]
    for dim in range(wanted.dim()):
        shape = [size * (3 if d == dim else 1) for d, size in enumerate(wanted.shape)]
        buffer = torch.zeros(shape, dtype=wanted.dtype)
        part = buffer.narrow(dim, wanted.shape[dim], wanted.shape[dim])
        write_to(case.node.target)(part, list(args), dict(kwargs))
        assert_close(part, wanted)
        assert buffer.count_nonzero() == part.count_nonzero(), "written beside its place"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", REUSING)
def test_a_result_is_written_over_its_operand(name: str, dtype: torch.dtype) -> None:
    case = make_case(name)
    args, kwargs = arguments(case, dtype)
    wanted = case.node.target(*args, **kwargs)  # type: ignore[operator]
    for k, value in enumerate(args):
        if not isinstance(value, Tensor) or value.shape != wanted.shape or value.dtype != wanted.dtype:
            continue
        for order in ([*range(value.dim())], [*range(1, value.dim()), 0]):
            back = [order.index(d) for d in range(value.dim())]
            base = value.permute(order).clone(memory_format=torch.contiguous_format).permute(back)
            fresh = [base if i == k or other is value else other for i, other in enumerate(args)]
            out = call_into(case.node.target)(base, k, fresh, dict(kwargs))
            assert out is base
            assert_close(out, wanted)
