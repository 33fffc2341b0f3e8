"""Which consecutive steps of a loop one ONNX Scan can carry out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from vgcomp import ir

#: Fewer steps than this are called one by one: a Scan would only hide them from the optimizers.
_MIN_SCAN = 3

_Spec = tuple[tuple[int, ...], torch.dtype]


@dataclass
class Run:
    """Consecutive steps that write the same results, side by side, in pieces of one length.

    ``written``: the results with an axis that every step writes. ``descending[k]``: result k's
    pieces come last first. ``carry_specs``: shape and dtype of every carry that a step touches.
    """

    steps: list[ir.Step]
    written: list[int]
    carry_specs: dict[int, _Spec]
    descending: dict[int, bool] = field(default_factory=dict)
    allowed: bool = True

    @property
    def scan(self) -> bool:
        """True where the steps are worth a Scan."""
        return self.allowed and len(self.steps) >= _MIN_SCAN

    def takes(self, step: ir.Step, written: list[int], specs: dict[int, _Spec]) -> bool:
        """Adds ``step`` if it carries the run on."""
        if not self.allowed or written != self.written or _conflict(self.carry_specs, specs):
            return False
        directions = {k: _direction(self.steps[-1].writes[k], step.writes[k]) for k in written}
        if any(d is None or self.descending.get(k, d) != d for k, d in directions.items()):
            return False
        self.descending.update({k: bool(d) for k, d in directions.items()})
        self.carry_specs.update(specs)
        self.steps.append(step)
        return True


def runs_of(loop: ir.Loop, *, unroll: bool = False) -> Iterator[Run]:
    """The loop's steps, in order, cut into runs."""
    specs = [_carry_specs(body) for body in loop.bodies]
    run: Run | None = None
    for step in loop.steps:
        written = [k for k in sorted(loop.bodies[step.body].results) if step.writes[k] is not None]
        own = specs[step.body]
        if run is not None and own is not None and run.takes(step, written, own):
            continue
        if run is not None:
            yield run
        run = Run([step], written, dict(own or {}), allowed=own is not None and not unroll)
    if run is not None:
        yield run


def _direction(before: ir.Span | None, after: ir.Span | None) -> bool | None:
    """False when ``after`` follows ``before``, True when it precedes it, None when neither."""
    if before is None or after is None or before[1] - before[0] != after[1] - after[0]:
        return None
    if after[0] == before[1]:
        return False
    return True if after[1] == before[0] else None


def _carry_specs(body: ir.Body) -> dict[int, _Spec] | None:
    """Shape and dtype of the body's carries; None when one comes out in another shape than it went in."""
    placeholders = [node for node in body.graph.nodes if node.op == "placeholder"]
    (outputs,) = body.graph.output_node().args
    ins = zip(body.carries_in, placeholders[len(body.operands) :], strict=True)
    outs = zip(body.carries_out, outputs[len(body.results) :], strict=True)  # type: ignore[index,arg-type]
    specs: dict[int, _Spec] = {}
    for carry, node in (*ins, *outs):
        value = ir.val(node)  # type: ignore[arg-type]
        spec = (tuple(int(d) for d in value.shape), value.dtype)
        if specs.setdefault(carry, spec) != spec:
            return None
    return specs


def _conflict(a: dict[int, _Spec], b: dict[int, _Spec]) -> bool:
    return any(a.get(carry, spec) != spec for carry, spec in b.items())
