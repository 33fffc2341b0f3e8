"""What every cost model shares: the work of an op, its cost, and the protocol between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch

from vgcomp.targets.target import Target

Kind = Literal["conv", "matmul", "attention", "norm", "pointwise", "view", "copy", "reduce", "other"]
Bound = Literal["compute", "memory", "launch"]
#: How a convolution reads its input: nothing but channels, a window in two dimensions or fewer that lie side by side,
#: a window in space and time (or in time alone), or one channel at a time.
ConvForm = Literal["none", "1x1", "2d", "3d", "depthwise"]


@dataclass(frozen=True, slots=True)
class OpWork:
    """What one op must do at least, from shapes alone; no device in it.

    ``flops`` counts a multiply-add as 2 and any other scalar operation as 1. Bytes are those of the
    distinct elements that must be read and written once: no re-reads, no workspace, and a
    broadcast input counts its own elements only.
    """

    kind: Kind
    #: The op, a member of ``ir.DIALECT``.
    target: Any
    #: Of the op's first tensor: what the arithmetic units are fed.
    dtype: torch.dtype
    flops: float = 0.0
    #: The part of ``flops`` that contractions make, which matrix units run.
    matrix_flops: float = 0.0
    bytes_read: float = 0.0
    #: The part of ``bytes_read`` that a slice of the output needs whole: weights and broadcast inputs.
    shared_bytes: float = 0.0
    bytes_written: float = 0.0
    out_elements: int = 0
    #: The contraction as ``batch`` products of (m, k) by (k, n); zeros for other ops.
    batch: int = 0
    m: int = 0
    n: int = 0
    k: int = 0
    #: The input is read against its order in memory.
    strided: bool = False
    #: How often a kernel goes through the input: 2 where a statistic of all of it comes first.
    reads: int = 1
    #: Statistics that are taken one by one: a norm's groups or rows, a softmax's rows.
    rows: int = 0
    #: An input is broadcast over the output: kernels compute an address an element and load one at a time.
    broadcast: bool = False
    form: ConvForm = "none"
    #: Of its input and output, the bytes that GPU libraries copy into another layout around the kernel.
    relayout_bytes: float = 0.0
    #: Traffic of intermediates that the op writes and reads again: scores that are materialised.
    scratch_bytes: float = 0.0
    #: The very call, as :mod:`vgcomp.cost_models.calls` spells it: what a measured table is looked up by. None for
    #: work that no call of its own does (a fused chain, a slice that is only imagined).
    call: tuple[Any, ...] | None = field(default=None, repr=False)

    # Few fields tell ops apart, and a hash of all of them would cost more than the roofline.
    def __hash__(self) -> int:
        return hash((self.target, self.flops, self.bytes_read, self.bytes_written, self.m))

    @property
    def bytes_moved(self) -> float:
        """Bytes read and written."""
        return self.bytes_read + self.bytes_written

    @property
    def is_free(self) -> bool:
        """True for a view: nothing runs."""
        return self.kind == "view"


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of an op's time on a device, and what is left beside it for another op: the rest of both shares.

    ``units``: the share of the device's units (SMs) that hold its blocks; 0 between one kernel and the next.
    ``bandwidth``: the share of the memory's rate that it takes.
    """

    seconds: float
    units: float = 1.0
    bandwidth: float = 1.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds for an op, what bounds it, and which model (and table, and target) said so.

    ``seconds`` is no less than the host needs to issue the op. ``device_s`` is the device's part alone, for who
    follows the host's lead over it; None where the model does not tell them apart. ``spread`` is the standard
    deviation of the prediction's logarithm (0.1 is about 10 %); None where the model does not know it.
    ``phases``: what ``device_s`` is made of, for who runs ops side by side; empty where the model knows no better
    than that the op takes the whole device.
    """

    seconds: float
    bound: Bound
    source: str
    device_s: float | None = None
    spread: float | None = None
    phases: tuple[Phase, ...] = ()


@dataclass(frozen=True, slots=True)
class Overhead:
    """What the runtime itself takes, seconds, where short ops are the larger part of a network. Zeros: not modelled.

    ``run_s``: a run. ``weight_s``: each weight that a run looks up. ``call_s``: each op, views included, on top of
    the op itself; a cost model counts it in its ops. ``step_s``: a step of a loop. ``slice_s``: each slice that a step
    reads or writes.
    """

    run_s: float = 0.0
    weight_s: float = 0.0
    call_s: float = 0.0
    step_s: float = 0.0
    slice_s: float = 0.0


class CostModel(Protocol):
    """Predicts an op's duration on a target."""

    @property
    def name(self) -> str:
        """The model's name, as on the command line."""
        ...

    def op_seconds(self, work: OpWork, target: Target) -> Cost:
        """The cost of one run of the op."""
        ...

    def seconds_at(self, work: OpWork, fraction: float) -> float:
        """Seconds for ``fraction`` of the op's elements on the model's own target; what planners call most."""
        ...


def overhead_of(model: CostModel) -> Overhead:
    """The runtime's own seconds, from a model that has measured them (its ``overhead``); else none."""
    found = getattr(model, "overhead", None)
    return found if isinstance(found, Overhead) else Overhead()
