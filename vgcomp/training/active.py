"""Which elements of a supernet's weights take part in the subnet that it runs as."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vgcomp.models.elastic_layers import Active, Elastic, Residual, Width


def active_elements(module: nn.Module, path: str = "") -> dict[str, Tensor]:
    """A mask for each parameter of which anything takes part, true where it does. Other layers' count whole."""
    if isinstance(module, Residual) and not module.kept:
        return {}
    found = {}
    for name, tensor in module.named_parameters(path, recurse=False):
        mask = torch.ones_like(tensor, dtype=torch.bool)
        if isinstance(module, Elastic):
            mask &= _box(module.active, module.axes[name.rpartition(".")[2]], tensor)
        found[name] = mask
    for name, child in module.named_children():
        found |= active_elements(child, f"{path}.{name}" if path else name)
    return found


def _box(active: Active, axes: tuple[Width, ...], tensor: Tensor) -> Tensor:
    """What several axes leave of a parameter."""
    mask = torch.ones((), dtype=torch.bool, device=tensor.device)
    for axis, width in enumerate(axes):
        shape = [-1 if n == axis else 1 for n in range(tensor.dim())]
        mask = mask & _along(active, width).to(tensor.device).reshape(shape)
    return mask


def _along(active: Active, width: Width) -> Tensor:
    """(full size,): which elements of an axis are active, the first of each segment."""
    parts = []
    for segment in width:
        part = torch.arange(segment.full) < active.kept(segment)
        parts += [part] * segment.repeat
    return torch.cat(parts)
