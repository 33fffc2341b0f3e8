"""What becomes of the outputs of a loop's body at run time: written, merged or carried (``loops.Put``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from vgcomp import ir
from vgcomp.loops import Put
from vgcomp.slices import write_slice


@dataclass(slots=True)
class Frame:
    """What the instructions of one graph work on. The loop's fields are empty at the top level."""

    env: list[Any]
    weights: Mapping[str, Tensor]
    device: torch.device
    operands: Sequence[Tensor] = ()
    step: ir.Step | None = None
    #: Axis results and accumulators so far, by result index.
    results: dict[int, Tensor] = field(default_factory=dict)
    carries: dict[int, Tensor] = field(default_factory=dict)


Instruction = Callable[[Frame], None]


class Outputs:
    """When each output of a body is put out, and how."""

    def __init__(self, loop: ir.Loop, puts: Sequence[Put]) -> None:
        self._loop = loop
        self._puts = puts
        #: Nodes kept to the end of the body.
        self.held = {put.node for put in puts if put.how in ("late", "keep") or put.node.op == "placeholder"}
        self.direct = {put.node: put.index for put in puts if put.how == "direct"}
        self.copies = sum(put.how == "copy" for put in puts)

    def instructions(
        self, slot_of: Mapping[fx.Node, int]
    ) -> tuple[dict[int, list[Instruction]], list[tuple[Put, Instruction]]]:
        """(those after each node, those at the end with what they put out)."""
        after: dict[int, list[Instruction]] = {}
        early: list[tuple[Put, Instruction]] = []
        late: list[tuple[Put, Instruction]] = []
        extra = len(slot_of)
        for put in self._puts:
            slot = slot_of[put.node]
            soon: list[Instruction] = []
            if put.how == "keep":
                late.append((put, _keep_carry(put.index, slot)))
            elif put.how == "copy":
                soon.append(_copy(slot, extra))
                late.append((put, _keep_carry(put.index, extra)))
                extra += 1
            elif put.how == "merge":
                soon.append(_merge(put, slot))
            elif put.how != "direct":
                early += [] if put.owned else [(put, _copy(slot, slot))]
                write = _write(put.index, self._loop.results[put.index].axis, slot)
                late += [(put, write)] if put.how == "late" else []
                soon += [write] if put.how == "write" else []
            if put.node.op == "placeholder":
                early += [(put, instruction) for instruction in soon]
            else:
                after.setdefault(slot, []).extend(soon)
        return after, early + late


def _write(k: int, axis: ir.Axis | None, slot: int) -> Instruction:
    assert axis is not None

    def write(frame: Frame) -> None:
        assert frame.step is not None
        span = frame.step.writes[k]
        if span is not None:
            write_slice(frame.results[k], axis, span, frame.env[slot])

    return write


def _merge(put: Put, slot: int) -> Instruction:
    k, merge, owned = put.index, put.merge, put.owned

    def combine(frame: Frame) -> None:
        value = frame.env[slot]
        if k in frame.results:
            frame.results[k] = merge(frame.results[k], value)
        else:
            frame.results[k] = value if owned else value.clone(memory_format=torch.contiguous_format)

    return combine


def _copy(slot: int, to: int) -> Instruction:
    def copy(frame: Frame) -> None:
        frame.env[to] = frame.env[slot].clone(memory_format=torch.contiguous_format)

    return copy


def _keep_carry(carry: int, slot: int) -> Instruction:
    def keep(frame: Frame) -> None:
        frame.carries[carry] = frame.env[slot]
        frame.env[slot] = None

    return keep
