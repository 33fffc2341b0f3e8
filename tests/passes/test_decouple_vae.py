"""``decouple-vae``: Before and Expected, exact at full rank, the best below it, and trained nearer to the original."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.graph_builder import Builder, aten, random_weights
from tests.passes.engine import a18
from tests.passes.support import body, body_of, program
from vgcomp.backends.torch_module import TorchModule
from vgcomp.backends.trainable import TrainableModule
from vgcomp.capture import capture
from vgcomp.errors import UsageError
from vgcomp.models.initialise import build_untouched, randomise
from vgcomp.models.snapgen import TemporalDecoder
from vgcomp.passes.decouple_vae import DecoupleVae
from vgcomp.passes.registry import make_pass
from vgcomp.program import Program
from vgcomp.temporal.factors import Factors, Form, factored, full_rank
from vgcomp.training.distillation import Distillation, DistillationRecipe, shared_features
from vgcomp.training.loop import Saving, train
from vgcomp.verify import verify
from vgcomp.weights import from_tensor

SIZES = {"depthwise": (8, 5, 3, 3, 3), "split": (6, 5, 3, 3, 3)}


def network(stride: tuple[int, int, int] = (1, 1, 1)) -> Program:
    b = Builder()
    x, w, c = b.input("x", (1, 4, 5, 6, 7)), b.weight("conv.weight", (8, 4, 3, 3, 3)), b.weight("conv.bias", (8,))
    args = (list(stride), [1, 0, 1], [1, 1, 1], False, [0, 0, 0], 1)
    graph = b.done(b.call(aten.convolution.default, x, w, c, *args))
    weights = {name: from_tensor(name, value) for name, value in random_weights(graph).items()}
    return replace(program(graph), weights=weights)


def decoupled(given: Program, **options: object) -> Program:
    result = DecoupleVae(**options).run(given, a18())  # type: ignore[arg-type]
    verify(result.program)
    assert result.changed
    return result.program


def difference(a: Program, b: Program, inputs: list[Tensor]) -> float:
    found, wanted = TorchModule(a)(*inputs)[0], TorchModule(b)(*inputs)[0]
    return float((found - wanted).norm() / wanted.norm())


def test_a_kernel_a_channel_and_then_one_by_one() -> None:
    new = decoupled(network())
    assert body_of(new) == body(
        """
        %x : f32[1, 4, 5, 6, 7] = input
        %conv_bias : f32[8] = weight 'conv.bias'
        %conv_depthwise_weight : f32[4, 1, 3, 3, 3] = weight 'conv.depthwise.weight'
        %conv_pointwise_weight : f32[8, 4, 1, 1, 1] = weight 'conv.pointwise.weight'
        %convolution_default_1 : f32[1, 4, 5, 4, 7] = convolution(%x, %conv_depthwise_weight, None, {FIRST})
        %convolution_default_2 : f32[1, 8, 5, 4, 7] = convolution(%convolution_default_1, {SECOND})
        return [%convolution_default_2]
        """.replace("{FIRST}", "[1, 1, 1], [1, 0, 1], [1, 1, 1], False, [0, 0, 0], 4").replace(
            "{SECOND}", "%conv_pointwise_weight, %conv_bias, [1, 1, 1], [0, 0, 0], [1, 1, 1], False, [0, 0, 0], 1"
        )
    )


def test_space_and_then_time() -> None:
    new = decoupled(network(), form="split", rank=0.5)
    assert body_of(new) == body(
        """
        %x : f32[1, 4, 5, 6, 7] = input
        %conv_bias : f32[8] = weight 'conv.bias'
        %conv_spatial_weight : f32[4, 4, 1, 3, 3] = weight 'conv.spatial.weight'
        %conv_temporal_weight : f32[8, 4, 3, 1, 1] = weight 'conv.temporal.weight'
        %convolution_default_1 : f32[1, 4, 5, 4, 7] = convolution(%x, %conv_spatial_weight, None, {FIRST})
        %convolution_default_2 : f32[1, 8, 5, 4, 7] = convolution(%convolution_default_1, {SECOND})
        return [%convolution_default_2]
        """.replace("{FIRST}", "[1, 1, 1], [0, 0, 1], [1, 1, 1], False, [0, 0, 0], 1").replace(
            "{SECOND}", "%conv_temporal_weight, %conv_bias, [1, 1, 1], [1, 0, 0], [1, 1, 1], False, [0, 0, 0], 1"
        )
    )


def low_rank(form: Form, rank: int, stride: tuple[int, int, int]) -> Program:
    """A convolution whose kernel is a product of ``rank``."""
    given = network(stride)
    kernel = given.weights["conv.weight"].load()
    found = factored(form, kernel, rank)
    return replace(given, weights={**given.weights, "conv.weight": from_tensor("conv.weight", product(form, found))})


def product(form: Form, found: Factors) -> Tensor:
    """The kernel that two kernels make together."""
    first, second = found.first.double(), found.second.double()
    if form == "split":
        return torch.einsum("rihw,ort->oithw", first[:, :, 0], second[:, :, :, 0, 0]).float()
    kernels = first.reshape(4, -1, *first.shape[2:])
    return torch.einsum("irthw,oir->oithw", kernels, second.reshape(second.shape[0], 4, -1)).float()


@pytest.mark.parametrize("form", ["depthwise", "split"])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 1, 2)])
def test_a_kernel_of_that_rank_is_met_exactly(form: Form, stride: tuple[int, int, int]) -> None:
    """At the borders too, and where it steps: padding and strides are shared out right."""
    given = low_rank(form, 2, stride)
    new = decoupled(given, form=form, rank=2.0 if form == "depthwise" else 0.25)
    torch.manual_seed(0)
    assert difference(new, given, [torch.randn(1, 4, 5, 6, 7)]) < 1e-5


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["depthwise", "split"]), st.integers(1, 9), st.integers(0, 1000))
def test_what_is_lost_is_said_and_grows_less_with_the_rank(form: Form, rank: int, seed: int) -> None:
    kernel = torch.randn(SIZES[form], generator=torch.Generator().manual_seed(seed))
    most = full_rank(form, SIZES[form])
    errors = [factored(form, kernel, r).error for r in (min(rank, most), min(rank + 1, most), most)]
    assert errors[0] >= errors[1] >= errors[2]
    assert errors[2] < 1e-6


def test_the_error_said_is_the_kernels() -> None:
    given = network()
    for form, rank, key in (("depthwise", 1.0, 1), ("split", 0.5, 4)):
        result = DecoupleVae(form=form, rank=rank).run(given, a18())  # type: ignore[arg-type]
        kernel = given.weights["conv.weight"].load()
        lost = (product(form, factored(form, kernel, key)) - kernel).norm() / kernel.norm()  # type: ignore[arg-type]
        assert result.stats["error conv"] == pytest.approx(float(lost), rel=1e-4)
        assert result.stats["worst_error"] == result.stats["error conv"]


def test_without_data_there_are_shapes() -> None:
    given = network().without_data({"conv.weight"})
    result = DecoupleVae().run(given, a18())
    verify(result.program)
    assert not result.program.weights["conv.depthwise.weight"].present
    assert "worst_error" not in result.stats


def test_what_stays_is_said() -> None:
    again = DecoupleVae().run(decoupled(network()), a18())
    assert not again.changed
    assert "groups already" in again.explanations[0].reason
    full = DecoupleVae(rank=9.0).run(network(), a18())
    assert "as many weights" in full.explanations[0].reason
    other = DecoupleVae(layers=("nothing",), form="split").run(network(), a18())
    assert "no convolution that form=split" in other.explanations[0].reason
    with pytest.raises(UsageError, match="dims is 3"):
        make_pass("decouple-vae", {"form": "split", "dims": "2"})


# -- distillation --------------------------------------------------------------------------------------


@cache
def decoder() -> Program:
    """SnapGen-V's temporal decoder, of 8 channels: 13 convolutions over 2 latent frames of 3×4."""
    module = build_untouched(lambda: TemporalDecoder((8, 8, 8, 8), 1, separable=False), torch.float32)
    randomise(module, 0)
    return capture(module, (torch.randn(1, 4, 2, 3, 4),), name="decoder", input_names=("z",))


