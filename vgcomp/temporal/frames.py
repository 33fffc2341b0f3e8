"""Which axis of a network's values holds the frames of a clip, and where height and width lie.

Nothing says so in a graph. But a video network works on images most of the time, with the frames among the batch of
its two-dimensional convolutions, and mixes them here and there: the frames are that factor of those convolutions'
batch that other ops read along. What reshapes split off the batch are the factors to try. An image network mixes no
factor, so it has no frames.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from vgcomp import ir
from vgcomp.axes import AxisMap
from vgcomp.errors import UsageError
from vgcomp.ir import Axis, aten
from vgcomp.program import Program
from vgcomp.temporal.follow import Followed

#: Ops on images, (N, C, H, W), whose result may have another height and width.
_IMAGE_OPS = frozenset(
    {
        aten.convolution.default,
        aten.upsample_nearest2d.vec,
        aten.avg_pool2d.default,
        aten.max_pool2d.default,
    }
)


@dataclass(frozen=True)
class Clip:
    """A network's values that are computed from frames, and where their axes lie.

    ``alive``: all that depends on the frames, in the graph's order. ``images``: the first convolutions on them.
    ``frames`` and ``batch``: sizes. ``videos``, ``time``, ``rows``, ``columns``: the axes, of values that still have
    them.
    ``size``: height and width of the images that a value is computed from, in its own pixels.
    """

    frames: int
    batch: int
    images: tuple[fx.Node, ...]
    alive: tuple[fx.Node, ...]
    amap: AxisMap
    videos: Followed
    time: Followed
    rows: Followed
    columns: Followed
    size: dict[fx.Node, tuple[int, int]]

    def mixes_frames(self, node: fx.Node) -> bool:
        """True where a frame of the result needs other frames."""
        return self.time.mixes(node)

    def along_frames(self, node: fx.Node) -> bool:
        """True for attention whose queries are the frames, though its keys be something else, such as a prompt."""
        return _along(self.time, node)

    def mixes_places(self, node: fx.Node) -> bool:
        """True where a place of the result needs other places of its frame."""
        return self.rows.mixes(node) or self.columns.mixes(node)


def find_clip(program: Program, frames: int | None = None) -> Clip | None:
    """The clip of a network; None where no axis is worked on frame by frame here and mixed there.

    ``frames``: their number, where it is known. Raises UsageError for one that cannot be, and for sliced programs.
    """
    if any(ir.is_loop(node) for node in program.graph.nodes):
        raise UsageError(f"{program.name} is sliced already: temporal layers are found before slice-and-group")
    images = _first_images(program.graph)
    if not images:
        return None
    amap, total = AxisMap(), _shape(images[0])[0]
    alive = _alive(program.graph, images)
    axes = list(_factors(alive, total)) if frames is None else [_given(program, total, frames)]
    tried = [(axis, Followed(amap, alive, dict.fromkeys(images, axis))) for axis in axes]
    mixed = [(sum(time.mixes(n) or _along(time, n) for n in alive), time, axis) for axis, time in tried]
    most = max(mixed, key=lambda entry: entry[0], default=None)
    if most is None or (most[0] == 0 and frames is None):
        return None
    _, time, axis = most
    rows, columns, size = _places(amap, alive, time)
    videos = Followed(amap, alive, dict.fromkeys(images, _beside(axis)))
    return Clip(axis.extent, total // axis.extent, images, tuple(alive), amap, videos, time, rows, columns, size)


def _beside(axis: Axis) -> Axis:
    """The rest of the batch: outside of the frames where there is any there, else inside."""
    if axis.outer > 1:
        return Axis(0, axis.outer, 1, axis.extent * axis.inner)
    return Axis(0, axis.inner, axis.outer * axis.extent)


def _along(time: Followed, node: fx.Node) -> bool:
    axis = time.at.get(node)
    rank = len(_shape(node)) if axis is not None else 0
    return node.target is aten.scaled_dot_product_attention.default and axis is not None and axis.dim == rank - 2


def _given(program: Program, total: int, frames: int) -> Axis:
    if frames < 2 or total % frames:
        raise UsageError(f"{program.name}: {frames} frames do not make up the {total} images that it works on")
    return Axis(0, frames, total // frames)


def _first_images(graph: fx.Graph) -> tuple[fx.Node, ...]:
    """Two-dimensional convolutions of as many images as the first one that no other of them comes before."""
    found: list[fx.Node] = []
    behind: set[fx.Node] = set()
    for node in graph.nodes:
        if any(x in behind for x in node.all_input_nodes):
            behind.add(node)
        elif node.target is aten.convolution.default and len(_shape(node)) == 4 and _shape(node)[0] > 1:
            behind.add(node)
            found.append(node)
    return tuple(node for node in found if _shape(node)[0] == _shape(found[0])[0])


def _alive(graph: fx.Graph, images: tuple[fx.Node, ...]) -> list[fx.Node]:
    """The images and all calls that depend on them, in order."""
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if node.op == "call_function" and (node in images or any(x in found for x in node.all_input_nodes)):
            found[node] = None
    return list(found)


def _factors(alive: list[fx.Node], total: int) -> dict[Axis, None]:
    """Axes that reshapes split the batch of images into, and the whole of it."""
    found = {Axis(0, total): None}
    for node in alive:
        if node.target is not aten.reshape.default or _shape(node.all_input_nodes[0])[0] != total:
            continue
        outer = 1
        for size in _shape(node):
            if total % (outer * size):
                break
            if 1 < size < total:
                found[Axis(0, size, outer, total // (outer * size))] = None
            outer *= size
    return found


def _places(
    amap: AxisMap, alive: list[fx.Node], time: Followed
) -> tuple[Followed, Followed, dict[fx.Node, tuple[int, int]]]:
    """Height and width, known anew wherever an op takes images to images, followed from there."""
    rows: dict[fx.Node, Axis] = {}
    columns: dict[fx.Node, Axis] = {}
    size: dict[fx.Node, tuple[int, int]] = {}
    for node in alive:
        if _gives_images(node, time):
            height, width = size[node] = _shape(node)[2:]  # type: ignore[assignment]
            rows |= {node: Axis(2, height)} if height > 1 else {}
            columns |= {node: Axis(3, width)} if width > 1 else {}
            continue
        known = next((size[x] for x in node.all_input_nodes if x in size), None)
        if known is not None:
            size[node] = known
    return Followed(amap, alive, rows), Followed(amap, alive, columns), size


def _gives_images(node: fx.Node, time: Followed) -> bool:
    axis = time.at.get(node)
    return node.target in _IMAGE_OPS and axis is not None and axis.dim == 0 and len(_shape(node)) == 4


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(int(n) for n in ir.val(node).shape)
