"""Wrapped pipelines: the frames that they made before, within a budget, and never silently outside it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vgcomp
from tests.generation import small_pipes
from vgcomp import ir
from vgcomp.errors import Infeasible, UsageError
from vgcomp.generation.wrapping import WrapWarning


def relative(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max())


@pytest.mark.slow
def test_stable_video_diffusion_makes_the_same_frames() -> None:
    pipe = small_pipes.svd()
    wanted = pipe(**small_pipes.svd_arguments()).frames
    config, dtype, device = dict(pipe.unet.config), pipe.unet.dtype, pipe.vae.device
    with vgcomp.wrap(pipe, memory=small_pipes.SVD_BUDGET, target="cpu") as wrapped:
        assert relative(pipe(**small_pipes.svd_arguments()).frames, wanted) <= 5e-5
        assert (dict(pipe.unet.config), pipe.unet.dtype, pipe.vae.device) == (config, dtype, device)
        seen = {each.name: each for each in wrapped.seen()}
        assert {"image_encoder", "vae.encoder", "unet", "vae.decoder"} <= set(seen)
        assert seen["unet"].calls == 2
        assert all(each.answer.need_bytes <= wrapped.memory for each in seen.values())
        assert any(ir.is_loop(node) for node in program_of(seen["unet"]).graph.nodes), "the budget needs slices"
        # Weights are the pipeline's own: what is done to them is seen, with nothing captured anew.
        with torch.no_grad():
            pipe.vae.decoder.conv_out.bias += 0.5
        assert relative(pipe(**small_pipes.svd_arguments()).frames, wanted) > 1e-2
        assert len(wrapped.seen()) == len(seen)
    assert not any("forward" in module.__dict__ for module in pipe.vae.modules())


@pytest.mark.slow
def test_animatediff_makes_the_same_frames() -> None:
    pipe = small_pipes.animatediff()
    wanted = pipe(**small_pipes.animatediff_arguments()).frames
    wrapped = vgcomp.wrap(pipe, memory=small_pipes.ANIMATEDIFF_BUDGET, target="cpu")
    assert relative(pipe(**small_pipes.animatediff_arguments()).frames, wanted) <= 5e-5
    names = {each.name for each in wrapped.seen()}
    assert {"unet", "vae.decoder"} <= names
    assert not any(name.startswith("motion_adapter") for name in names), "its weights are in the UNet"
    vgcomp.unwrap(pipe)
    assert not any("forward" in module.__dict__ for module in pipe.unet.modules())


def program_of(seen: Any) -> Any:
    return seen.answer.plan.program


# -- small networks of our own -----------------------------------------------------------------------


class Net(nn.Module):
    """Does a little of what the networks of pipelines do, and what some of them should not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 4, 3, padding=1)
        self.norm = nn.GroupNorm(4, 16)

    def forward(self, x: Tensor, scale: Any = 1.0, *, cache: list[Tensor] | None = None, as_dict: bool = False) -> Any:
        y = self.last(torch.nn.functional.silu(self.norm(self.first(x)))) * scale
        if cache is not None:
            cache.append(y)
        return {"sample": y, "steps": 3} if as_dict else y


class _Number(float):
    """A number that is no plain value."""


