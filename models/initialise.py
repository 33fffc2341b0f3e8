"""Building a network without touching its parameters' memory, and filling it with random numbers."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FILLS = frozenset(
    {
        Tensor.uniform_,
        Tensor.normal_,
        Tensor.fill_,
        Tensor.zero_,
        Tensor.copy_,
        Tensor.mul_,
        Tensor.add_,
        Tensor.clamp_,
        Tensor.erfinv_,
    }
)


class _SkipFills(TorchFunctionMode):
    """Leaves parameters as they were allocated: untouched pages take no memory, and no time."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        first = args[0] if args else (kwargs or {}).get("tensor")
        fills = func in _FILLS or getattr(func, "__module__", "") == "torch.nn.init"
        if fills and isinstance(first, nn.Parameter):
            return first
        return func(*args, **(kwargs or {}))


def build_untouched(make: Callable[[], nn.Module], dtype: torch.dtype) -> nn.Module:
    """The module in evaluation mode, parameters uninitialised and in ``dtype``, buffers computed.

    Modules that diffusers keeps in fp32 stay so. Buffers are computed in fp32 and then cast, as
    loading a checkpoint in half precision does.
    """
    with _SkipFills(), torch.no_grad():
        module = make().eval()
    if dtype != torch.float32:
        _cast(module, dtype)
    return module.requires_grad_(False)


def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    kept = _kept_in_fp32(module)
    for path, child in module.named_modules():
        for name, parameter in child._parameters.items():
            if parameter is None or not parameter.is_floating_point() or kept.search(f"{path}.{name}"):
                continue
            child._parameters[name] = nn.Parameter(torch.empty(parameter.shape, dtype=dtype), requires_grad=False)
        for name, buffer in child._buffers.items():
            if buffer is not None and buffer.is_floating_point() and not kept.search(f"{path}.{name}"):
                child._buffers[name] = buffer.to(dtype)


def _kept_in_fp32(module: nn.Module) -> re.Pattern[str]:
    """Matches the paths of modules that a half-precision checkpoint keeps in fp32."""
    names = [n for m in module.modules() for n in (getattr(m, "_keep_in_fp32_modules", None) or ())]
    if not names:
        return re.compile(r"(?!)")
    return re.compile(r"(^|\.)(" + "|".join(map(re.escape, names)) + r")(\.|$)")


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> None:
    """Seeded random parameters, none zero: layers that start at zero would hide errors behind them.

    A parameter's numbers depend on its name, shape and the seed only.
    """
    for name, parameter in module.named_parameters():
        generator = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(name.encode()))
        parameter.copy_(_numbers(name, parameter.shape, generator))


def _numbers(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if len(shape) >= 2 and math.prod(shape[1:]) > 1:
        return noise / math.sqrt(math.prod(shape[1:]))
    if name.endswith(("weight", "gamma")):
        return 1.0 + 0.2 * noise
    return 0.2 * noise
