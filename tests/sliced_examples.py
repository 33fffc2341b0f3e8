"""Pairs of graphs that compute the same: plain, and with a hand-made loop. Used by the tests of memory and runtime."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from tests.graph_builder import Builder, aten, own, slice_of, spans
from vgcomp import ir

Pair = tuple[fx.Graph, fx.Graph]


def _block(b: Builder, x: fx.Node, w: fx.Node, padding: tuple[int, int] = (1, 1)) -> fx.Node:
    return b.call(aten.silu.default, b.conv(x, w, padding))


def _plain(
    shape: tuple[int, ...],
    weights: dict[str, tuple[int, ...]],
    make: Callable[[Builder, fx.Node, list[fx.Node]], fx.Node],
) -> fx.Graph:
    b = Builder()
    x = b.input("x", shape)
    ws = [b.weight(name, size) for name, size in weights.items()]
    return b.done(make(b, x, ws))


FRAMES = {"w1": (8, 4, 3, 3), "w2": (4, 8, 3, 3)}


def _two_convs(b: Builder, x: fx.Node, ws: list[fx.Node]) -> fx.Node:
    return _block(b, _block(b, x, ws[0]), ws[1])


def frames(into: bool = False) -> Pair:
    """Two convolutions, a frame at a time; ``into`` writes over a (dead) copy of the input."""
    shape = (6, 4, 16, 12)
    prelude = lambda b, x: b.call(aten.mul.Tensor, x, 2.0)  # noqa: E731
    plain = _plain(shape, FRAMES, lambda b, x, ws: _two_convs(b, prelude(b, x), ws))
    b = Builder()
    x = b.input("x", shape)
    ws = [b.weight(name, size) for name, size in FRAMES.items()]
    y = prelude(b, x)
    axis = ir.Axis(0, 6)
    inner = Builder()
    part = inner.value("part", slice_of(y, axis, (0, 2)))
    inner_ws = [inner.value(f"v{i}", ir.val(w)) for i, w in enumerate(ws)]
    body = ir.Body(inner.done(_two_convs(inner, part, inner_ws)), (0, 1, 2), (0,))
    steps = tuple(ir.Step(0, (span, None, None), (span,)) for span in spans(6, 2))
    result = ir.Result(shape, torch.float32, axis, into=0 if into else None)
    loop = ir.Loop("frames", (body,), steps, (axis, None, None), (result,))
    return plain, b.done(*b.loop(loop, [y, *ws]))


def rows_with_halo() -> Pair:
    """Two 3x3 convolutions over rows: the halo is recomputed, zeros are padded at the true border only."""
    shape, extent, tile = (2, 4, 16, 12), 16, 4
    plain = _plain(shape, FRAMES, _two_convs)
    b = Builder()
    x = b.input("x", shape)
    ws = [b.weight(name, size) for name, size in FRAMES.items()]
    axis = ir.Axis(2, extent)
    bodies: list[ir.Body] = []
    steps: list[ir.Step] = []
    known: dict[tuple[int, int, int], int] = {}
    for start, end in spans(extent, tile):
        lo, hi = max(start - 2, 0), min(end + 2, extent)
        key = (start - lo, end - start, hi - end)
        if key not in known:
            known[key] = len(bodies)
            bodies.append(_halo_body(x, ws, axis, (lo, hi), key))
        steps.append(ir.Step(known[key], ((lo, hi), None, None), ((start, end),)))
    loop = ir.Loop("rows", tuple(bodies), tuple(steps), (axis, None, None), (ir.Result(shape, torch.float32, axis),))
    return plain, b.done(*b.loop(loop, [x, *ws]))


def _halo_body(x: fx.Node, ws: list[fx.Node], axis: ir.Axis, span: ir.Span, key: tuple[int, int, int]) -> ir.Body:
    before, _, after = key
    b = Builder()
    y = b.value("part", slice_of(x, axis, span))
    inner_ws = [b.value(f"v{i}", ir.val(w)) for i, w in enumerate(ws)]
    for w in inner_ws:
        top, bottom = (0 if before else 1), (0 if after else 1)
        if top or bottom:
            y = b.call(aten.constant_pad_nd.default, y, [0, 0, top, bottom])
        y = _block(b, y, w, (0, 1))
    return ir.Body(b.done(y), (0, 1, 2), (0,))


def rows_with_carries() -> Pair:
    """The same two convolutions, with the last rows of both inputs carried from step to step."""
    shape, extent, tile = (2, 4, 16, 12), 16, 4
    plain = _plain(shape, FRAMES, _two_convs)
    b = Builder()
    x = b.input("x", shape)
    ws = [b.weight(name, size) for name, size in FRAMES.items()]
    axis = ir.Axis(2, extent)
    reads = [(0, 6), (6, 10), (10, 14), (14, 16)]
    writes = spans(extent, tile)
    bodies = tuple(_carry_body(x, ws, axis, reads[k], first=k == 0, last=k == 3) for k in (0, 1, 3))
    steps = tuple(
        ir.Step(index, (read, None, None), (write,)) for index, read, write in zip((0, 1, 1, 2), reads, writes)
    )
    loop = ir.Loop("stream", bodies, steps, (axis, None, None), (ir.Result(shape, torch.float32, axis),))
    return plain, b.done(*b.loop(loop, [x, *ws]))


def _carry_body(x: fx.Node, ws: list[fx.Node], axis: ir.Axis, read: ir.Span, *, first: bool, last: bool) -> ir.Body:
    b = Builder()
    y = b.value("part", slice_of(x, axis, read))
    inner_ws = [b.value(f"v{i}", ir.val(w)) for i, w in enumerate(ws)]
    tails = [] if first else [b.input("c0", (2, 4, 2, 12)), b.input("c1", (2, 8, 2, 12))]
    carried: list[fx.Node] = []
    for k, w in enumerate(inner_ws):
        y = (
            b.call(aten.constant_pad_nd.default, y, [0, 0, 1, 0])
            if first
            else b.call(aten.cat.default, [tails[k], y], 2)
        )
        rows = ir.val(y).shape[2]
        if not last:
            carried.append(b.call(aten.slice.Tensor, y, 2, rows - 2, rows))
        else:
            y = b.call(aten.constant_pad_nd.default, y, [0, 0, 0, 1])
        y = _block(b, y, w, (0, 1))
    carries = () if last else (0, 1)
    return ir.Body(b.done(y, *carried), (0, 1, 2), (0,), () if first else (0, 1), carries)


NORM = {"scale": (8,), "shift": (8,)}


def norm_in_two_loops(*, in_place: bool = False) -> Pair:
    """``group_norm`` over (T, H, W), cut along W: moments merged, then applied (in the input's buffer)."""
    shape, groups = (2, 8, 4, 6, 10), 4

    def make(b: Builder, x: fx.Node, ws: list[fx.Node]) -> fx.Node:
        y = b.call(aten.mul.Tensor, x, 3.0)
        return b.call(aten.silu.default, b.call(aten.group_norm.default, y, groups, *ws, 1e-5))

    plain = _plain(shape, NORM, make)
    b = Builder()
    x = b.input("x", shape)
    ws = [b.weight(name, size) for name, size in NORM.items()]
    y = b.call(aten.mul.Tensor, x, 3.0)
    axis = ir.Axis(4, 10)
    inner = Builder()
    part = inner.value("part", slice_of(y, axis, (0, 5)))
    moments = inner.done(inner.call(own.group_moments.default, part, groups))
    steps = tuple(ir.Step(0, (span,), (None,)) for span in spans(10, 5))
    stats = ir.Result((3, 2, groups), torch.float32, combine="moments")
    (merged,) = b.loop(ir.Loop("moments", (ir.Body(moments, (0,), (0,)),), steps, (axis,), (stats,)), [y])
    inner = Builder()
    part = inner.value("part", slice_of(y, axis, (0, 5)))
    stat = inner.value("stat", ir.val(merged))
    inner_ws = [inner.value(f"v{i}", ir.val(w)) for i, w in enumerate(ws)]
    z = inner.call(own.group_norm_apply.default, part, stat, groups, *inner_ws, 1e-5)
    z = inner.call(aten.silu.default, z, reuse=0)
    body = ir.Body(inner.done(z), (0, 1, 2, 3), (0,))
    steps = tuple(ir.Step(0, (span, None, None, None), (span,)) for span in spans(10, 5))
    result = ir.Result(shape, torch.float32, axis, into=0 if in_place else None)
    loop = ir.Loop("apply", (body,), steps, (axis, None, None, None), (result,))
    return plain, b.done(*b.loop(loop, [y, merged, *ws]))


def growing_in_place() -> Pair:
    """A loop allocates room for the upsampled frames; the next writes them there, last frame first."""
    shape, up = (4, 3, 6, 6), (4, 3, 12, 12)

    def grow(b: Builder, y: fx.Node) -> fx.Node:
        return b.call(aten.upsample_nearest2d.vec, y, [12, 12], None)

    plain = _plain(shape, {}, lambda b, x, ws: grow(b, b.call(aten.silu.default, x)))
    b = Builder()
    x = b.input("x", shape)
    axis = ir.Axis(0, 4)
    inner = Builder()
    part = inner.value("part", slice_of(x, axis, (0, 1)))
    body = ir.Body(inner.done(inner.call(aten.silu.default, part)), (0,), (0,))
    steps = tuple(ir.Step(0, (span,), (span,)) for span in spans(4, 1))
    room = ir.Result(shape, torch.float32, axis, capacity=4 * 4 * 3 * 12 * 12)
    (y,) = b.loop(ir.Loop("silu", (body,), steps, (axis,), (room,)), [x])
    inner = Builder()
    part = inner.value("part", slice_of(y, axis, (0, 1)))
    body = ir.Body(inner.done(grow(inner, part)), (0,), (0,))
    result = ir.Result(up, torch.float32, axis, into=0)
    return plain, b.done(*b.loop(ir.Loop("grow", (body,), steps[::-1], (axis,), (result,)), [y]))


def inner_factor() -> Pair:
    """Rows of a merged (H*W) dimension cut by W: slices are copies, results are written with strides."""
    shape = (2, 24, 5)  # H=4, W=6

    def make(b: Builder, x: fx.Node) -> fx.Node:
        return b.call(aten.exp.default, b.call(aten.add.Tensor, x, 1.0))

    plain = _plain(shape, {}, lambda b, x, ws: make(b, x))
    b = Builder()
    x = b.input("x", shape)
    axis = ir.Axis(1, 6, outer=4)
    inner = Builder()
    part = inner.value("part", slice_of(x, axis, (0, 3)))
    body = ir.Body(inner.done(make(inner, part)), (0,), (0,))
    steps = tuple(ir.Step(0, (span,), (span,)) for span in spans(6, 3))
    result = ir.Result(shape, torch.float32, axis)
    return plain, b.done(*b.loop(ir.Loop("tokens", (body,), steps, (axis,), (result,)), [x]))


def attention_by_keys() -> Pair:
    """Attention over blocks of keys: partial results merged, then normalised."""
    shape = (1, 2, 12, 8)
    scale = 8**-0.5

    def make(b: Builder, x: fx.Node, ws: list[fx.Node]) -> fx.Node:
        k = b.call(aten.mul.Tensor, x, 0.5)
        return b.call(aten.scaled_dot_product_attention.default, x, k, x)

    plain = _plain(shape, {}, make)
    b = Builder()
    x = b.input("x", shape)
    k = b.call(aten.mul.Tensor, x, 0.5)
    axis = ir.Axis(2, 12)
    inner = Builder()
    q = inner.value("q", ir.val(x))
    key = inner.value("key", slice_of(k, axis, (0, 4)))
    value = inner.value("value", slice_of(x, axis, (0, 4)))
    partial = inner.call(own.attention_partial.default, q, key, value, scale)
    body = ir.Body(inner.done(partial), (0, 1, 2), (0,))
    steps = tuple(ir.Step(0, (None, span, span), (None,)) for span in spans(12, 4))
    result = ir.Result((1, 2, 12, 10), torch.float32, combine="softmax")
    loop = ir.Loop("keys", (body,), steps, (None, axis, axis), (result,))
    (merged,) = b.loop(loop, [x, k, x])
    return plain, b.done(b.call(own.attention_finish.default, merged, torch.float32))


def _residual(b: Builder, x: fx.Node, w: fx.Node, padding: tuple[int, int]) -> fx.Node:
    return b.call(aten.add.Tensor, x, b.call(aten.silu.default, b.conv(x, w, padding)))


def _residual_plain(shape: tuple[int, ...]) -> fx.Graph:
    b = Builder()
    x, w = b.input("x", shape), b.weight("w", (4, 4, 3, 3))
    return b.done(_residual(b, b.call(aten.mul.Tensor, x, 2.0), w, (1, 1)))


def residual_in_place() -> Pair:
    """``x + conv(x)`` a frame at a time over x itself: the sum is written straight over the slice it reads."""
    shape = (6, 4, 16, 12)
    b = Builder()
    x, w = b.input("x", shape), b.weight("w", (4, 4, 3, 3))
    y = b.call(aten.mul.Tensor, x, 2.0)
    axis = ir.Axis(0, 6)
    inner = Builder()
    part = inner.value("part", slice_of(y, axis, (0, 2)))
    body = ir.Body(inner.done(_residual(inner, part, inner.value("v", ir.val(w)), (1, 1))), (0, 1), (0,))
    steps = tuple(ir.Step(0, (span, None), (span,)) for span in spans(6, 2))
    result = ir.Result(shape, torch.float32, axis, into=0)
    sliced = b.done(*b.loop(ir.Loop("residual", (body,), steps, (axis, None), (result,)), [y, w]))
    return _residual_plain(shape), sliced


def rows_in_place(*, early: bool) -> Pair:
    """``x + conv(x)`` by rows over x itself; the overwritten halo row is carried.

    ``early``: the carry is copied before the sum is made, so that the sum may be written in place.
    """
    shape = (2, 4, 16, 12)
    b = Builder()
    x, w = b.input("x", shape), b.weight("w", (4, 4, 3, 3))
    y = b.call(aten.mul.Tensor, x, 2.0)
    axis = ir.Axis(2, 16)
    reads = [(0, 5), (4, 9), (8, 13), (12, 16)]
    bodies = tuple(_residual_body(y, w, axis, reads[k], early, first=k == 0, last=k == 3) for k in (0, 1, 3))
    steps = tuple(
        ir.Step(index, (read, None), (write,)) for index, read, write in zip((0, 1, 1, 2), reads, spans(16, 4))
    )
    result = ir.Result(shape, torch.float32, axis, into=0)
    sliced = b.done(*b.loop(ir.Loop("residual-rows", bodies, steps, (axis, None), (result,)), [y, w]))
    return _residual_plain(shape), sliced


def _residual_body(
    y: fx.Node, w: fx.Node, axis: ir.Axis, read: ir.Span, early: bool, *, first: bool, last: bool
) -> ir.Body:
    b = Builder()
    part, v = b.value("part", slice_of(y, axis, read)), b.value("v", ir.val(w))
    above = None if first else b.input("above", (2, 4, 1, 12))

    def carry() -> fx.Node:
        tail = b.call(aten.slice.Tensor, part, 2, 3, 4)
        return b.call(aten.clone.default, tail, memory_format=torch.contiguous_format)

    whole = part if above is None else b.call(aten.cat.default, [above, part], 2)
    if first or last:
        whole = b.call(aten.constant_pad_nd.default, whole, [0, 0, int(first), int(last)])
    carried = [carry()] if early and not last else []
    out = b.call(aten.silu.default, b.conv(whole, v, (0, 1)))
    centre = part if last else b.call(aten.slice.Tensor, part, 2, 0, 4)
    out = b.call(aten.add.Tensor, centre, out)
    carried += [carry()] if not early and not last else []
    return ir.Body(b.done(out, *carried), (0, 1), (0,), () if first else (0,), () if last else (0,))


def nested() -> Pair:
    """Frames outside; inside a frame's body, rows of a pointwise chain."""
    shape = (4, 4, 16, 12)

    def make(b: Builder, x: fx.Node, w: fx.Node) -> fx.Node:
        y = b.conv(x, w, (1, 1))
        return b.call(aten.add.Tensor, x, b.call(aten.exp.default, b.call(aten.tanh.default, y)))

    b = Builder()
    x, w = b.input("x", shape), b.weight("w", (4, 4, 3, 3))
    plain = b.done(make(b, x, w))
    b = Builder()
    x, w = b.input("x", shape), b.weight("w", (4, 4, 3, 3))
    frame, row = ir.Axis(0, 4), ir.Axis(2, 16)
    outer = Builder()
    part, v = outer.value("part", slice_of(x, frame, (0, 2))), outer.value("v", ir.val(w))
    y = outer.conv(part, v, (1, 1))
    inner = Builder()
    rows = inner.value("rows", slice_of(y, row, (0, 4)))
    body = ir.Body(inner.done(inner.call(aten.exp.default, inner.call(aten.tanh.default, rows))), (0,), (0,))
    steps = tuple(ir.Step(0, (span,), (span,)) for span in spans(16, 4))
    result = ir.Result((2, 4, 16, 12), torch.float32, row, into=0)
    (y,) = outer.loop(ir.Loop("rows", (body,), steps, (row,), (result,)), [y])
    body = ir.Body(outer.done(outer.call(aten.add.Tensor, part, y)), (0, 1), (0,))
    steps = tuple(ir.Step(0, (span, None), (span,)) for span in spans(4, 2))
    result = ir.Result(shape, torch.float32, frame)
    return plain, b.done(*b.loop(ir.Loop("frames", (body,), steps, (frame, None), (result,)), [x, w]))


EXAMPLES: dict[str, Callable[[], Pair]] = {
    "frames": frames,
    "frames-in-place": lambda: frames(into=True),
    "rows-with-halo": rows_with_halo,
    "rows-with-carries": rows_with_carries,
    "norm-in-two-loops": norm_in_two_loops,
    "norm-in-place": lambda: norm_in_two_loops(in_place=True),
    "growing-in-place": growing_in_place,
    "inner-factor": inner_factor,
    "attention-by-keys": attention_by_keys,
    "residual-in-place": residual_in_place,
    "nested": nested,
    "rows-in-place": lambda: rows_in_place(early=True),
    "rows-in-place-late-carry": lambda: rows_in_place(early=False),
}
