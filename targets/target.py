"""What the compiler knows of a device."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

#: The op kinds of :class:`vgcomp.cost_models.base.OpWork` that a target may give an efficiency for.
EfficiencyKind = Literal["conv", "conv3d", "matmul", "attention", "memory"]


class Limits(BaseModel):
    """What the device refuses, for the passes that legalize. None: no limit known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_rank: PositiveInt | None = None
    max_dim: PositiveInt | None = None
    max_conv_kernel: PositiveInt | None = None


class Fallback(BaseModel):
    """The processor beside an accelerator that runs what it refuses; rates are those that kernels reach."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flops_per_s: PositiveFloat
    memory_bytes_per_s: PositiveFloat
    #: Each op's own time.
    op_s: float = Field(ge=0.0)
    #: From one processor to the other, and from the host to a part that runs on the accelerator.
    switch_s: float = Field(ge=0.0)
    dispatch_s: float = Field(ge=0.0)


class Target(BaseModel):
    """A device's constants, SI units; compared by value, immutable.

    Rates are dense and at their peak: what a kernel reaches of them is the cost model's affair,
    except for ``efficiency``, fractions of the peak that were measured on this very device.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    title: str
    kind: Literal["cuda", "ane", "cpu"]
    #: What compilers call the device's code: sm_80, apple-a18, aarch64. None on a CPU: this machine's.
    arch: str | None = None

    #: Device memory.
    memory_bytes: PositiveInt
    #: What one application may take of it, where the system keeps the rest.
    app_memory_bytes: PositiveInt | None = None
    memory_bytes_per_s: PositiveFloat

    #: The last cache before memory. Its rate is that of all units together.
    cache_bytes: PositiveInt
    cache_bytes_per_s: PositiveFloat

    #: Streaming multiprocessors, Neural Engine cores or CPU cores.
    units: PositiveInt
    #: Multiply-adds count as 2. ``fp16_acc32``: half-precision inputs, fp32 accumulation.
    fp16_flops_per_s: PositiveFloat
    fp16_acc32_flops_per_s: PositiveFloat
    #: None where the device has no fp32 and computes in fp16 instead.
    fp32_flops_per_s: PositiveFloat | None = None
    #: fp32 convolutions on matrix units that round their inputs, as PyTorch allows by default. None: no such units.
    tf32_flops_per_s: PositiveFloat | None = None

    #: From one kernel's end to the next one's start.
    launch_s: PositiveFloat
    #: The host's time to issue one op; runs ahead of the device, so it only shows when ops are short.
    host_issue_s: float = Field(default=0.0, ge=0.0)
    #: The host's time for a view, which issues nothing.
    host_view_s: float = Field(default=0.0, ge=0.0)
    #: Copies from the host's (pinned) memory to the device. None: both are the same memory.
    host_bytes_per_s: PositiveFloat | None = None

    #: How a run's memory is handed out: PyTorch's ``caching`` allocator, one planned ``arena``, or ``live``, just what
    #: is live and no loss. None: caching on CUDA devices, an arena on a Neural Engine, live on a CPU.
    allocator: Literal["caching", "arena", "live"] | None = None
    #: Device memory of a process before its first tensor: the driver's context and the kernels loaded.
    context_bytes: int = Field(default=0, ge=0)
    #: What PyTorch keeps for the matrix library, one handle on one stream.
    blas_workspace_bytes: int = Field(default=0, ge=0)

    efficiency: dict[EfficiencyKind, Annotated[float, Field(gt=0.0, le=1.0)]] = Field(default_factory=dict)
    limits: Limits = Limits()
    fallback: Fallback | None = None
    #: Field name -> where its value comes from.
    sources: dict[str, str] = Field(default_factory=dict)

    # Value equality is pydantic's; its hash walks every field, and a cost model hashes a target per op.
    def __hash__(self) -> int:
        return hash((self.name, self.memory_bytes, self.memory_bytes_per_s))

    @property
    def hands_out(self) -> Literal["caching", "arena", "live"]:
        """How memory is handed out: ``allocator``, or what is usual on the kind of device."""
        usual: dict[str, Literal["caching", "arena", "live"]] = {"cuda": "caching", "ane": "arena", "cpu": "live"}
        return self.allocator or usual[self.kind]

    @property
    def usable_bytes(self) -> int:
        """Bytes that one application may use."""
        return self.app_memory_bytes or self.memory_bytes

    def matrix_flops_per_s(self, dtype: torch.dtype) -> float:
        """Peak rate of contractions on inputs of ``dtype``, accumulated in fp32 as PyTorch does."""
        if dtype in (torch.float16, torch.bfloat16):
            return self.fp16_acc32_flops_per_s
        rate = self.fp32_flops_per_s or self.fp16_flops_per_s
        return rate / 2 if dtype == torch.float64 else rate

    def vector_flops_per_s(self) -> float:
        """Peak rate of everything that is not a contraction."""
        return self.fp32_flops_per_s or self.fp16_flops_per_s