class Parent(nn.Module):
    """Whose own ``forward`` nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def decode(self, x: Tensor) -> Tensor:
        return self.net(x) + 1


@pytest.fixture
def pipe() -> Any:
    torch.manual_seed(0)
    return SimpleNamespace(components={"net": Net().eval(), "vae": Parent().eval(), "scheduler": object()})


def net_of(pipe: Any) -> Any:
    return pipe.components["net"]


@torch.no_grad()
def test_each_kind_of_call_is_captured_once(pipe: Any) -> None:
    net, (x, y) = net_of(pipe), (torch.randn(2, 4, 16, 16), torch.randn(1, 4, 24, 8))
    wanted = [net(x), net(y), net(x, scale=torch.tensor(2.0)), net(x, 2, as_dict=True)]
    wrapped = vgcomp.wrap(pipe, memory="64MB")
    for _ in range(2):
        got = [net(x), net(y), net(x, scale=torch.tensor(2.0)), net(x, 2, as_dict=True)]
        assert relative(got[0], wanted[0]) <= 5e-5
        assert relative(got[1], wanted[1]) <= 5e-5
        assert relative(got[2], wanted[2]) <= 5e-5
        assert got[3]["steps"] == 3
        assert relative(got[3]["sample"], wanted[3]["sample"]) <= 5e-5
    assert [seen.calls for seen in wrapped.seen()] == [2, 2, 2, 2]
    assert "net" in wrapped.text()


@torch.no_grad()
def test_a_part_that_a_method_calls_is_captured(pipe: Any) -> None:
    vae, x = pipe.components["vae"], torch.randn(2, 4, 16, 16)
    wanted = vae.decode(x)
    wrapped = vgcomp.wrap(pipe, memory="64MB")
    assert relative(vae.decode(x), wanted) <= 5e-5
    assert [seen.name for seen in wrapped.seen()] == ["vae.net"]


@torch.no_grad()
def test_inputs_in_another_layout_run_the_same_plan(pipe: Any) -> None:
    net, x = net_of(pipe), torch.randn(2, 16, 16, 4).permute(0, 3, 1, 2)
    wanted = net(x)
    wrapped = vgcomp.wrap(pipe, memory="64MB")
    assert relative(net(x), wanted) <= 5e-5
    assert relative(net(x.contiguous()), wanted) <= 5e-5
    assert len(wrapped.seen()) == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"cache": []}, "changes the containers"),
        ({"scale": _Number(2)}, "argument is a _Number"),
    ],
)
@torch.no_grad()
def test_what_cannot_be_captured_runs_as_it_is_and_says_so_once(pipe: Any, arguments: dict[str, Any], why: str) -> None:
    net, x = net_of(pipe), torch.randn(1, 4, 8, 8)
    wanted = net(x, **arguments)
    vgcomp.wrap(pipe, memory="64MB")
    with pytest.warns(WrapWarning, match=f"net runs as it is.*{why}") as told:
        got = [net(x, **arguments) for _ in range(2)]
    assert all(torch.equal(each, wanted) for each in got)
    assert len(told) == 1


def test_gradients_and_training_are_left_alone(pipe: Any) -> None:
    net, x = net_of(pipe), torch.randn(1, 4, 8, 8)
    vgcomp.wrap(pipe, memory="64MB")
    with pytest.warns(WrapWarning, match="gradients are recorded"):
        net(x).sum().backward()
    assert net.first.weight.grad is not None
    net.train()
    with pytest.warns(WrapWarning, match="training mode"), torch.no_grad():
        net(x)


@torch.no_grad()
def test_a_network_that_does_not_fit_is_named(pipe: Any) -> None:
    net, x = net_of(pipe), torch.randn(2, 4, 16, 16)
    vgcomp.wrap(pipe, memory="30KB")
    with pytest.raises(Infeasible, match="net does not fit") as raised:
        net(x)
    vgcomp.unwrap(pipe)
    wanted = net(x)
    vgcomp.wrap(pipe, memory=raised.value.smallest_bytes)
    assert relative(net(x), wanted) <= 5e-5


def test_what_cannot_be_wrapped_is_refused(pipe: Any) -> None:
    with pytest.raises(UsageError, match="no networks among its components"):
        vgcomp.wrap(SimpleNamespace(components={}), memory="1GB")
    vgcomp.wrap(pipe, memory="1GB")
    with pytest.raises(UsageError, match="wrapped already"):
        vgcomp.wrap(pipe, memory="1GB")
    vgcomp.unwrap(pipe)
    net_of(pipe).first._hf_hook = object()
    with pytest.raises(UsageError, match="hooks that move its weights"):
        vgcomp.wrap(pipe, memory="1GB")
