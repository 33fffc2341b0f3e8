"""Cuts: what the full and reuse programs compute, what is left of them, and where cuts are found."""

from __future__ import annotations

import pytest
import torch

from tests.rehash.support import DENOISING, job, program
from vgcomp.backends.torch_module import TorchModule
from vgcomp.errors import UsageError
from vgcomp.program import Program
from vgcomp.rehash.runner import step_inputs
from vgcomp.step_cuts.cut import Cut, Kept
from vgcomp.step_cuts.emit import full_program, reuse_program
from vgcomp.step_cuts.find import Candidate, Finder
from vgcomp.step_cuts.halves import guided_halves
from vgcomp.step_cuts.reach import node_flops, read_inputs
from vgcomp.verify import verify

KINDS = ["unet", "transformer"]


def flops(program: Program) -> float:
    return sum(map(node_flops, program.graph.nodes))


def found(program: Program) -> list[Candidate]:
    return Finder(program, "sample", "timestep").candidates()


@pytest.mark.parametrize("kind", KINDS)
def test_with_the_values_of_the_same_step_reuse_says_what_the_full_program_does(kind: str) -> None:
    whole = program(kind)
    inputs = step_inputs(whole.input_names, DENOISING, job(0), 2, job(0).noise)
    (wanted,) = TorchModule(whole)(*inputs)
    for candidate in found(whole)[::3]:
        full, reuse = full_program(whole, candidate.cut), reuse_program(whole, candidate.cut)
        verify(full)
        verify(reuse)
        answer, *cache = TorchModule(full)(*inputs)
        assert torch.equal(answer, wanted), "the full program computes what it did, bit for bit"
        assert sum(value.nbytes for value in cache) == candidate.nbytes == candidate.cut.nbytes(whole)
        (again,) = TorchModule(reuse)(*inputs, *cache)
        torch.testing.assert_close(again, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_claimed_of_a_cut_is_what_its_program_shows(kind: str) -> None:
    whole = program(kind)
    for candidate in found(whole):
        reuse = reuse_program(whole, candidate.cut)
        extra = sum(kept.base is not None for kept in candidate.cut.kept) * 1e-3
        assert 1 - flops(reuse) / flops(whole) == pytest.approx(candidate.saved, abs=2e-3 + extra)
        read = read_inputs(reuse)
        assert ("sample" in read, "timestep" in read) == (candidate.reads_latent, candidate.reads_timestep)
        dead = [node.name for node in reuse.graph.nodes if node.op in ("call_function", "get_attr") and not node.users]
        assert not dead
        assert reuse.input_names[:3] == whole.input_names, "inputs stay, read or not"


def test_a_unet_is_cut_below_a_level_and_a_transformer_by_what_a_range_of_layers_adds() -> None:
    below = [c for c in found(program("unet")) if c.reads_latent and c.saved > 0.3 and not c.cut.kept[0].base]
    assert below, "values through which most of the work goes, the latent's own skip beside them"
    added = [c for c in found(program("transformer")) if c.reads_latent and c.saved > 0.6]
    assert any(kept.base for candidate in added for kept in candidate.cut.kept)
    repeats = [c for c in found(program("transformer")) if c.repeats]
    assert repeats
    assert all("sample" not in read_inputs(reuse_program(program("transformer"), c.cut)) for c in repeats)


@pytest.mark.parametrize("kind", KINDS)
def test_a_guided_batch_comes_apart_and_its_empty_half_can_be_kept(kind: str) -> None:
    whole = program(kind)
    halves = guided_halves(whole)
    assert halves is not None
    taken, (given, free) = halves
    verify(taken)
    inputs = step_inputs(whole.input_names, DENOISING, job(0), 2, job(0).noise)
    torch.testing.assert_close(TorchModule(taken)(*inputs), TorchModule(whole)(*inputs), rtol=1e-4, atol=1e-4)
    assert flops(taken) == pytest.approx(flops(whole), rel=0.02)
    candidate = Finder(taken, "sample", "timestep").measure(Cut((Kept(free, given),)))
    assert candidate.saved == pytest.approx(0.5, abs=0.02)
    assert candidate.reads_latent
    assert guided_halves(taken) is None, "there is no batch left"


@pytest.mark.parametrize(
    ("items", "what"),
    [
        ((), "a cut needs a value"),
        (("no_such",), "no node 'no_such'"),
        (("-x",), "not a value to keep"),
        (("sample",), "cannot be kept"),
    ],
)
def test_mistakes_are_named(items: tuple[str, ...], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        full_program(program("unet"), Cut.parse(items))


def test_a_base_must_not_need_what_is_kept() -> None:
    whole = program("transformer")
    pair = next(c.cut.kept[0] for c in found(whole) if c.cut.kept[0].base is not None)
    assert pair.base is not None
    with pytest.raises(UsageError, match="must not need what is kept"):
        reuse_program(whole, Cut((Kept(pair.base, pair.node),)))
