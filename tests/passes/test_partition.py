"""``partition``: the cheapest cuts, held to every partition there is; and parts that fit and chain."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graph_builder import Builder, aten
from tests.passes.engine import A18, a18
from tests.passes.support import program, run_pass
from vgcomp import ir
from vgcomp.backends.torch_module import TorchModule
from vgcomp.check import load_weights, random_inputs
from vgcomp.device_memory import device_memory
from vgcomp.errors import Infeasible, UsageError
from vgcomp.load import load
from vgcomp.parts import n_parts, split
from vgcomp.passes.partition import Costs, Partition, cheapest_cuts, dispatch_bytes, smallest_ceiling
from vgcomp.passes.registry import make_pass
from vgcomp.program import Program
from vgcomp.verify import verify


def chain(n: int = 6, width: int = 64) -> Program:
    """Linear layers of 4·width² bytes in a row, with a skip from the first to the last."""
    b = Builder()
    x = b.input("x", (8, width))
    weights = [b.weight(f"w{i}", (width, width)) for i in range(n)]
    first = value = b.call(aten.linear.default, x, weights[0])
    for weight in weights[1:]:
        value = b.call(aten.silu.default, b.call(aten.linear.default, value, weight))
    return program(b.done(b.call(aten.add.Tensor, value, first)))


def run_parts(whole: Program) -> tuple[torch.Tensor, ...]:
    """The parts' programs one after the other."""
    values = dict(zip(whole.input_names, random_inputs(whole), strict=True))
    for part in split(whole):
        verify(part)
        found = TorchModule(part, weights=load_weights(part))(*(values[name] for name in part.input_names))
        values.update(zip(part.output_names, found, strict=True))
    return tuple(values[name] for name in whole.output_names)


def test_parts_fit_and_compute_the_whole() -> None:
    whole = chain()
    result = run_pass(Partition(max_weights=2 * 64 * 64 * 4), whole, a18(), "exact")
    parts = split(result.program)
    assert result.stats["parts"] == len(parts) == 3
    assert all(part.weight_bytes() == 2 * 64 * 64 * 4 for part in parts)
    assert [part.name for part in parts] == ["example.part1", "example.part2", "example.part3"]
    wanted = TorchModule(whole, weights=load_weights(whole))(*random_inputs(whole))
    assert all(torch.equal(a, b) for a, b in zip(run_parts(result.program), wanted, strict=True))


def test_memory_of_a_program_in_parts_is_the_largest_parts() -> None:
    parted = Partition(max_weights=2 * 64 * 64 * 4).run(chain(), a18()).program
    assert device_memory(parted, A18).total_bytes == max(device_memory(p, A18).total_bytes for p in split(parted))


def test_a_program_that_fits_is_one_part() -> None:
    result = run_pass(Partition(), chain(), a18(10**9), "exact")
    assert (result.changed, n_parts(result.program)) == (False, 1)
    assert "whole" in result.explanations[0].reason


def test_one_call_too_large_is_told_with_what_it_needs() -> None:
    whole = chain()
    with pytest.raises(Infeasible) as found:
        Partition().run(whole, a18(18_000))
    smallest = found.value.smallest_bytes
    assert Partition().run(whole, a18(smallest)).changed
    with pytest.raises(Infeasible):
        Partition().run(whole, a18(smallest - 64))


def test_fewer_bits_a_weight_make_fewer_parts() -> None:
    limit = 2 * 64 * 64 * 4
    assert Partition(max_weights=limit, weight_bits=4).run(chain(), a18()).stats["parts"] == 1
    with pytest.raises(UsageError, match="weight-bits is 2, 4, 6"):
        make_pass("partition", {"weight-bits": "5"})


def test_constants_go_where_they_are_used() -> None:
    b = Builder()
    x, w = b.input("x", (4, 4)), b.weight("w", (4, 1, 4))
    flat = b.call(aten.reshape.default, w, [4, 4])
    y = b.call(aten.linear.default, x, flat)
    for _ in range(3):
        y = b.call(aten.silu.default, y)
    whole = program(b.done(b.call(aten.linear.default, y, flat)))
    parted = whole.copy()
    for node, part in zip([n for n in parted.graph.nodes if n.op == "call_function"], (0, 0, 0, 0, 1, 1), strict=True):
        node.meta["part"] = part
    first, second = split(parted)
    assert second.input_names == first.output_names
    assert [len(part.weights) for part in (first, second)] == [1, 1]
    wanted = TorchModule(whole, weights=load_weights(whole))(*random_inputs(whole))
    assert torch.equal(run_parts(parted)[0], wanted[0])


