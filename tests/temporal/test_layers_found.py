"""Temporal layers are found: those that the networks' authors call so, and none in networks of images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.temporal.networks import TINY, tiny, tiny_module
from vgcomp.capture import capture
from vgcomp.errors import UsageError
from vgcomp.models import build
from vgcomp.models.temporal import TEMPORAL as KINDS
from vgcomp.program import Program
from vgcomp.temporal import TemporalLayer, temporal_layers

#: Classes of modules that mix frames, by name. Only this test knows them.
CLASSES = {
    "TemporalResnetBlock",
    "TemporalBasicTransformerBlock",
    "AnimateDiffTransformer3D",
    "TemporalConv",
    "TemporalAttention",
}


def truth(name: str) -> dict[str, set[str]]:
    """By the path of each temporal module: the names of its parameters."""
    return {
        path: {f"{path}.{key}" for key, _ in child.named_parameters()}
        for path, child in tiny_module(name).named_modules()
        if type(child).__name__ in CLASSES
    }


def weights_of(program: Program, layer: TemporalLayer) -> set[str]:
    """Names of the weights that a layer's nodes read."""
    nodes = {node.name: node for node in program.graph.nodes}
    read = {x for name in layer.nodes for x in nodes[name].all_input_nodes}
    return {str(x.target) for x in read if x.op == "get_attr" and not str(x.target).startswith("const_")}


@pytest.mark.parametrize("name", list(TINY))
def test_they_are_the_modules_that_are_called_temporal(name: str) -> None:
    program, modules = tiny(name), truth(name)
    layers = temporal_layers(program)
    assert len(layers) == len(modules)
    assert all(layer.frames == TINY[name]["frames"] for layer in layers)
    remaining = dict(modules)
    for layer in layers:
        # A rotary table is a buffer of the module.
        read = {weight for weight in weights_of(program, layer) if not weight.endswith((".cos", ".sin"))}
        (path,) = (path for path, own in remaining.items() if read & own)
        beside = read - remaining.pop(path)
        assert all(weight.endswith("time_mixer.mix_factor") for weight in beside), f"{layer.name} takes {beside} along"
        assert path.startswith(layer.name)


@pytest.mark.parametrize("name", list(TINY))
def test_no_weight_of_theirs_is_read_elsewhere(name: str) -> None:
    """But for embeddings of the timestep and of positions, which do not depend on the clip."""
    program = tiny(name)
    owned = set().union(*truth(name).values())
    held = {node for layer in temporal_layers(program) for node in layer.nodes}
    left = [
        str(x.target)
        for node in program.graph.nodes
        if node.op == "call_function" and node.name not in held
        for x in node.all_input_nodes
        if x.op == "get_attr" and x.target in owned
    ]
    assert all("time_emb_proj" in weight or ".attn2.to_" in weight for weight in left), left


def test_what_they_do_is_said() -> None:
    found = {layer.name: layer for layer in temporal_layers(tiny("snapgen-v-small"))}
    assert found["down.0.0.temporal"].does == ("convolution over 3 frames",)
    assert found["down.1.0.temporal"].does == ("attention over the frames of a place",)
    assert found["mid.temporal"].does == ("attention over the clip",)
    assert found["mid.temporal"].shape == "1×3×128×1×2"
    svd = temporal_layers(tiny("svd-unet-small"))
    assert svd[1].does == ("attention over the frames of a place", "attention to the prompt along the frames")


def test_each_kind_is_found_wherever_it_stands() -> None:
    """Cross-attention alone mixes no frames, but the clip is laid out for it as for no image."""
    kinds = (*KINDS, "none", "crossattention1d", "crossattention3d")
    program = build("snapgen-v-small", **TINY["snapgen-v-small"], temporal="+".join(kinds))
    assert [layer.does[0] for layer in temporal_layers(program)] == [
        "convolution over 3 frames",
        "convolution over the clip",
        "attention over the frames of a place",
        "attention over the clip",
        *["attention to the prompt along the frames"] * 4,
    ]


@pytest.mark.parametrize("name", ["sd-vae-decoder-small"])
def test_none_is_found_where_nothing_works_frame_by_frame_and_mixes_frames(name: str) -> None:
    assert temporal_layers(build(name)) == ()


class Causal(nn.Module):
    """Frames in twos, one outer batch: two images' convolution, a causal window over the frames."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)
        self.mix = nn.Conv1d(6, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        images = self.before(x)
        clip = images.unflatten(0, (2, 4)).permute(0, 3, 4, 2, 1).flatten(0, 2)
        mixed = self.mix(nn.functional.pad(clip, (2, 0))).unflatten(0, (2, 5, 7)).permute(0, 4, 3, 1, 2)
        return self.after(images + 0.5 * mixed.flatten(0, 1))  # type: ignore[no-any-return]


def test_a_scaled_causal_window_of_a_layer_nobody_knows() -> None:
    torch.manual_seed(0)
    program = capture(Causal(), (torch.randn(8, 3, 5, 7),), name="causal")
    (layer,) = temporal_layers(program)
    assert (layer.batch, layer.frames, layer.channels, layer.height, layer.width) == (2, 4, 6, 5, 7)
    assert temporal_layers(program, frames=4) == (layer,)
    with pytest.raises(UsageError, match="3 frames do not make up the 8 images"):
        temporal_layers(program, frames=3)
