"""Every plan of every random network computes what the network computes, in the memory that it says."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.properties.graphs import programs, quick, run, tracked_peak
from vgcomp.cost_models import AnalyticModel
from vgcomp.lower_bound import lower_bound_bytes
from vgcomp.memory import peak_activation_bytes
from vgcomp.passes.assign_buffers import AssignBuffers
from vgcomp.passes.base import PassContext
from vgcomp.passes.canonicalize import Canonicalize
from vgcomp.passes.schedule import Schedule
from vgcomp.passes.slice_and_group import SliceAndGroup
from vgcomp.program import Program
from vgcomp.simulate import simulate
from vgcomp.slicing.engine import Slicer
from vgcomp.targets import load_target
from vgcomp.verify import verify

#: Memory is what is live: graphs of a few KB are all workspace and context otherwise.
TARGET = load_target("a100").model_copy(update={"allocator": "live", "context_bytes": 0})
CPU = load_target("cpu")


def slicer_of(program: Program) -> Slicer:
    return Slicer(program, TARGET, AnalyticModel(TARGET))


def assert_same(found: Program, wanted: Program) -> None:
    """Up to rounding, which a norm of nearly equal numbers blows up."""
    for got, value in zip(run(found), run(wanted), strict=True):
        assert (got - value).abs().max() <= 1e-5 * value.abs().max().clamp(min=1.0)


@quick
@given(programs())
def test_every_plan_computes_the_same_and_holds_its_peak(program: Program) -> None:
    model = AnalyticModel(TARGET)
    for solution in slicer_of(program).front():
        sliced = solution.program
        verify(sliced)
        assert_same(sliced, program)
        assert simulate(sliced, TARGET, model).peak_activation_bytes == solution.peak
        # An op's own temporaries depend on details of its kernel; where tensors are tiny they are not small.
        assert solution.peak <= tracked_peak(sliced) <= peak_activation_bytes(sliced, workspace="cpu")
        assert lower_bound_bytes(sliced, inplace=True).bytes <= lower_bound_bytes(sliced).bytes <= solution.peak


@quick
@given(programs(), st.floats(0.2, 1.0))
def test_a_solution_holds_its_budget_and_its_bound(program: Program, share: float) -> None:
    slicer = slicer_of(program)
    budget = int(share * slicer.unsliced)
    solution = slicer.solve(budget)
    if solution is None:
        return
    assert lower_bound_bytes(solution.program, inplace=True).bytes <= solution.peak <= budget
    assert solution.peak == peak_activation_bytes(solution.program)
    assert_same(solution.program, program)


@quick
@given(programs())
def test_on_the_cpu_the_predicted_peak_is_the_tracked_peak(program: Program) -> None:
    """There the ops' own temporaries are part of the prediction."""
    smallest = Slicer(program, CPU, AnalyticModel(CPU)).smallest()
    verify(smallest.program)
    assert tracked_peak(smallest.program) <= smallest.peak
    assert_same(smallest.program, program)


@quick
@given(programs())
def test_passes_leave_a_sliced_program_alone(program: Program) -> None:
    """But for buffers: the slicer has assigned them, so that there is nothing left to assign."""
    sliced = slicer_of(program).smallest().program
    context = PassContext(TARGET, AnalyticModel(TARGET), memory=sliced.weight_bytes() + peak_activation_bytes(sliced))
    for item in (Canonicalize(), Schedule(), SliceAndGroup(), AssignBuffers()):
        result = item.run(sliced, context)
        verify(result.program)
        assert_same(result.program, program)
        again = item.run(result.program, context)
        assert not again.changed, f"{item.name} changes its own result"
        if item.name == "assign-buffers":
            assert peak_activation_bytes(result.program) <= peak_activation_bytes(sliced)


@quick
@given(programs())
def test_saved_and_loaded_a_sliced_program_is_the_same(program: Program) -> None:
    sliced = slicer_of(program).smallest().program
    with tempfile.TemporaryDirectory() as folder:
        sliced.save(Path(folder))
        loaded = Program.load(Path(folder))
        verify(loaded)
        assert loaded.text() == sliced.text()
        assert peak_activation_bytes(loaded) == peak_activation_bytes(sliced)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(run(loaded), run(sliced), strict=True))
