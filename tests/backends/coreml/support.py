"""Builds packages of Programs and interprets them. Skips where coremltools is not installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.passes.test_pipeline import context
from vgcomp.passes.base import PassContext
from vgcomp.passes.pipeline import run_pipeline
from vgcomp.program import Program
from vgcomp.targets import load_target

pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'vgcomp[coreml]'")

A18 = load_target("a18")

#: Largest difference over the largest value, with fp16 throughout.
TOLERANCE = 2e-2

_DTYPES = {"FLOAT16": torch.float16, "FLOAT32": torch.float32, "INT32": torch.int32, "BOOL": torch.bool}


def a18(memory: int | None = None) -> PassContext:
    """An A18 with its analytic model."""
    from vgcomp.cost_models import AnalyticModel

    return context(target=A18, cost_model=AnalyticModel(A18), memory=memory)


def legal(program: Program, passes: str = "canonicalize,legalize-coreml,canonicalize") -> Program:
    """The program unrolled, in fp16 and legal."""
    return run_pipeline(program, f"unroll-loops,half-precision,{passes}", a18()).program


def interpreted(program: Program, inputs: Sequence[Tensor], folder: Path) -> list[Tensor]:
    """A legal program's outputs from the package's own bytes; holds the package to its ranks on the way."""
    from vgcomp.backends.coreml.build import build_package
    from vgcomp.backends.coreml.package import read_package
    from vgcomp.backends.coreml.reference import Reference

    build_package(program).save(str(folder / "part.mlpackage"))
    package = read_package(folder / "part.mlpackage")
    assert package.max_rank <= 5
    given = {
        name: value.to(_DTYPES[kind.kind]).reshape(kind.shape)
        for (name, kind), value in zip(package.inputs.items(), inputs, strict=True)
    }
    found = Reference(package).run(given)
    return [found[name] for name in package.outputs]
