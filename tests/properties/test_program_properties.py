"""What holds for every Program: tried on random networks."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from hypothesis import given

from tests.properties.graphs import programs, quick, run, tracked_peak
from vgcomp.cost_models import AnalyticModel
from vgcomp.lower_bound import lower_bound_bytes
from vgcomp.memory import peak_activation_bytes
from vgcomp.passes.base import PassContext
from vgcomp.passes.canonicalize import Canonicalize
from vgcomp.program import Program
from vgcomp.targets import load_target
from vgcomp.verify import verify

TARGET = load_target("a100")


@quick
@given(programs())
def test_the_verifier_accepts_it_and_its_outputs_are_finite(program: Program) -> None:
    verify(program)
    assert all(torch.isfinite(value).all() for value in run(program))


@quick
@given(programs())
def test_saved_and_loaded_it_is_the_same(program: Program) -> None:
    with tempfile.TemporaryDirectory() as folder:
        program.save(Path(folder))
        loaded = Program.load(Path(folder))
        verify(loaded)
        assert loaded.text() == program.text() == program.copy().text()
        assert loaded.weights.keys() == program.weights.keys()
        assert all(torch.equal(loaded.weights[name].load(), w.load()) for name, w in program.weights.items())
        # Not bit for bit: kernels choose by where in memory a weight lies, and a file maps it elsewhere.
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(run(loaded), run(program), strict=True))


@quick
@given(programs())
def test_predicted_peak_is_the_tracked_peak(program: Program) -> None:
    assert peak_activation_bytes(program, workspace="cpu") == tracked_peak(program)


@quick
@given(programs())
def test_lower_bounds_are_below_the_peak(program: Program) -> None:
    bound = lower_bound_bytes(program).bytes
    assert lower_bound_bytes(program, inplace=True).bytes <= bound <= peak_activation_bytes(program)


@quick
@given(programs())
def test_canonicalize_is_exact_and_needs_no_more_memory(program: Program) -> None:
    # Without cheap merges, which may hold a small result for longer.
    result = Canonicalize(cheap_bytes=0).run(program, PassContext(TARGET, AnalyticModel(TARGET)))
    verify(result.program)
    assert all(torch.equal(a, b) for a, b in zip(run(result.program), run(program), strict=True))
    assert peak_activation_bytes(result.program) <= peak_activation_bytes(program)
