"""The polynomials against the C library's functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.backends.tvm.support import Compiled, program_of
from tests.graph_builder import Builder, aten


@pytest.mark.parametrize(
    ("op", "reference", "reach"),
    [(aten.exp.default, torch.exp, 110.0), (aten.erf.default, torch.erf, 6.0)],
    ids=["exp", "erf"],
)
def test_within_four_units_in_the_last_place(
    op: Any, reference: Callable[[torch.Tensor], torch.Tensor], reach: float, tmp_path: Path
) -> None:
    b = Builder()
    compiled = Compiled(program_of(b.done(b.call(op, b.input("x", (1, 65536))))), tmp_path)
    x = torch.linspace(-reach, reach, 65536).reshape(1, -1)
    x[0, :6] = torch.tensor([float("inf"), float("-inf"), float("nan"), 0.0, -0.0, 1e-30])
    (found,) = compiled([x], {})
    wanted = reference(x.double())
    # Results beyond float's range, either way, and those below its normal numbers are infinite and 0.
    wanted = torch.where(wanted > torch.finfo(torch.float32).max, torch.inf, wanted)
    tiny = wanted.abs() < 2 * torch.finfo(torch.float32).tiny
    torch.testing.assert_close(found.double()[~tiny], wanted[~tiny], rtol=4 * 2**-23, atol=2**-23, equal_nan=True)
    assert float(found[tiny].abs().max()) <= 2.4e-38
