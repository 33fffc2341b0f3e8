"""Wherever a random network is cut, both programs are Programs, and together they compute what it did."""

from __future__ import annotations

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.properties.graphs import programs, quick
from vgcomp.backends.torch_module import TorchModule
from vgcomp.check import random_inputs
from vgcomp.loops import storage_root
from vgcomp.memory import peak_activation_bytes
from vgcomp.program import Program
from vgcomp.step_cuts.cut import Cut, Kept, upstream
from vgcomp.step_cuts.emit import full_program, reuse_program
from vgcomp.step_cuts.find import Finder
from vgcomp.step_cuts.reach import node_flops, read_inputs
from vgcomp.track import LiveTracker
from vgcomp.verify import verify


def kept_values(program: Program, data: st.DataObject) -> Cut:
    """Some values of the graph, by themselves or less another of the same shape."""
    calls = [n for n in program.graph.nodes if n.op == "call_function" and storage_root(n)[0] is n]
    assume(calls)
    values = data.draw(st.lists(st.sampled_from(calls), min_size=1, max_size=3, unique=True))
    kept = []
    for node in values:
        like = (node.meta["val"].shape, node.meta["val"].dtype)
        bases = [n for n in upstream([node]) - {node} if n.op == "call_function"]
        bases = sorted((n for n in bases if (n.meta["val"].shape, n.meta["val"].dtype) == like), key=lambda n: n.name)
        base = data.draw(st.sampled_from([None, *bases]))
        kept.append(Kept(node.name, None if base is None else base.name))
    return Cut(tuple(kept))


@quick
@given(programs(), st.data())
def test_full_and_reuse_compute_what_the_whole_does(program: Program, data: st.DataObject) -> None:
    cut = kept_values(program, data)
    full, reuse = full_program(program, cut), reuse_program(program, cut)
    verify(full)
    verify(reuse)
    inputs, count = random_inputs(program), len(program.outputs)
    wanted = TorchModule(program)(*inputs)
    found = TorchModule(full)(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(found[:count], wanted, strict=True))
    module, values = TorchModule(reuse), [*inputs, *found[count:]]
    with torch.no_grad(), LiveTracker(values) as tracker:
        again = module(*values)
    torch.testing.assert_close(again, wanted, rtol=1e-4, atol=1e-4)
    assert tracker.peak == peak_activation_bytes(reuse, workspace="cpu")


@quick
@given(programs())
def test_what_the_finder_says_of_a_cut_is_so(program: Program) -> None:
    first, last = program.input_names[0], program.input_names[-1]
    total = sum(map(node_flops, program.graph.nodes))
    assume(total > 0)
    for candidate in Finder(program, first, last).candidates()[:4]:
        reuse = reuse_program(program, candidate.cut)
        added = sum(candidate.nbytes for kept in candidate.cut.kept if kept.base is not None)
        left = sum(map(node_flops, reuse.graph.nodes))
        assert abs(left - (1 - candidate.saved) * total) <= added + 1
        assert candidate.reads_latent == (first in read_inputs(reuse))
