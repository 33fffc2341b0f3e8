"""Random Programs: small fp32 networks of the kinds of blocks that video diffusion is made of.

``programs()`` draws a shape, then a row of blocks. A block first brings the features to the layout that it
works in, by the reshapes and permutes that such networks use, so that merged axes (batch * frames,
batch * height * width) come up everywhere. Everything shrinks towards one block on a tiny tensor.
Weights are real, seeded by their number.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from vgcomp import infer, ir
from vgcomp.backends.torch_module import TorchModule
from vgcomp.check import random_inputs
from vgcomp.program import Program, Source
from vgcomp.track import LiveTracker
from vgcomp.weights import Weight, from_tensor

aten = torch.ops.aten

#: images (B*T, C, H, W); video (B, C, T, H, W); tokens (B*T, H*W, C); pixels (B*H*W, T, C).
Layout = Literal["images", "video", "tokens", "pixels"]


#: Few examples: a run of all properties takes a minute or two. HYPOTHESIS_EXAMPLES asks for more.
quick = settings(
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def run(program: Program) -> tuple[Tensor, ...]:
    """Outputs on the program's random inputs."""
    return TorchModule(program)(*random_inputs(program))


def tracked_peak(program: Program) -> int:
    """Bytes of live storage at their most while it runs."""
    module, inputs = TorchModule(program), random_inputs(program)
    with torch.no_grad(), LiveTracker(inputs) as tracker:
        out = module(*inputs)
    del out
    return tracker.peak


class Drawn(Program):
    """A Program that shows its text where a test fails."""

    def __repr__(self) -> str:
        return "\n" + self.text()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))


