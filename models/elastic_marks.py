"""The marks of a supernet of elastic layers: where its choices lie in the graph captured of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from vgcomp import ir
from vgcomp.elastic import AxisMark, BlockMark, Marks
from vgcomp.errors import InternalError
from vgcomp.models.elastic_layers import Residual, elastic_axes
from vgcomp.program import Program
from vgcomp.space import Choice


def supernet_marks(module: nn.Module, program: Program, choices: Sequence[Choice], elsewhere: Sequence[str]) -> Marks:
    """Marks for the axes that layers give out (weights' first) and for residual layers that may go.

    The axes that read them follow. ``elsewhere``: choices that are none of the supernet's.
    """
    by_name = {choice.name: choice for choice in choices}
    return Marks(tuple(_axes(module, program, by_name)), tuple(_blocks(module, program, by_name)), tuple(elsewhere))


def _axes(module: nn.Module, program: Program, choices: Mapping[str, Choice]) -> Iterator[AxisMark]:
    for name, axis, segment in elastic_axes(module):
        if axis or name not in program.weights or segment.choice is None:
            continue
        options = choices[segment.choice].options
        extents = {str(option): int(option) * segment.factor for option in options}
        yield AxisMark(name, axis, segment.choice, extents, segment.repeat)


def _blocks(module: nn.Module, program: Program, choices: Mapping[str, Choice]) -> Iterator[BlockMark]:
    sums = {str(node.meta.get("scope")): node for node in program.graph.nodes if node.target is ir.aten.add.Tensor}
    for path, layer in module.named_modules():
        if not isinstance(layer, Residual) or layer.choice is None:
            continue
        output = sums.get(path)
        if output is None:
            raise InternalError(f"the graph of {program.name} has no sum of {path}")
        removed = tuple(str(o) for o in choices[layer.choice].options if o not in layer.kept_by)
        yield BlockMark(layer.choice, removed, output.name, output.args[0].name)  # type: ignore[union-attr]
