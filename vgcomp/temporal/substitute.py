"""Puts other temporal layers, or none, in the place of those found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import fx

from vgcomp import infer, ir
from vgcomp.errors import UsageError
from vgcomp.ir import aten, prims
from vgcomp.legalize.editor import Editor
from vgcomp.models.temporal import HEAD
from vgcomp.program import Program
from vgcomp.step_cuts.emit import remove_dead, sort_graph
from vgcomp.temporal.build import LayerSpec, layer_program, layer_weights, splice
from vgcomp.temporal.frames import Clip
from vgcomp.temporal.layers import TemporalLayer
from vgcomp.temporal.layout import Layout, layout_of
from vgcomp.temporal.prompt import Prompt, find_prompt
from vgcomp.weights import Weight

#: A layer taken out, and one left as it is.
NONE, KEEP = "none", "keep"
_REARRANGED = frozenset({aten.reshape.default, aten.permute.default})


def substituted(
    program: Program, clip: Clip, kinds: Mapping[TemporalLayer, str], *, seed: int = 0, head: int = HEAD
) -> Program:
    """The program with layers of these kinds in the place of ``kinds``' keys; ``clip`` is the program's own.

    New weights are seeded tensors that make each layer the identity, where the program's weights have data, and
    without data otherwise. Raises UsageError for a kind that reads a prompt in a network without one.
    """
    work = _Substitution(program, clip, seed, head)
    for layer, kind in kinds.items():
        if kind != KEEP:
            work.put(layer, kind)
    return work.finish()


class _Substitution:
    """The new graph: a copy of the old one, changed layer by layer in the order in which they run."""

    def __init__(self, program: Program, clip: Clip, seed: int, head: int) -> None:
        self.program, self.clip, self.head = program, clip, head
        self.seed = seed if all(weight.present for weight in program.weights.values()) else None
        self.graph = program.copy().graph
        self.old = {node.name: node for node in program.graph.nodes}
        self.new = {node.name: node for node in self.graph.nodes}
        self.weights: dict[str, Weight] = {}
        self._prompt: Prompt | None = None

    def put(self, layer: TemporalLayer, kind: str) -> None:
        """One layer in the place of another: from the value that that one added to, to its result."""
        entry, exit = self.new[layer.entry], self.new[layer.exit]
        before, after = (layout_of(self.clip, self.old[name]) for name in (layer.entry, layer.exit))
        assert before is not None and after is not None, "a layer's ends can be turned into images"
        at = Editor(self.graph, exit)
        images = before.to_images(at, entry)
        if kind != NONE:
            images = self._layer(at, layer, kind, images)
        for view in self._shown_as_images(self.old[layer.exit], after):
            self.new[view.name].replace_all_uses_with(images)
        plain = kind == NONE and before == after
        made = entry if plain else after.from_images(at, images)
        exit.replace_all_uses_with(made)
        self.new[layer.exit] = made  # the next layer may add to this one's result

    def _shown_as_images(self, node: fx.Node, whole: Layout) -> list[fx.Node]:
        """Views of all of a value, of the original graph, that are images: they need no views back and forth."""
        found: list[fx.Node] = []
        for user in node.users:
            layout = layout_of(self.clip, user) if user.target in _REARRANGED else None
            if layout is None or layout.sizes != whole.sizes:
                continue
            found += [user] if layout.images else self._shown_as_images(user, whole)
        return found

    def _layer(self, at: Editor, layer: TemporalLayer, kind: str, images: fx.Node) -> fx.Node:
        cross = kind.startswith("cross")
        prompt = self._known_prompt(kind) if cross else None
        context = None if prompt is None else prompt.of_videos(at, self.new[prompt.value])
        if context is not None and ir.val(context).dtype != ir.val(images).dtype:
            context = at.call(prims.convert_element_type.default, context, ir.val(images).dtype)
        spec = LayerSpec(
            kind,
            layer.batch,
            layer.frames,
            layer.channels,
            layer.height,
            layer.width,
            ir.val(images).dtype,
            None if prompt is None else (prompt.tokens, prompt.width),
            self.head,
        )
        weights = layer_weights(spec, layer.name, self.seed)
        self.weights |= {weight.name: weight for weight in weights.values()}
        names = {key: weight.name for key, weight in weights.items()}
        return splice(self.graph, at.anchor, layer_program(spec).graph, (images, context), names, layer.name)

    def _known_prompt(self, kind: str) -> Prompt:
        if self._prompt is None:
            self._prompt = find_prompt(self.clip)
        if self._prompt is None:
            raise UsageError(
                f"{self.program.name} has no prompt for {kind} to read: no attention's keys come from beside the clip"
            )
        return self._prompt

    def finish(self) -> Program:
        """The new program, without what nothing reads any more."""
        remove_dead(self.graph)
        sort_graph(self.graph)
        infer.propagate(self.graph)
        return replace(self.program, weights={**self.program.weights, **self.weights}).with_graph(self.graph)
