"""The prompt of a network: the value that its cross-attentions' keys are made of, one set of tokens a video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from vgcomp import ir
from vgcomp.ir import aten
from vgcomp.legalize.editor import Editor
from vgcomp.temporal.frames import Clip

_PROJECTIONS = frozenset({aten.linear.default, aten.matmul.default})


@dataclass(frozen=True)
class Prompt:
    """``value``: the name of its node, (B, S, D), or (B·T, S, D) where ``repeated`` for each frame. ``tokens``: S."""

    value: str
    batch: int
    frames: int
    tokens: int
    width: int
    repeated: bool

    def of_videos(self, at: Editor, value: fx.Node) -> fx.Node:
        """(B, S, D): the first frame's, where there is one a frame."""
        if not self.repeated:
            return value
        split = at.reshape(value, [self.batch, self.frames, self.tokens, self.width])
        return at.reshape(at.slice(split, 1, 0, 1), [self.batch, self.tokens, self.width])


def find_prompt(clip: Clip) -> Prompt | None:
    """What most cross-attentions read; None where no attention of frames has keys that do not depend on the clip."""
    found = Counter(_sources(clip))
    for node, _ in found.most_common():
        prompt = _as_prompt(clip, node)
        if prompt is not None:
            return prompt
    return None


def _sources(clip: Clip) -> Iterator[fx.Node]:
    alive = set(clip.alive)
    for node in clip.alive:
        if node.target is not aten.scaled_dot_product_attention.default:
            continue
        query, key = clip.amap.operands(node)[:2]
        if query in alive and key not in alive:
            yield _behind(_projected(key))


def _projected(key: fx.Node) -> fx.Node:
    """What the keys were projected from: back over views and norms to the projection, and its operand."""
    passed = ir.VIEW_OPS | ir.NORM_OPS | {aten.clone.default}
    while key.target in passed:
        key = key.all_input_nodes[0]
    return key.all_input_nodes[0] if key.target in _PROJECTIONS else key


def _behind(node: fx.Node) -> fx.Node:
    """Back over views: repetitions for frames and places."""
    while node.target in ir.VIEW_OPS:
        node = node.all_input_nodes[0]
    return node


def _as_prompt(clip: Clip, node: fx.Node) -> Prompt | None:
    shape = tuple(int(n) for n in ir.val(node).shape)
    if node.op == "get_attr" or len(shape) != 3 or shape[0] not in (clip.batch, clip.batch * clip.frames):
        return None
    repeated = shape[0] != clip.batch
    return Prompt(node.name, clip.batch, clip.frames, shape[1], shape[2], repeated)
