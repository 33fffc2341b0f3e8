"""How a value of a clip lies in its dimensions, and the views that turn it into images and back.

A clip has five axes: batch B, frames T, channels C, height H and width W. Networks merge and permute them at will:
(B·T, C, H, W) for images, (B·H·W, T, C) for attention over time, (B, T·H·W, C) over the clip. A layout lists, dimension
by dimension, which of the five are merged in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import fx

from vgcomp import ir
from vgcomp.ir import Axis
from vgcomp.legalize.editor import Editor
from vgcomp.temporal.frames import Clip

#: The order in which layers take a clip: images of frames of videos.
_IMAGES = "BTCHW"


@dataclass(frozen=True)
class Layout:
    """``dims``: the axes merged in each dimension, outermost first, of ``BTCHW``; axes of one element are in none.

    ``sizes``: of the five axes.
    """

    dims: tuple[str, ...]
    sizes: dict[str, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """The value's own shape."""
        return tuple(math.prod(self.sizes[name] for name in dim) for dim in self.dims)

    @property
    def images(self) -> bool:
        """True for (B·T, C, H, W) itself."""
        sizes = self.sizes
        return (
            len(self.dims) == 4
            and self.shape == (sizes["B"] * sizes["T"], sizes["C"], sizes["H"], sizes["W"])
            and ("".join(self.dims) == "".join(name for name in _IMAGES if sizes[name] > 1))
        )

    def to_images(self, at: Editor, value: fx.Node) -> fx.Node:
        """(B·T, C, H, W) of a value that lies like this."""
        if self.images:
            return value
        order = "".join(self.dims)
        split = at.reshape(value, [self.sizes[name] for name in order])
        wanted = [name for name in _IMAGES if name in order]
        turned = at.permute(split, [order.index(name) for name in wanted])
        return at.reshape(turned, self._image_shape())

    def from_images(self, at: Editor, images: fx.Node) -> fx.Node:
        """A value that lies like this, of (B·T, C, H, W)."""
        if self.images:
            return images
        order = "".join(self.dims)
        names = [name for name in _IMAGES if name in order]
        split = at.reshape(images, [self.sizes[name] for name in names])
        turned = at.permute(split, [names.index(name) for name in order])
        return at.reshape(turned, self.shape)

    def _image_shape(self) -> list[int]:
        sizes = self.sizes
        return [sizes["B"] * sizes["T"], sizes["C"], sizes["H"], sizes["W"]]


def layout_of(clip: Clip, node: fx.Node) -> Layout | None:
    """How a value lies; None where an axis of the clip is lost on the way to it."""
    size = clip.size.get(node)
    if size is None or node not in clip.time.at:
        return None
    sizes = {"B": clip.batch, "T": clip.frames, "H": size[0], "W": size[1]}
    followed = {"B": clip.videos, "T": clip.time, "H": clip.rows, "W": clip.columns}
    known = {name: axis.at.get(node) for name, axis in followed.items() if sizes[name] > 1}
    shape = tuple(int(n) for n in ir.val(node).shape)
    found = {name: axis for name, axis in known.items() if axis is not None}
    if found.keys() != known.keys() or any(axis.extent != sizes[name] for name, axis in found.items()):
        return None
    dims = _dims(shape, found)
    return None if dims is None else _named(dims, sizes)


def _dims(shape: tuple[int, ...], known: dict[str, Axis]) -> list[list[tuple[str, int]]] | None:
    """(name, extent) of each dimension's factors, outermost first; "" for a factor that no axis is known of."""
    dims: list[list[tuple[str, int]]] = []
    for dim, size in enumerate(shape):
        here = sorted((axis.inner, axis.extent, name) for name, axis in known.items() if axis.dim == dim)
        factors: list[tuple[str, int]] = []
        stride = 1
        for inner, extent, name in here:
            if inner % stride:
                return None
            factors += [("", inner // stride)] if inner > stride else []
            factors.append((name, extent))
            stride = inner * extent
        factors += [("", size // stride)] if size > stride else []
        dims.append(factors[::-1])
    return dims


def _named(dims: list[list[tuple[str, int]]], sizes: dict[str, int]) -> Layout | None:
    """The one factor that is left is the channels."""
    left = [extent for dim in dims for name, extent in dim if not name]
    if len(left) > 1:
        return None
    found = tuple("".join(name or "C" for name, _ in dim) for dim in dims)
    return Layout(found, {**sizes, "C": left[0] if left else 1})
