"""``substitute-temporal``: Before and Expected, every kind at every position, and what is asked for wrongly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import fx

from tests.graph_builder import Builder, aten, random_weights
from tests.passes.engine import a18
from tests.passes.support import body, body_of, program
from tests.sliced_examples import frames
from tests.temporal.networks import TINY, largest_difference, run_double, tiny
from vgcomp.cli.main import main
from vgcomp.errors import UsageError
from vgcomp.models.temporal import TEMPORAL
from vgcomp.passes.registry import make_pass
from vgcomp.passes.substitute_temporal import SubstituteTemporal
from vgcomp.program import Program
from vgcomp.temporal import temporal_layers
from vgcomp.verify import verify
from vgcomp.weights import from_tensor


def network(*, extra: bool = False, dtype: torch.dtype = torch.float32) -> fx.Graph:
    """Two videos of three frames: a convolution of images, one over the frames that adds to it, one of images.

    ``extra``: somebody else reads a value inside of the layer.
    """
    b = Builder()
    x = b.input("x", (6, 2, 4, 5), dtype)
    w_in, w_time, w_out = (
        b.weight("w_in", (2, 2, 3, 3), dtype),
        b.weight("w_time", (2, 2, 3, 1, 1), dtype),
        b.weight("w_out", (2, 2, 3, 3), dtype),
    )
    images = b.conv(x, w_in, [1, 1])
    clip = b.call(aten.permute.default, b.call(aten.reshape.default, images, [2, 3, 2, 4, 5]), [0, 2, 1, 3, 4])
    silu = b.call(aten.silu.default, clip)
    mixed = b.call(aten.add.Tensor, clip, b.conv(silu, w_time, [1, 0, 0]))
    back = b.call(aten.reshape.default, b.call(aten.permute.default, mixed, [0, 2, 1, 3, 4]), [6, 2, 4, 5])
    out = b.conv(back, w_out, [1, 1])
    return b.done(out, b.call(aten.neg.default, silu)) if extra else b.done(out)


def with_weights(graph: fx.Graph) -> Program:
    weights = {name: from_tensor(name, value) for name, value in random_weights(graph).items()}
    return replace(program(graph), weights=weights)


def substitute(given: Program, *kinds: str, **options: object) -> Program:
    result = SubstituteTemporal(kinds, **options).run(given, a18())  # type: ignore[arg-type]
    verify(result.program)
    assert result.changed
    return result.program


#: What follows weight and bias in a 3×3 convolution's arguments.
SAME = "[1, 1], [1, 1], [1, 1], False, [0, 0], 1"


def test_a_layer_is_taken_out() -> None:
    given = with_weights(network())
    assert body_of(substitute(given, "none")) == body(
        f"""
        %x : f32[6, 2, 4, 5] = input
        %w_in : f32[2, 2, 3, 3] = weight 'w_in'
        %w_out : f32[2, 2, 3, 3] = weight 'w_out'
        %convolution_default : f32[6, 2, 4, 5] = convolution(%x, %w_in, None, {SAME})
        %convolution_default_2 : f32[6, 2, 4, 5] = convolution(%convolution_default, %w_out, None, {SAME})
        return [%convolution_default_2]
        """
    )


def test_a_layer_is_replaced_by_a_convolution_over_the_frames() -> None:
    given = with_weights(network())
    new = substitute(given, "conv1d")
    assert body_of(new) == body(
        f"""
        %x : f32[6, 2, 4, 5] = input
        %w_in : f32[2, 2, 3, 3] = weight 'w_in'
        %w_out : f32[2, 2, 3, 3] = weight 'w_out'
        %add_tensor_conv1d_norm_weight : f32[2] = weight 'add_tensor.conv1d.norm.weight'
        %add_tensor_conv1d_norm_bias : f32[2] = weight 'add_tensor.conv1d.norm.bias'
        %add_tensor_conv1d_conv_weight : f32[2, 2, 3, 1] = weight 'add_tensor.conv1d.conv.weight'
        %add_tensor_conv1d_conv_bias : f32[2] = weight 'add_tensor.conv1d.conv.bias'
        %convolution_default : f32[6, 2, 4, 5] = convolution(%x, %w_in, None, {SAME})
        %group_norm : f32[6, 2, 4, 5] = group_norm(%convolution_default, 2, {NORM}, 1e-05)
        %silu : f32[6, 2, 4, 5] = silu(%group_norm)
        %reshape : f32[2, 3, 2, 4, 5] = reshape(%silu, [2, 3, 2, 4, 5])
        %permute : f32[2, 2, 3, 4, 5]{{120, 20, 40, 5, 1}} = permute(%reshape, [0, 2, 1, 3, 4])
        %reshape_1 : f32[2, 2, 3, 20]{{120, 20, 40, 1}} = reshape(%permute, [2, 2, 3, 20])
        %convolution : f32[2, 2, 3, 20] = convolution(%reshape_1, {PREFIX}conv_weight, {PREFIX}conv_bias, {OVER_TIME})
        %reshape_2 : f32[2, 2, 3, 4, 5] = reshape(%convolution, [2, 2, 3, 4, 5])
        %permute_1 : f32[2, 3, 2, 4, 5]{{120, 20, 60, 5, 1}} = permute(%reshape_2, [0, 2, 1, 3, 4])
        %reshape_3 : f32[6, 2, 4, 5] = reshape(%permute_1, [6, 2, 4, 5])
        %add : f32[6, 2, 4, 5] = add.Tensor(%convolution_default, %reshape_3)
        %convolution_default_2 : f32[6, 2, 4, 5] = convolution(%add, %w_out, None, {SAME})
        return [%convolution_default_2]
        """
    )
    assert set(new.weights) == {"w_in", "w_out", *(f"add_tensor.conv1d.{n}" for n in _CONV)}
    assert not new.weights["add_tensor.conv1d.conv.weight"].load().any()
    assert largest_difference(run_double(new), run_double(substitute(given, "none"))) == 0


PREFIX = "%add_tensor_conv1d_"
NORM = f"{PREFIX}norm_weight, {PREFIX}norm_bias"
OVER_TIME = "[1, 1], [1, 0], [1, 1], False, [0, 0], 1"
_CONV = ("norm.weight", "norm.bias", "conv.weight", "conv.bias")


def test_what_others_read_is_no_layer() -> None:
    result = SubstituteTemporal(("none",)).run(with_weights(network(extra=True)), a18())
    assert not result.changed
    assert "no temporal layer" in result.explanations[0].reason


@pytest.mark.parametrize("name", list(TINY))
def test_new_layers_start_as_the_identity(name: str) -> None:
    """Kinds in turn at several positions at once: one that changed what it is given would show at the output.

    Capturing a layer takes long; the benchmark ``substitution`` has every kind at every position.
    """
    given, kinds = tiny(name), tuple(TEMPORAL)
    count = len(temporal_layers(given))
    wanted = run_double(substitute(given, "none"))
    assert largest_difference(run_double(given), wanted) > 0.01, "what was there did something"
    mixed = [kinds[i % 6] if i < 9 else "none" for i in range(count)]
    new = substitute(given, *mixed)
    assert largest_difference(run_double(new), wanted) < 1e-6
    found = [layer.does[0].split()[0] for layer in temporal_layers(new)]
    assert found == [_WORDS[kind] for kind in mixed if kind != "none"]


_WORDS = dict.fromkeys(TEMPORAL, "attention") | {"conv1d": "convolution", "conv3d": "convolution"}


def test_new_layers_learn_to_do_something() -> None:
    """With other numbers than zeros in its last product, each new layer changes the output."""
    new = substitute(tiny("snapgen-v-small"), *TEMPORAL, "keep", "keep", "keep")
    asleep = run_double(new)
    for kind in TEMPORAL:
        last = [k for k in new.weights if f".{kind}." in k and k.split(".")[-2] in ("conv", "to_out", "fc")]
        assert last and not any(new.weights[k].load().any() for k in last)
        moved = {k: from_tensor(k, torch.full(new.weights[k].shape, 0.1)) for k in last}
        woken = replace(new, weights=new.weights | moved)
        assert largest_difference(run_double(woken), asleep) > 1e-4, kind


def test_kinds_and_positions_are_chosen_one_by_one() -> None:
    given = tiny("snapgen-v-small")
    new = substitute(given, "conv3d", "none", "keep", positions=("1", "mid.temporal", "up.2.0.temporal"))
    before, after = ({layer.name: layer.does for layer in temporal_layers(p)} for p in (given, new))
    names = [layer.name for layer in temporal_layers(given)]
    assert after.pop(f"{names[1]}") == ("convolution over the clip",)
    assert before.pop("mid.temporal") and before.pop(names[1])
    assert before == after


def test_numbers_depend_on_the_seed_and_the_position() -> None:
    given = tiny("snapgen-v-small")
    state = torch.random.get_rng_state()
    places = ("mid.temporal", "down.2.0.temporal")
    made = [substitute(given, "selfattention1d", positions=places, seed=seed).weights for seed in (0, 0, 1)]
    assert torch.equal(state, torch.random.get_rng_state()), "nobody else's random numbers move"
    one, again, other = (weights["mid.temporal.selfattention1d.to_q.weight"].load() for weights in made)
    assert torch.equal(one, again) and not torch.equal(one, other)
    place = made[0]["down.2.0.temporal.selfattention1d.to_q.weight"].load()
    assert place.shape == one.shape and not torch.equal(place, one)


def test_without_data_new_weights_have_none_and_half_precision_stays() -> None:
    new = substitute(program(network(dtype=torch.float16)), "selfattention3d")
    assert {weight.dtype for weight in new.weights.values()} == {torch.float16}
    assert not new.weights["add_tensor.selfattention3d.to_q.weight"].present
    assert all(weight.present for name, weight in new.weights.items() if name.endswith((".cos", ".sin")))


def test_a_network_without_a_prompt_cannot_read_one() -> None:
    with pytest.raises(UsageError, match="has no prompt for crossattention1d to read"):
        SubstituteTemporal(("crossattention1d",)).run(with_weights(network()), a18())


def test_mistakes_are_told() -> None:
    given = tiny("snapgen-v-small")
    with pytest.raises(UsageError, match="'conv4d' is not one of conv1d, conv3d"):
        make_pass("substitute-temporal", {"kinds": "conv4d"})
    with pytest.raises(UsageError, match=r"2 kinds for 9 positions; one for each of down.0.0.temporal"):
        SubstituteTemporal(("conv1d", "none")).run(given, a18())
    with pytest.raises(UsageError, match=r"has no temporal layer 'middle'; it has 0 down.0.0.temporal, 1"):
        SubstituteTemporal(("none",), positions=("middle",)).run(given, a18())
    assert make_pass("substitute-temporal", {"kinds": "conv1d+none"}) == SubstituteTemporal(("conv1d", "none"))


def test_without_kinds_it_says_what_there_is() -> None:
    result = SubstituteTemporal().run(tiny("snapgen-v-small"), a18())
    assert not result.changed
    assert result.explanations[0].node == "down.0.0.temporal"
    assert "attention over the clip" in result.explanations[4].reason


def test_sliced_programs_are_refused() -> None:
    with pytest.raises(UsageError, match="before slice-and-group"):
        SubstituteTemporal(("none",)).run(program(frames()[1]), a18())


def test_commands_say_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_weights(network()).save(tmp_path / "saved")
    assert main(["inspect", str(tmp_path / "saved")]) == 0
    assert "2×3×2×4×5" in capsys.readouterr().out
    assert main(["explain", str(tmp_path / "saved"), "--passes", "substitute-temporal"]) == 0
    assert "convolution over 3 frames" in " ".join(capsys.readouterr().out.split())
