"""Finds temporal layers: residual regions that mix frames, between others that work frame by frame.

Given (frames among the batch, split off for attention over time)::

    %x = conv2d(...)                                         # (B·T, C, H, W): frame by frame
    %t = reshape(permute(reshape(%x)))                       # (B·H·W, T, C)
    %f = linear(attention(linear(%t), ...))                  # over T: a frame reads the others
    %y = add(%x, reshape(permute(reshape(%f))))              # (B·T, C, H, W)

the layer is what lies between ``x`` and ``y``. Of regions in one another the largest counts that holds no op reading
other places of the same frame alone (those are the network's own, spatial layers). A residual region right after or
before it joins it where it works along the frames too, as the feed-forward of a temporal transformer does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from torch import fx

from vgcomp import ir
from vgcomp.axes import Window, conv_args
from vgcomp.ir import aten
from vgcomp.program import Program
from vgcomp.step_cuts.reach import node_flops
from vgcomp.temporal.frames import Clip, find_clip
from vgcomp.temporal.layout import layout_of
from vgcomp.temporal.regions import Region, region_between, residual_regions

_PRODUCTS = frozenset({aten.linear.default, aten.matmul.default})
_ATTENTION = aten.scaled_dot_product_attention.default
_WORDS: dict[object, str] = {_ATTENTION: "attention", aten.constant_pad_nd.default: "padded window"}
#: Ops that mix what they read without being what a layer is there for.
_STATISTICS = ir.NORM_OPS | {aten.softmax.int}


@dataclass(frozen=True)
class TemporalLayer:
    """One temporal layer of a Program.

    ``name``: the module that it was captured from, or the node it ends in. ``entry``, ``exit``: names of the value
    that it adds to and of its result; ``nodes``: of all that it computes, ``exit`` included. ``batch``, ``frames``,
    ``channels``, ``height``, ``width``: sizes of the clip at this place. ``does``: how it reads other frames.
    """

    name: str
    entry: str
    exit: str
    nodes: tuple[str, ...]
    batch: int
    frames: int
    channels: int
    height: int
    width: int
    does: tuple[str, ...]
    flops: float

    @property
    def shape(self) -> str:
        """Sizes as text: B×T×C×H×W."""
        return "×".join(map(str, (self.batch, self.frames, self.channels, self.height, self.width)))


def temporal_layers(program: Program, frames: int | None = None) -> tuple[TemporalLayer, ...]:
    """The temporal layers of a program, in the order in which they run; none for a network of images.

    ``frames``: their number, found where it is not given. Raises UsageError for a number that cannot be, and for a
    program with sliced loops.
    """
    clip = find_clip(program, frames)
    return () if clip is None else layers_of(clip)


def layers_of(clip: Clip) -> tuple[TemporalLayer, ...]:
    """The temporal layers of a clip."""
    found = [_described(clip, region) for region in _layers(clip)]
    return _named_apart([layer for layer in found if layer is not None])


def unmatched(clip: Clip, layers: Sequence[TemporalLayer]) -> list[fx.Node]:
    """Ops that mix frames outside of every layer."""
    held = {name for layer in layers for name in layer.nodes}
    return [node for node in clip.alive if _mixes(clip, node) and node.name not in held]


def _layers(clip: Clip) -> list[Region]:
    order = {node: i for i, node in enumerate(clip.alive)}
    spatial = {node for node in clip.alive if _is_spatial(clip, node)}
    temporal = {node for node in clip.alive if _mixes(clip, node) or clip.along_frames(node)}
    regions = [r for r in residual_regions(clip.alive, clip.images) if not r.inside & spatial]
    held: set[fx.Node] = set()
    found: list[Region] = []
    for region in sorted(regions, key=lambda r: -len(r.inside)):
        if region.inside & temporal and not region.inside & held:
            found.append(region)
            held |= region.inside
    found.sort(key=lambda r: order[r.exit])
    rest = [r for r in regions if not r.inside & held and _works_along(clip, r)]
    return [_joined(clip, region, rest) for region in found]


def _joined(clip: Clip, region: Region, rest: Sequence[Region]) -> Region:
    """With the regions that follow it and lead to it, one after the other."""
    changed = True
    while changed:
        changed = False
        for other in rest:
            ends = (region.entry, other.exit) if other.entry is region.exit else (other.entry, region.exit)
            if other.entry is not region.exit and other.exit is not region.entry:
                continue
            whole = region_between(*ends, set(clip.alive))
            if whole is not None:
                region, changed = whole, True
    return region


def _mixes(clip: Clip, node: fx.Node) -> bool:
    return node.target not in _STATISTICS and clip.mixes_frames(node)


def _is_spatial(clip: Clip, node: fx.Node) -> bool:
    """Reads other places of the frame, and no other frame: of a frame of one place, where there would be others."""
    if node.target in _STATISTICS or clip.mixes_frames(node):
        return False
    return clip.mixes_places(node) or (node in clip.time.at and _would_mix_places(clip, node))


def _would_mix_places(clip: Clip, node: fx.Node) -> bool:
    if node.target is _ATTENTION:
        return node.args[1] in clip.time.at and not clip.along_frames(node)
    return node.target is aten.convolution.default and clip.time.at[node].dim == 0 and max(conv_args(node).kernel) > 1


def _works_along(clip: Clip, region: Region) -> bool:
    """True where all its products and convolutions have the frames in the sequence, and not in the batch."""
    heavy = [n for n in region.inside if n.target in _PRODUCTS or n.target is aten.convolution.default]
    return bool(heavy) and all(_in_sequence(clip, node) for node in heavy)


def _in_sequence(clip: Clip, node: fx.Node) -> bool:
    axis = clip.time.at.get(node)
    if axis is None:
        return False
    rank = len(ir.val(node).shape)
    return axis.dim >= 2 if node.target is aten.convolution.default else axis.dim == rank - 2


# -- words ---------------------------------------------------------------------------------------------


def _described(clip: Clip, region: Region) -> TemporalLayer | None:
    """None where the entry or the exit cannot be turned into images."""
    layout, left = layout_of(clip, region.entry), layout_of(clip, region.exit)
    if layout is None or left is None or layout.sizes != left.sizes:
        return None
    sizes = layout.sizes
    nodes = [node for node in clip.alive if node in region.inside]
    scopes = [str(node.meta["scope"]) for node in nodes if "scope" in node.meta and node.target not in ir.VIEW_OPS]
    name = _common(scopes) or region.exit.name
    return TemporalLayer(
        name=name,
        entry=region.entry.name,
        exit=region.exit.name,
        nodes=tuple(node.name for node in nodes),
        batch=sizes["B"],
        frames=sizes["T"],
        channels=sizes["C"],
        height=sizes["H"],
        width=sizes["W"],
        does=tuple(dict.fromkeys(_does(clip, node) for node in nodes if _mixes(clip, node) or clip.along_frames(node))),
        flops=sum(map(node_flops, nodes)),
    )


def _does(clip: Clip, node: fx.Node) -> str:
    if node.target is aten.convolution.default:
        return "convolution over the clip" if clip.mixes_places(node) else _convolution(clip, node)
    if not clip.mixes_frames(node):
        return "attention to the prompt along the frames"
    how = _WORDS.get(node.target) or str(node.target).split(".")[1]
    return f"{how} over the {'clip' if clip.mixes_places(node) else 'frames of a place'}"


def _convolution(clip: Clip, node: fx.Node) -> str:
    axis = clip.time.at.get(node)
    found = None if axis is None else clip.amap.demands(node, axis)
    if found is None or not isinstance(found[0], Window):
        return "convolution over the frames"
    return f"convolution over {found[0].last - found[0].first + 1} frames"


def _common(scopes: Iterable[str]) -> str:
    """The innermost module that holds all of them."""
    paths = [scope.split(".") for scope in scopes if scope]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return ".".join(parts[0] for parts in shared)


def _named_apart(layers: Sequence[TemporalLayer]) -> tuple[TemporalLayer, ...]:
    """Layers of one module are told apart by the nodes that they end in."""
    names = [layer.name for layer in layers]
    return tuple(
        replace(layer, name=f"{layer.name}.{layer.exit}") if names.count(layer.name) > 1 else layer for layer in layers
    )
