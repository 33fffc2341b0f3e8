"""``fold-timestep``: Before and Expected, the same bits at every step of the schedule, and what stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import fx

from tests.graph_builder import Builder, aten, random_weights
from tests.passes.engine import a18
from tests.passes.support import body, body_of, program
from vgcomp.backends.torch_module import TorchModule
from vgcomp.check import check, random_inputs
from vgcomp.errors import UsageError
from vgcomp.load import load
from vgcomp.passes.fold_timestep import FoldTimestep
from vgcomp.passes.registry import make_pass
from vgcomp.program import Program
from vgcomp.verify import verify
from vgcomp.weights import from_tensor


def embedding(*, mixed: bool = False) -> fx.Graph:
    """Sines of a timestep, a layer, and a value that it scales; ``mixed``: another input joins before the layer."""
    b = Builder()
    t, x, y = b.input("timestep", ()), b.input("x", (2, 4)), b.input("y", (1, 6))
    freqs, w = b.weight("freqs", (1, 3)), b.weight("w", (4, 6))
    angle = b.call(aten.mul.Tensor, b.call(aten.reshape.default, t, [1, 1]), freqs)
    waves = b.call(aten.cat.default, [b.call(aten.sin.default, angle), b.call(aten.cos.default, angle)], -1)
    waves = b.call(aten.add.Tensor, waves, y) if mixed else waves
    scale = b.call(aten.silu.default, b.call(aten.linear.default, waves, w))
    return b.done(b.call(aten.mul.Tensor, x, scale))


def with_weights(graph: fx.Graph) -> Program:
    weights = {name: from_tensor(name, value) for name, value in random_weights(graph).items()}
    return replace(program(graph), weights=weights)


def same_at(before: Program, after: Program, step: float) -> None:
    """The same bits for a timestep."""
    inputs = random_inputs(before)
    at = before.input_names.index("timestep")
    inputs[at] = torch.full_like(inputs[at], step)
    wanted, found = TorchModule(before)(*inputs), TorchModule(after)(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


def test_the_embedding_becomes_a_table() -> None:
    given = with_weights(embedding())
    result = FoldTimestep((999.0, 499.5, 0.25)).run(given, a18())
    verify(result.program)
    assert body_of(result.program) == body(
        """
        %timestep : f32[] = input
        %x : f32[2, 4] = input
        %y : f32[1, 6] = input
        %timestep_table_0 : f32[3, 4] = weight 'timestep_table_0'
        %timestep_borders : f32[1, 2] = weight 'timestep_borders'
        %reshape_default_1 : f32[1, 1] = reshape(%timestep, [1, 1])
        %sub_tensor : f32[1, 2] = sub.Tensor(%reshape_default_1, %timestep_borders)
        %gt_scalar : bool[1, 2] = gt.Scalar(%sub_tensor, 0.0)
        %convert_element_type_default : f32[1, 2] = convert_element_type(%gt_scalar, float32)
        %full_default : f32[1, 1] = full([1, 1], 1.0, dtype=float32)
        %full_default_1 : f32[1, 1] = full([1, 1], 0.0, dtype=float32)
        %cat_default_1 : f32[1, 3] = cat([%full_default, %convert_element_type_default], 1)
        %cat_default_2 : f32[1, 3] = cat([%convert_element_type_default, %full_default_1], 1)
        %sub_tensor_1 : f32[1, 3] = sub.Tensor(%cat_default_1, %cat_default_2)
        %matmul_default : f32[1, 4] = matmul(%sub_tensor_1, %timestep_table_0)
        %reshape_default_2 : f32[1, 4] = reshape(%matmul_default, [1, 4])
        %mul_tensor_1 : f32[2, 4] = mul.Tensor(%x, %reshape_default_2)
        return [%mul_tensor_1]
        """
    )
    assert set(result.program.weights) == {"timestep_table_0", "timestep_borders"}
    for step in (999.0, 499.5, 0.25):
        same_at(given, result.program, step)


def test_one_timestep_is_a_constant() -> None:
    given = with_weights(embedding())
    result = FoldTimestep((749.0,)).run(given, a18())
    verify(result.program)
    assert [n.target for n in result.program.graph.nodes if n.op == "call_function"] == [
        aten.reshape.default,
        aten.mul.Tensor,
    ]
    same_at(given, result.program, 749.0)


def test_only_what_depends_on_the_timestep_alone_is_folded() -> None:
    given = with_weights(embedding(mixed=True))
    result = FoldTimestep((999.0, 1.0)).run(given, a18())
    targets = [node.target for node in result.program.graph.nodes]
    assert aten.sin.default not in targets
    assert aten.linear.default in targets
    same_at(given, result.program, 1.0)


def test_the_nearest_step_is_selected_and_noted() -> None:
    given = with_weights(embedding())
    folded = FoldTimestep((999.0, 499.0)).run(given, a18()).program
    assert folded.inputs[0].meta["domain"] == (499.0, 999.0)
    inputs = random_inputs(folded)
    assert float(inputs[0]) in (499.0, 999.0), "checks draw from the schedule"
    assert check(given, folded, equivalence="exact").status == "passed"
    other = [torch.tensor(998.6), *inputs[1:]]
    exact = [torch.tensor(999.0), *inputs[1:]]
    assert torch.equal(TorchModule(folded)(*other)[0], TorchModule(given)(*exact)[0])


def test_it_is_saved_with_its_schedule(tmp_path: Path) -> None:
    folded = FoldTimestep((999.0, 499.0)).run(with_weights(embedding()), a18()).program
    folded.save(tmp_path / "folded")
    again = Program.load(tmp_path / "folded")
    assert tuple(again.inputs[0].meta["domain"]) == (499.0, 999.0)
    assert not FoldTimestep((999.0, 499.0)).run(again, a18()).changed


def test_without_data_the_tables_have_none_and_checks_say_so() -> None:
    given = program(embedding())
    result = FoldTimestep((999.0, 499.0)).run(given, a18())
    verify(result.program)
    assert not result.program.weights["timestep_table_0"].present
    found = check(given, result.program)
    assert (found.status, "timestep_table_0" in found.reason) == ("skipped", True)


def test_mistakes_are_told() -> None:
    given = with_weights(embedding())
    unchanged = FoldTimestep().run(given, a18())
    assert (unchanged.changed, "no schedule" in unchanged.explanations[0].reason) == (False, True)
    with pytest.raises(UsageError, match="no input 'sigma' to fold: its inputs are timestep, x, y"):
        FoldTimestep((1.0,), input="sigma").run(given, a18())
    with pytest.raises(UsageError, match="listed twice"):
        make_pass("fold-timestep", {"timesteps": "1+1"})
    assert make_pass("fold-timestep", {"timesteps": "999+0.5"}) == FoldTimestep((999.0, 0.5))


@pytest.mark.parametrize("name", ["svd-unet-small", "animatediff-unet-small", "wan-1.3b-small"])
def test_networks_are_the_same_at_every_step(name: str) -> None:
    given = load(name)
    result = FoldTimestep((999.0, 749.5, 249.0)).run(given, a18())
    verify(result.program)
    assert result.stats["removed_weight_bytes"] > 0
    for step in (999.0, 249.0):
        same_at(given, result.program, step)