class ProgramBuilder:
    """Builds one Program; calls may come before later inputs and weights, the sections stay in order."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.weights: dict[str, Weight] = {}
        self._last_input: fx.Node | None = None
        self._last_weight: fx.Node | None = None

    def input(self, name: str, shape: Sequence[int]) -> fx.Node:
        with self._after(self._last_input):
            node = self.graph.placeholder(name)
        node.meta["val"] = infer.fake_tensor(shape, torch.float32)
        self._last_input = node
        return node

    def weight(self, *shape: int, around: float = 0.0) -> fx.Node:
        """A random weight: scaled by its fan-in, or near ``around`` for scales of norms and biases."""
        number = len(self.weights)
        name = f"w{number}"
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(number))
        data = noise / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else around + 0.3 * noise
        self.weights[name] = from_tensor(name, data)
        with self._after(self._last_weight or self._last_input):
            node = self.graph.get_attr(name)
        node.meta["val"] = infer.fake_tensor(shape, torch.float32)
        self._last_weight = node
        return node

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = self.graph.call_function(target, args, kwargs)
        node.meta["val"] = infer.node_value(node)
        return node

    def finish(self, outputs: Sequence[fx.Node]) -> Program:
        self.graph.output(tuple(outputs))
        names = tuple(f"out{i}" for i in range(len(outputs)))
        return Drawn("random", self.graph, self.weights, names, Source("torch", "tests.properties.graphs"))

    def _after(self, node: fx.Node | None) -> Any:
        if node is None:
            return self.graph.inserting_before(next(iter(self.graph.nodes), None))
        return self.graph.inserting_after(node)

    # Shorthands that spell ops as capture does.

    def reshape(self, x: fx.Node, *shape: int) -> fx.Node:
        return x if shape_of(x) == shape else self.call(aten.reshape.default, x, list(shape))

    def permute(self, x: fx.Node, *dims: int) -> fx.Node:
        return self.call(aten.permute.default, x, list(dims))

    def slice(self, x: fx.Node, dim: int, start: int, end: int) -> fx.Node:
        return self.call(aten.slice.Tensor, x, dim, start, end)

    def linear(self, x: fx.Node, features: int, *, bias: bool = True) -> fx.Node:
        weight = self.weight(features, shape_of(x)[-1])
        return self.call(aten.linear.default, x, weight, *([self.weight(features)] if bias else []))

    def conv(self, x: fx.Node, features: int, kernel: Sequence[int], **how: Any) -> fx.Node:
        """``how``: stride, padding, dilation (lists), groups."""
        n, groups = len(kernel), how.get("groups", 1)
        weight = self.weight(features, shape_of(x)[1] // groups, *kernel)
        stride, dilation = how.get("stride", [1] * n), how.get("dilation", [1] * n)
        padding = how.get("padding", [d * (k // 2) for k, d in zip(kernel, dilation)])
        bias = self.weight(features)
        return self.call(aten.convolution.default, x, weight, bias, stride, padding, dilation, False, [0] * n, groups)


def shape_of(node: fx.Node) -> tuple[int, ...]:
    return tuple(ir.val(node).shape)


@dataclass(frozen=True)
class Features:
    """A value with the sizes that its layout folds together."""

    node: fx.Node
    layout: Layout
    b: int
    t: int
    c: int
    h: int
    w: int

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        return self.b, self.t, self.c, self.h, self.w


@dataclass
class Context:
    """What blocks draw from and build with."""

    build: ProgramBuilder
    draw: st.DrawFn
    #: Earlier features, for skip connections.
    skips: list[Features]
    embedding: fx.Node | None = None
    prompt: fx.Node | None = None

    def pick(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))


Block = Callable[[Context, Features], Features]


# -- layouts ---------------------------------------------------------------------------------------


def to_layout(m: ProgramBuilder, f: Features, layout: Layout) -> Features:
    """The same features in another layout, by way of images."""
    if f.layout == layout:
        return f
    if f.layout != "images":
        f = _to_images(m, f)
    return _from_images(m, f, layout)


def _to_images(m: ProgramBuilder, f: Features) -> Features:
    b, t, c, h, w = f.sizes
    x = f.node
    if f.layout == "video":
        x = m.reshape(m.permute(x, 0, 2, 1, 3, 4), b * t, c, h, w)
    elif f.layout == "tokens":
        x = m.permute(m.reshape(x, b * t, h, w, c), 0, 3, 1, 2)
    elif f.layout == "pixels":
        x = m.permute(m.reshape(x, b, h * w, t, c), 0, 2, 1, 3)
        x = m.permute(m.reshape(x, b * t, h, w, c), 0, 3, 1, 2)
    return replace(f, node=x, layout="images")


def _from_images(m: ProgramBuilder, f: Features, layout: Layout) -> Features:
    b, t, c, h, w = f.sizes
    x = f.node
    if layout == "video":
        x = m.permute(m.reshape(x, b, t, c, h, w), 0, 2, 1, 3, 4)
    elif layout == "tokens":
        x = m.reshape(m.permute(x, 0, 2, 3, 1), b * t, h * w, c)
    elif layout == "pixels":
        x = m.reshape(m.permute(x, 0, 2, 3, 1), b, t, h * w, c)
        x = m.reshape(m.permute(x, 0, 2, 1, 3), b * h * w, t, c)
    return replace(f, node=x, layout=layout)


# -- blocks ----------------------------------------------------------------------------------------


def activation(ctx: Context, f: Features) -> Features:
    """An elementwise function of one input."""
    target = ctx.pick(aten.silu.default, aten.gelu.default, aten.tanh.default, aten.relu.default)
    return replace(f, node=ctx.build.call(target, f.node))


def conv2d(ctx: Context, f: Features) -> Features:
    """A convolution in space: plain, pointwise, dilated, depthwise or with a stride."""
    m, f = ctx.build, to_layout(ctx.build, f, "images")
    kind = ctx.pick("plain", "pointwise", "dilated", "depthwise", "strided", "uneven")
    if kind == "strided" and min(f.h, f.w) < 3:
        kind = "plain"
    if kind == "strided":
        y = m.conv(f.node, f.c, [3, 3], stride=[2, 2], padding=[1, 1])
        return replace(f, node=y, h=shape_of(y)[2], w=shape_of(y)[3])
    how: dict[str, Any] = {
        "plain": {},
        "pointwise": {},
        "dilated": {"dilation": [2, 2]},
        "depthwise": {"groups": f.c},
        "uneven": {"padding": [0, 2]},
    }[kind]
    kernel = {"pointwise": [1, 1], "uneven": [1, 5]}.get(kind, [3, 3])
    features = f.c if kind == "depthwise" else ctx.pick(f.c, 8)
    return replace(f, node=m.conv(f.node, features, kernel, **how), c=features)


def conv_over_time(ctx: Context, f: Features) -> Features:
    """A convolution that sees frames: (3,1,1), 3x3x3, causal (padded at the start only), or 1-D on pixels."""
    m, kind = ctx.build, ctx.pick("311", "333", "causal", "first frame repeated", "1d")
    if kind == "1d":
        f = to_layout(m, f, "pixels")
        y = m.conv(m.permute(f.node, 0, 2, 1), f.c, [3])
        return replace(f, node=m.permute(y, 0, 2, 1))
    f = to_layout(m, f, "video")
    x = f.node
    if kind == "311":
        return replace(f, node=m.conv(x, f.c, [3, 1, 1]))
    if kind == "333":
        return replace(f, node=m.conv(x, f.c, [3, 3, 3]))
    if kind == "causal":
        x = m.call(aten.constant_pad_nd.default, x, [1, 1, 1, 1, 2, 0])
    else:
        first = m.slice(x, 2, 0, 1)
        x = m.call(aten.constant_pad_nd.default, m.call(aten.cat.default, [first, first, x], 2), [1, 1, 1, 1])
    return replace(f, node=m.conv(x, f.c, [3, 3, 3], padding=[0, 0, 0]))


def group_norm(ctx: Context, f: Features) -> Features:
    """Over an image or over the whole video."""
    m = ctx.build
    f = to_layout(m, f, ctx.pick("images", "video"))
    groups = ctx.pick(2, 4, 1)
    scale, shift = m.weight(f.c, around=1.0), m.weight(f.c)
    # A large eps: on channels-last images torch's CPU kernel takes the variance as E[x^2] - E[x]^2, which is wrong
    # by 1e-7 of the mean's square; where numbers are nearly equal its outputs would be no reference.
    return replace(f, node=m.call(aten.group_norm.default, f.node, groups, scale, shift, 1e-2))


def channel_norm(ctx: Context, f: Features) -> Features:
    """LayerNorm or RMS norm of tokens, or an RMS norm spelled out over channels."""
    m, kind = ctx.build, ctx.pick("layer", "rms", "by hand")
    if kind == "by hand":
        f = to_layout(m, f, "video")
        length = m.call(aten.linalg_vector_norm.default, f.node, 2, [1], True)
        unit = m.call(aten.div.Tensor, f.node, m.call(aten.clamp.default, length, 1e-6))
        return replace(f, node=m.call(aten.mul.Tensor, unit, m.weight(f.c, 1, 1, 1)))
    f = to_layout(m, f, ctx.pick("tokens", "pixels"))
    scale = m.weight(f.c, around=1.0)
    if kind == "rms":
        return replace(f, node=m.call(aten.rms_norm.default, f.node, [f.c], scale, 1e-6))
    return replace(f, node=m.call(aten.layer_norm.default, f.node, [f.c], scale, m.weight(f.c), 1e-5))


def attention(ctx: Context, f: Features) -> Features:
    """Over space, over time (causal or not), over both, or to a prompt; fused or spelled out."""
    m, kind = ctx.build, ctx.pick("space", "time", "prompt", "all")
    f = to_layout(m, f, "pixels" if kind == "time" else "tokens")
    rows, length, c = shape_of(f.node)
    x = m.reshape(f.node, f.b, f.t * length, c) if kind == "all" else f.node
    if kind == "all":
        rows, length = f.b, f.t * length
    source = _prompt(ctx, f) if kind == "prompt" else x
    heads = ctx.pick(1, 2)
    q, k, v = (_heads(m, m.linear(value, c, bias=False), heads) for value in (x, source, source))
    if ctx.pick(True, False):
        causal = kind == "time" and ctx.pick(False, True)
        y = m.call(aten.scaled_dot_product_attention.default, q, k, v, None, 0.0, causal)
    else:
        scores = m.call(aten.matmul.default, q, m.permute(k, 0, 1, 3, 2))
        scores = m.call(aten.mul.Tensor, scores, (c // heads) ** -0.5)
        y = m.call(aten.matmul.default, m.call(aten.softmax.int, scores, 3), v)
    y = m.linear(m.reshape(m.permute(y, 0, 2, 1, 3), rows, length, c), c)
    return replace(f, node=m.reshape(y, *shape_of(f.node)))


def _heads(m: ProgramBuilder, x: fx.Node, heads: int) -> fx.Node:
    """(rows, length, c) -> (rows, heads, length, c / heads)."""
    rows, length, c = shape_of(x)
    return m.permute(m.reshape(x, rows, length, heads, c // heads), 0, 2, 1, 3)


def _prompt(ctx: Context, f: Features) -> fx.Node:
    """Three words for each video, repeated for each frame: (B*T, 3, 4)."""
    m = ctx.build
    if ctx.prompt is None:
        ctx.prompt = m.input("prompt", (f.b, 3, 4))
    spread = m.call(aten.expand.default, m.reshape(ctx.prompt, f.b, 1, 3, 4), [f.b, f.t, 3, 4])
    return m.reshape(spread, f.b * f.t, 3, 4)


def feed_forward(ctx: Context, f: Features) -> Features:
    """GEGLU (a linear layer cut in two halves), or plain."""
    m = ctx.build
    f = to_layout(m, f, ctx.pick("tokens", "pixels"))
    inner = 2 * f.c
    if ctx.pick(True, False):
        both = m.linear(f.node, 2 * inner)
        value, gate = m.slice(both, 2, 0, inner), m.slice(both, 2, inner, 2 * inner)
        y = m.call(aten.mul.Tensor, value, m.call(aten.gelu.default, gate))
    else:
        y = m.call(aten.gelu.default, m.linear(f.node, inner))
    return replace(f, node=m.linear(y, f.c))


def modulation(ctx: Context, f: Features) -> Features:
    """Scale and shift by an embedding, broadcast over space (and frames)."""
    m = ctx.build
    f = to_layout(m, f, ctx.pick("images", "video"))
    if ctx.embedding is None:
        ctx.embedding = m.input("embedding", (f.b, 6))
    both = m.linear(m.call(aten.silu.default, ctx.embedding), 2 * f.c)
    parts = [m.slice(both, 1, i * f.c, (i + 1) * f.c) for i in range(2)]
    if f.layout == "video":
        scale, shift = (m.reshape(part, f.b, f.c, 1, 1, 1) for part in parts)
    else:
        spread = [m.call(aten.expand.default, m.reshape(p, f.b, 1, f.c), [f.b, f.t, f.c]) for p in parts]
        scale, shift = (m.reshape(part, f.b * f.t, f.c, 1, 1) for part in spread)
    y = m.call(aten.mul.Tensor, f.node, m.call(aten.add.Tensor, scale, 1.0))
    return replace(f, node=m.call(aten.add.Tensor, y, shift))


def squeeze(ctx: Context, f: Features) -> Features:
    """A gate from the mean over space."""
    m, f = ctx.build, to_layout(ctx.build, f, "images")
    gate = m.call(aten.sigmoid.default, m.call(aten.mean.dim, f.node, [2, 3], True))
    return replace(f, node=m.call(aten.mul.Tensor, f.node, gate))


def upsample(ctx: Context, f: Features) -> Features:
    """Nearest neighbours, in space or in time and space."""
    m = ctx.build
    if f.h * f.w * f.t > 60:
        return activation(ctx, f)
    if ctx.pick(True, False):
        f = to_layout(m, f, "images")
        y = m.call(aten.upsample_nearest2d.vec, f.node, [2 * f.h, 2 * f.w], None)
        return replace(f, node=y, h=2 * f.h, w=2 * f.w)
    f = to_layout(m, f, "video")
    y = m.call(aten.upsample_nearest3d.vec, f.node, [2 * f.t, f.h, f.w], None)
    return replace(f, node=y, t=2 * f.t)


def downsample(ctx: Context, f: Features) -> Features:
    """Averages of 2x2, or 2x2 patches moved into channels and mixed."""
    m, f = ctx.build, to_layout(ctx.build, f, "images")
    h, w, n = f.h // 2, f.w // 2, f.b * f.t
    if not h or not w:
        return activation(ctx, f)
    if f.h % 2 or f.w % 2 or ctx.pick(True, False):
        return replace(f, node=m.call(aten.avg_pool2d.default, f.node, [2, 2], [2, 2]), h=h, w=w)
    patches = m.permute(m.reshape(f.node, n, f.c, h, 2, w, 2), 0, 1, 3, 5, 2, 4)
    return replace(f, node=m.conv(m.reshape(patches, n, 4 * f.c, h, w), f.c, [1, 1]), h=h, w=w)


def frames_apart(ctx: Context, f: Features) -> Features:
    """The first frame goes its own way and joins the others again."""
    m, f = ctx.build, to_layout(ctx.build, f, "video")
    if f.t < 2:
        return activation(ctx, f)
    first = m.call(aten.tanh.default, m.slice(f.node, 2, 0, 1))
    rest = m.call(aten.mul.Tensor, m.slice(f.node, 2, 1, f.t), 0.5)
    return replace(f, node=m.call(aten.cat.default, [first, rest], 2))


def skip(ctx: Context, f: Features) -> Features:
    """Concatenates channels with earlier features of the same sizes, and mixes them."""
    m = ctx.build
    fitting = [s for s in ctx.skips if (s.b, s.t, s.h, s.w) == (f.b, f.t, f.h, f.w) and s.node is not f.node]
    if not fitting:
        return activation(ctx, f)
    other, f = to_layout(m, fitting[0], "images"), to_layout(m, f, "images")
    both = m.call(aten.cat.default, [f.node, other.node], 1)
    return replace(f, node=m.conv(both, f.c, [1, 1]))


def blend(ctx: Context, f: Features) -> Features:
    """alpha * x + (1 - alpha) * tanh(x), alpha learned."""
    m = ctx.build
    alpha = m.call(aten.sigmoid.default, m.weight(1))
    rest = m.call(aten.add.Tensor, m.call(aten.neg.default, alpha), 1.0)
    left = m.call(aten.mul.Tensor, alpha, f.node)
    right = m.call(aten.mul.Tensor, rest, m.call(aten.tanh.default, f.node))
    return replace(f, node=m.call(aten.add.Tensor, left, right))


def residual(ctx: Context, f: Features) -> Features:
    """One or two blocks that keep the sizes, and the input added."""
    inner = f
    for _ in range(ctx.pick(1, 2)):
        changed = ctx.pick(*KEEPING)(ctx, inner)
        inner = changed if changed.sizes == f.sizes else inner
    f = to_layout(ctx.build, f, inner.layout)
    return replace(f, node=ctx.build.call(aten.add.Tensor, inner.node, f.node))


#: Simplest first: hypothesis shrinks towards the front.
KEEPING: tuple[Block, ...] = (
    activation,
    conv2d,
    conv_over_time,
    group_norm,
    channel_norm,
    attention,
    feed_forward,
    modulation,
    squeeze,
    blend,
    frames_apart,
)
BLOCKS: tuple[Block, ...] = (*KEEPING, residual, upsample, downsample, skip)


@st.composite
def programs(draw: st.DrawFn, max_blocks: int = 6) -> Program:
    """A valid Program with real weights; inputs ``x``, and ``embedding`` and ``prompt`` where blocks ask for them."""
    b, t = draw(st.integers(1, 2)), draw(st.integers(1, 5))
    c, h, w = draw(st.sampled_from((4, 8))), draw(st.integers(2, 6)), draw(st.integers(2, 6))
    build = ProgramBuilder()
    layout: Layout = draw(st.sampled_from(("images", "video")))
    shape = (b * t, c, h, w) if layout == "images" else (b, c, t, h, w)
    f = Features(build.input("x", shape), layout, b, t, c, h, w)
    ctx = Context(build, draw, [f])
    for block in draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=max_blocks)):
        f = block(ctx, f)
        ctx.skips.append(f)
    outputs = [to_layout(build, f, draw(st.sampled_from(("images", "video", f.layout)))).node]
    if len(ctx.skips) > 2 and draw(st.booleans()):
        outputs.append(ctx.skips[1].node)
    return build.finish(outputs)
