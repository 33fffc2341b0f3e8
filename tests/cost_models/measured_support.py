"""Small tables for tests: works of two ops in many sizes, and seconds that are made up."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vgcomp.cost_models import work_of
from vgcomp.cost_models.base import OpWork
from vgcomp.cost_models.calls import spell
from vgcomp.cost_models.table import Metadata, Table, Timing, Units
from vgcomp.infer import evaluate_fake, fake_tensor
from vgcomp.ir import aten


def t(*shape: int) -> torch.Tensor:
    return fake_tensor(shape, torch.float32)


def silu(rows: int, width: int) -> OpWork:
    args = (t(rows, width),)
    return work_of(aten.silu.default, args, {}, evaluate_fake(aten.silu.default, args))


def linear(rows: int, n: int, k: int) -> OpWork:
    args = (t(rows, k), t(n, k), t(n))
    return work_of(aten.linear.default, args, {}, evaluate_fake(aten.linear.default, args))


def permute(rows: int, width: int) -> OpWork:
    args = (t(rows, width), [1, 0])
    return work_of(aten.permute.default, args, {}, evaluate_fake(aten.permute.default, args))


def works() -> list[OpWork]:
    sizes = (8, 24, 64, 200, 512)
    return [
        *(silu(16 * a, b) for a in sizes for b in sizes),
        *(linear(a, b, c) for a in sizes for b in sizes for c in sizes),
        *(permute(a, b) for a in sizes for b in sizes),
    ]


def metadata(**changes: object) -> Metadata:
    fields = {
        "target": "cpu",
        "device": "a processor",
        "threads": 2,
        "driver": "PyTorch",
        "torch": "2.13",
        "date": "2026-01-31",
        "units": Units(),
        "overhead": {"call_s": 2e-6, "step_s": 1e-6, "slice_s": 3e-6, "run_s": 1e-5, "weight_s": 4e-6},
    }
    return Metadata.model_validate({**fields, **changes})


def table(seconds: Callable[[OpWork], float], **changes: object) -> Table:
    rows = {spell(work.call): Timing(seconds(work), 0.0, 15) for work in works() if work.call is not None}
    return Table(metadata(**changes), rows)