@st.composite
def small_programs(draw: st.DrawFn) -> Program:
    """Up to eight calls on matrices of several sizes, in any order of use, with weights that some share."""
    b = Builder()
    values = [b.input("x", (draw(st.integers(1, 9)), 8))]
    weights = [b.weight(f"w{i}", (8, 8)) for i in range(3)]
    for _ in range(draw(st.integers(1, 8))):
        x = values[draw(st.integers(0, len(values) - 1))]
        kind = draw(st.sampled_from(["linear", "mul", "slice", "reshape", "add"]))
        rows = ir.val(x).shape[0]
        if kind == "linear":
            values.append(b.call(aten.linear.default, x, weights[draw(st.integers(0, 2))]))
        elif kind == "slice":
            values.append(b.call(aten.slice.Tensor, x, 0, 0, draw(st.integers(1, rows))))
        elif kind == "add":
            other = draw(st.sampled_from([v for v in values if ir.val(v).shape[0] in (1, rows)]))
            values.append(b.call(aten.add.Tensor, x, other))
        elif kind == "mul":
            values.append(b.call(aten.mul.Tensor, x, 2.0))
        else:
            values.append(b.call(aten.reshape.default, b.call(aten.reshape.default, x, [rows * 8]), [rows, 8]))
    for weight in weights:
        if not weight.users:
            b.graph.erase_node(weight)
    return program(b.done(*draw(st.lists(st.sampled_from(values[1:]), min_size=1, max_size=2, unique=True))))


def every_partition(n: int) -> Iterator[list[int]]:
    for count in range(n):
        for cuts in itertools.combinations(range(1, n), count):
            yield list(cuts)


def needs(costs: Costs, first: int, last: int) -> tuple[float, float]:
    """(memory, weights) of the calls from ``first`` up to ``last``, counted by hand."""
    weights: dict[int, float] = {}
    live = [costs.inner[k] for k in range(first, last)]
    for i in range(first, last):
        for end, size in costs.storages[i]:
            for k in range(i, min(end + 1, last)):
                live[k - first] += size
    for i in range(first, last):
        for following, size in costs.weights[i]:
            # Counted at its last use in the part.
            if following >= last:
                weights[len(weights)] = size
    return costs.held[first] + max(live), sum(weights.values())


@settings(deadline=None, max_examples=25)
@given(small_programs(), st.floats(0.3, 1.0), st.integers(0, 2000))
def test_the_cuts_are_the_cheapest_of_all(whole: Program, share: float, cut: int) -> None:
    costs = Costs.of(whole)
    n = len(costs.calls)
    memory, weights = needs(costs, 0, n)
    ceiling = share * (memory + weights)
    found = cheapest_cuts(costs, ceiling, float("inf"), cut)
    prices, least = [], float("inf")
    for cuts in every_partition(n):
        ends = [0, *cuts, n]
        peak = max(sum(needs(costs, a, b)) for a, b in itertools.pairwise(ends))
        if not all(costs.allowed[cuts]):
            continue
        least = min(least, peak)
        if peak <= ceiling:
            prices.append(sum(costs.crossing[c] + cut for c in cuts))
    assert smallest_ceiling(costs)[0] == pytest.approx(least, abs=1)
    assert (found is None) == (not prices)
    if found is not None:
        assert sum(costs.crossing[c] + cut for c in found) == pytest.approx(min(prices))


def test_a_dispatch_counts_as_the_bytes_that_move_meanwhile() -> None:
    assert dispatch_bytes(A18) == pytest.approx(1.5e-4 * 6.0e10)


def test_a_network_in_parts_computes_the_same() -> None:
    whole = load("svd-unet-small")
    parted = Partition(max_weights=10_000_000).run(whole, a18()).program
    assert n_parts(parted) > 1
    assert all(device_memory(p, A18).weights <= 10_000_000 for p in split(parted))
    wanted = TorchModule(whole)(*random_inputs(whole))
    assert torch.equal(run_parts(parted)[0], wanted[0])
    assert all(ir.val(node).is_contiguous() for part in split(parted) for node in part.inputs)
