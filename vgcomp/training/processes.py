"""Where training runs: one process, or several that `accelerate launch` started, on CPUs or GPUs.

Each process takes its rows of one global batch, and gradients are averaged before the optimizer's step; so a run with
more processes trains on the same batches. Averaging is explicit: the networks are called as they are, with whatever
part of their weights takes part in an iteration.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vgcomp.errors import Unavailable
from vgcomp.training.clips import Share


class Processes(Protocol):
    """This process among those that train together."""

    #: Its rows of a batch, and where its networks lie.
    share: Share
    device: torch.device

    def autocast(self) -> AbstractContextManager[Any]:
        """The arithmetic of forward passes."""
        ...

    def average(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Each tensor's mean over all processes."""
        ...


class Single:
    """One process."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device, self.share = device or torch.device("cpu"), Share()

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def average(self, values: Sequence[Tensor]) -> list[Tensor]:
        return list(values)


class Accelerated:
    """One of the processes of an ``accelerate.Accelerator``; its mixed precision is fp32 or bf16."""

    def __init__(self, accelerator: Any) -> None:
        if accelerator.mixed_precision not in ("no", "bf16"):
            raise Unavailable(f"mixed precision {accelerator.mixed_precision} is not here: take bf16 or no")
        self.accelerator = accelerator
        self.device: torch.device = accelerator.device
        self.share = Share(accelerator.process_index, accelerator.num_processes)

    def autocast(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self.accelerator.autocast()
        return context

    def average(self, values: Sequence[Tensor]) -> list[Tensor]:
        if self.share.of == 1 or not values:
            return list(values)
        # One message for all: many small ones cost a round trip each.
        joined = torch.cat([value.reshape(-1) for value in values])
        parts = self.accelerator.reduce(joined, reduction="mean").split([value.numel() for value in values])
        return [part.reshape(value.shape) for part, value in zip(parts, values, strict=True)]


def processes() -> Processes:
    """What this process was started as: accelerate's where it is installed, else a single one on the CPU.

    Raises Unavailable where a launcher started several and accelerate is not installed.
    """
    if importlib.util.find_spec("accelerate") is not None:
        from accelerate import Accelerator

        return Accelerated(Accelerator())
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise Unavailable("several processes need accelerate, which is not installed: pip install 'vgcomp[train]'")
    return Single()


def average_gradients(parameters: Iterable[nn.Parameter], among: Processes) -> None:
    """Puts the mean over all processes in place of each gradient there is; all have them for the same parameters."""
    held = [parameter for parameter in parameters if parameter.grad is not None]
    means = among.average([parameter.grad for parameter in held if parameter.grad is not None])
    for parameter, mean in zip(held, means, strict=True):
        parameter.grad = mean
