"""``substitute-temporal``: other temporal layers, or none, in the place of those that a network has.

Given (a clip as images; attention over the frames of a place)::

    %x = conv2d(...)                                         # (B·T, C, H, W)
    %t = reshape(permute(reshape(%x)))                       # (B·H·W, T, C)
    %y = add(%x, images(linear(attention(linear(layer_norm(%t)), ...))))

results, for ``kinds=conv1d``::

    %v = reshape(permute(reshape(silu(group_norm(%x)))))     # (B, C, T, H·W)
    %y = add(%x, images(convolution(%v, %new_weight)))       # 3 frames of one place

and for ``kinds=none``: ``%y`` is ``%x``. Layers are found by what they do to the axes (:mod:`vgcomp.temporal`),
whoever wrote the network. A new layer starts as the identity, its last product zero: what is lost is what the old layer
did, and training brings back. Approximate: by the distance to the original's outputs, which is to be trained down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from vgcomp.errors import UsageError
from vgcomp.models.temporal import HEAD, TEMPORAL
from vgcomp.passes.base import PassContext, PassResult
from vgcomp.program import Program
from vgcomp.result import Equivalence, Explanation
from vgcomp.step_cuts.reach import node_flops
from vgcomp.temporal.frames import Clip, find_clip
from vgcomp.temporal.layers import TemporalLayer, layers_of, unmatched
from vgcomp.temporal.prompt import find_prompt
from vgcomp.temporal.substitute import KEEP, NONE, substituted
from vgcomp.units import format_count

#: All that may stand at a position.
KINDS = (*TEMPORAL, NONE, KEEP)


@dataclass(frozen=True)
class SubstituteTemporal:
    """See the module's text.

    ``kinds``: one for all positions, or one a position: conv1d, conv3d, selfattention1d and so on as the zoo's
    ``temporal`` setting has them, ``none``, or ``keep`` for the layer that is there. ``positions``: names or numbers of
    those meant, all by default. ``frames``: their number, 0 to find it. ``head``: at most so many channels a head.
    ``seed``: of new weights. Raises UsageError for unknown positions and for another number of kinds than of positions.
    """

    name: ClassVar[str] = "substitute-temporal"
    equivalence: ClassVar[Equivalence] = "approximate"
    #: What ``approximate`` means here: the metric; a new layer is trained until it is small, so it has no bound.
    metric: ClassVar[str] = "distance of the outputs to the original network's, brought down by training"

    kinds: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    frames: int = 0
    head: int = HEAD
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [kind for kind in self.kinds if kind.strip().lower() not in KINDS]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is not one of {', '.join(KINDS)}")

    def run(self, program: Program, context: PassContext) -> PassResult:
        clip = find_clip(program, self.frames or None)
        layers = () if clip is None else layers_of(clip)
        if clip is None or not layers:
            reason = "no temporal layer: no op works frame by frame here and mixes frames there"
            return PassResult(program, False, {"found": 0}, (Explanation(program.name, self.name, reason),))
        chosen = self._chosen(program, layers)
        outside = [Explanation(n.name, self.name, _OUTSIDE) for n in unmatched(clip, layers)]
        wanted = {layer: kind for layer, kind in chosen.items() if kind != KEEP}
        if not wanted:
            found = [Explanation(layer.name, self.name, _words(layer)) for layer in layers]
            return PassResult(program, False, {"found": len(layers)}, (*found, *outside))
        return self._result(program, clip, layers, wanted, outside)

    def _result(
        self,
        program: Program,
        clip: Clip,
        layers: Sequence[TemporalLayer],
        wanted: dict[TemporalLayer, str],
        outside: Sequence[Explanation],
    ) -> PassResult:
        new = substituted(program, clip, wanted, seed=self.seed, head=self.head)
        before, after = (sum(map(node_flops, p.graph.nodes)) for p in (program, new))
        stats: dict[str, int | float | str] = {
            "found": len(layers),
            "replaced": len(wanted),
            "frames": clip.frames,
            "flops_before": before,
            "flops_after": after,
            "weight_bytes_before": program.weight_bytes(),
            "weight_bytes_after": new.weight_bytes(),
        }
        done = [
            Explanation(layer.name, self.name, f"{_words(layer)}; {_now(kind)}")
            if (kind := wanted.get(layer))
            else Explanation(layer.name, self.name, f"{_words(layer)}; kept")
            for layer in layers
        ]
        return PassResult(new, True, stats, (*done, *outside, *self._prompt(program, clip, wanted)))

    def _prompt(self, program: Program, clip: Clip, wanted: dict[TemporalLayer, str]) -> tuple[Explanation, ...]:
        """What new cross-attention reads."""
        prompt = find_prompt(clip) if any(kind.startswith("cross") for kind in wanted.values()) else None
        if prompt is None:
            return ()
        which = ", of each video its first frame's" if prompt.repeated else ""
        reason = f"cross-attention reads {prompt.value}, {prompt.tokens} tokens of {prompt.width}{which}"
        return (Explanation(program.name, self.name, reason),)

    def _chosen(self, program: Program, layers: Sequence[TemporalLayer]) -> dict[TemporalLayer, str]:
        """The kind for each position meant."""
        meant = [_at(program, layers, position) for position in self.positions] if self.positions else list(layers)
        kinds = [kind.strip().lower() for kind in self.kinds] or [KEEP]
        kinds = kinds * len(meant) if len(kinds) == 1 else kinds
        if len(kinds) != len(meant):
            names = ", ".join(layer.name for layer in meant)
            raise UsageError(f"{self.name}: {len(kinds)} kinds for {len(meant)} positions; one for each of {names}")
        return dict(zip(meant, kinds, strict=True))


_OUTSIDE = "mixes frames, but adds to nothing: it is no layer that another could stand for"


def _at(program: Program, layers: Sequence[TemporalLayer], position: str) -> TemporalLayer:
    """The layer of this name or number."""
    number = int(position) if position.isdigit() else None
    for i, layer in enumerate(layers):
        if i == number or layer.name == position:
            return layer
    names = ", ".join(f"{i} {layer.name}" for i, layer in enumerate(layers))
    raise UsageError(f"{program.name} has no temporal layer {position!r}; it has {names}")


def _words(layer: TemporalLayer) -> str:
    return f"temporal layer of {layer.shape} (BTCHW): {' and '.join(layer.does)}, {format_count(layer.flops)}FLOP"


def _now(kind: str) -> str:
    return "taken out" if kind == NONE else f"replaced by {kind}, which starts as the identity"