def latents(i: int) -> list[Tensor]:
    return [torch.randn(1, 4, 2, 3, 4, generator=torch.Generator().manual_seed(i))]


def test_gradients_are_those_of_the_program() -> None:
    given = network()
    module = TrainableModule(given)
    x = torch.randn(1, 4, 5, 6, 7)
    assert torch.equal(module(x)[0], TorchModule(given)(x)[0])
    module(x)[0].sum().backward()
    learnt = module.named_weights()
    assert set(learnt) == {"conv.weight", "conv.bias"}
    assert torch.allclose(learnt["conv.bias"].grad, torch.full((8,), 5.0 * 4 * 7))  # type: ignore[arg-type]
    with torch.no_grad():
        learnt["conv.bias"].add_(1.0)
    assert torch.allclose(TorchModule(module.program())(x)[0], TorchModule(given)(x)[0] + 1.0, atol=1e-5)
    with pytest.raises(UsageError, match="no weight 'other' to train"):
        TrainableModule(given, ("other",))


@pytest.mark.parametrize("form", ["depthwise", "split"])
def test_a_few_steps_bring_a_decoder_nearer_to_the_original(form: Form) -> None:
    given = decoder()
    new = decoupled(given, form=form, rank=1.0 if form == "depthwise" else 0.25)
    training = Distillation(given, new, latents, DistillationRecipe(rate=1e-2))
    assert training.features == shared_features(given, new, 8) and len(training.features) >= 4
    held_out = latents(10_000)
    before = training.distance(held_out)
    for i in range(12):
        training.iterate(i)
    assert before > 0.01
    assert training.distance(held_out) < 0.7 * before
    learnt = training.program()
    verify(learnt)
    wanted = TorchModule(given)(*held_out)[0]
    found = TorchModule(learnt)(*held_out)[0]
    error = float((found - wanted).square().mean() / wanted.square().mean())
    assert error == pytest.approx(training.distance(held_out), rel=1e-3)


def test_it_is_taken_up_where_it_stopped(tmp_path: Path) -> None:
    given = decoder()
    new = decoupled(given)
    whole, first, second = (Distillation(given, new, latents) for _ in range(3))
    train(whole, 4, Saving())
    train(first, 2, Saving(tmp_path / "run", every=2))
    train(second, 4, Saving(tmp_path / "run", every=2))
    for name, value in whole.rewritten.named_weights().items():
        assert torch.equal(value, second.rewritten.named_weights()[name]), name
