"""A clip however it lies in its dimensions is known, and turned into images and back."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from tests.graph_builder import Builder, aten
from tests.passes.support import program
from vgcomp.backends.torch_module import run_graph
from vgcomp.legalize.editor import Editor
from vgcomp.temporal.frames import find_clip
from vgcomp.temporal.layout import layout_of

AXES = "BTCHW"


@st.composite
def views(draw: st.DrawFn) -> tuple[dict[str, int], list[str]]:
    """Sizes of the five axes, and which of them each dimension holds, in any order."""
    sizes = {name: draw(st.integers(1 if name in "BHW" else 2, 3), label=name) for name in AXES}
    order = draw(st.permutations(AXES))
    cuts = sorted(draw(st.sets(st.integers(1, 4))))
    return sizes, ["".join(order[a:b]) for a, b in pairwise([0, *cuts, 5])]


def images_and_view(sizes: dict[str, int], dims: list[str]) -> tuple[Builder, fx.Node, fx.Node]:
    """A convolution's images, and the same clip with its axes in these dimensions."""
    b = Builder()
    channels = sizes["C"]
    x = b.input("x", (sizes["B"] * sizes["T"], channels, sizes["H"], sizes["W"]))
    images = b.conv(x, b.weight("w", (channels, channels, 3, 3)), [1, 1])
    split = b.call(aten.reshape.default, images, [sizes[name] for name in AXES])
    turned = b.call(aten.permute.default, split, [AXES.index(name) for name in "".join(dims)])
    merged = [math.prod(sizes[name] for name in dim) for dim in dims]
    return b, images, b.call(aten.reshape.default, turned, merged)


@settings(max_examples=60, deadline=None)
@given(views())
def test_any_layout_is_known_and_turned_back(drawn: tuple[dict[str, int], list[str]]) -> None:
    sizes, dims = drawn
    b, images, view = images_and_view(sizes, dims)
    end = b.call(aten.neg.default, view)
    clip = find_clip(program(b.done(images, end)), sizes["T"])
    assert clip is not None
    layout = layout_of(clip, view)
    assert layout is not None
    assert layout.sizes == sizes
    assert [set(dim) for dim in layout.dims] == [{name for name in dim if sizes[name] > 1} for dim in dims]
    at = Editor(b.graph, end)
    back = layout.to_images(at, view)
    again = layout.from_images(at, images)
    b.graph.output_node().args = ((images, back, view, again),)
    torch.manual_seed(0)
    weights = {"w": torch.randn(sizes["C"], sizes["C"], 3, 3)}
    x = torch.randn(sizes["B"] * sizes["T"], sizes["C"], sizes["H"], sizes["W"])
    wanted, turned, seen, made = run_graph(b.graph, [x], weights)
    assert torch.equal(turned, wanted)
    assert torch.equal(made, seen)
