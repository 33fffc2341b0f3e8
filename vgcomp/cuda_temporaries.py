"""What PyTorch's CUDA ops allocate inside themselves: contiguous copies, statistics, and cuDNN's workspaces.

Read in PyTorch's sources: ops that want a contiguous input copy one that is not (convolutions, norms, ``linear``,
nearest upsampling); a norm also makes its mean and reciprocal deviation, attention its log-sum-exp, both fp32.

cuDNN's workspace is an **assumption**, stated here once. Tensor-core kernels read channels-last, so for a contiguous
(channels-first) input the workspace holds input, filter and output once more in that layout ("NCHW layouts can still
be operated on by Tensor Cores, but include some overhead due to automatic transpose operations", NVIDIA, Convolutional
Layers User's Guide; the same conversions were seen around 3-D convolutions, LightX2V #860, LoongForge #123). PyTorch
puts no bound on it while ``torch.backends.cudnn.benchmark`` is off. These kernels index with 32 bits: a convolution
with an input or output of 2^31 elements or more takes an engine without a workspace. Depthwise convolutions are
PyTorch's own kernels, and channels-last inputs need no conversion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from vgcomp import ir
from vgcomp.slices import is_contiguous
from vgcomp.workspace import workspace_bytes

aten = torch.ops.aten

#: Elements that 32-bit indices reach.
INDEX_LIMIT = 2**31
#: Channels of half-precision tensors in cuDNN's channels-last copies come in eights.
CHANNEL_MULTIPLE = 8

#: The widest head that flash attention takes. Beyond it the memory-efficient kernel sums the output up in fp32.
FLASH_WIDTH = 256


@dataclass(frozen=True, slots=True)
class Temporaries:
    """Sizes in bytes. ``before``: made before the output; ``after``: made after it. All go when the op is done."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        """All of them together: they are alive at one time, beside the op's inputs and output."""
        return sum(self.before) + sum(self.after)


NONE = Temporaries()
#: (arguments, output) -> what the op allocates besides the output.
Rule = Callable[[Sequence[Any], Tensor], Temporaries]


def cuda_temporaries(op: Any, args: Sequence[Any], out: Any) -> Temporaries:
    """What ``op`` allocates on a CUDA device for these (fake) arguments beside its output."""
    rule = _RULES.get(op)
    return NONE if rule is None or not isinstance(out, Tensor) else rule(args, out)


def has_temporaries(op: Any) -> bool:
    """True for PyTorch's ops that may allocate something inside themselves."""
    return op in _RULES


def node_cuda_temporaries(node: fx.Node, merge: Any = None) -> Temporaries:
    """What a node's op allocates inside itself on a CUDA device; with ``merge``, what merging two such values does.

    Ops of our own are tensor operations, which allocate the same everywhere: one workspace of the most that they hold.
    """
    if merge is not None:
        return Temporaries(after=(workspace_bytes(node, merge=merge),))
    if getattr(node.target, "namespace", "") == "vgcomp":
        return Temporaries(after=(workspace_bytes(node),))
    if node.target not in _RULES:
        return NONE
    return cuda_temporaries(node.target, fx.map_arg(node.args, ir.val), ir.val(node))  # type: ignore[arg-type]


def node_cuda_bytes(node: fx.Node, merge: Any = None) -> int:
    """Bytes of all of :func:`node_cuda_temporaries`."""
    return node_cuda_temporaries(node, merge).total


def _convolution(args: Sequence[Any], out: Tensor) -> Temporaries:
    x, weight = args[0], args[1]
    copies = _contiguous_copy(x)
    if _depthwise(x, weight) or _channels_last(x) or max(x.numel(), out.numel()) >= INDEX_LIMIT:
        return Temporaries(copies)
    return Temporaries(copies, (sum(_channels_last_bytes(tensor) for tensor in (x, weight, out)),))


def _norm(args: Sequence[Any], out: Tensor) -> Temporaries:
    x = args[0]
    rows = x.shape[0] * args[1] if isinstance(args[1], int) else x.numel() // max(torch.Size(args[1]).numel(), 1)
    return Temporaries(_row_major_copy(x), (4 * rows, 4 * rows))


def _attention(args: Sequence[Any], out: Tensor) -> Temporaries:
    log_sum = 4 * out.numel() // max(out.shape[-1], 1)
    wide = args[0].shape[-1] > FLASH_WIDTH and out.element_size() < 4
    return Temporaries(after=(log_sum, 4 * out.numel()) if wide else (log_sum,))


def _first_contiguous(args: Sequence[Any], out: Tensor) -> Temporaries:
    return Temporaries(_contiguous_copy(args[0]))


def _contiguous_copy(x: Tensor) -> tuple[int, ...]:
    """For ops that take channels-last inputs as they are."""
    return () if _channels_last(x) else _row_major_copy(x)


def _row_major_copy(x: Tensor) -> tuple[int, ...]:
    return () if is_contiguous(x.shape, x.stride()) else (x.numel() * x.element_size(),)


def _channels_last(x: Tensor) -> bool:
    """True for dense channels-last tensors with more than one channel and pixel, whose layout is not ambiguous."""
    if x.dim() not in (4, 5) or is_contiguous(x.shape, x.stride()):
        return False
    form = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return x.is_contiguous(memory_format=form)


def _channels_last_bytes(x: Tensor) -> int:
    channels = -(-x.shape[1] // CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE
    return x.numel() // max(x.shape[1], 1) * channels * x.element_size()


def _depthwise(x: Tensor, weight: Tensor) -> bool:
    return weight.shape[1] == 1 and x.shape[1] > 1


_RULES: dict[Any, Rule] = {
    aten.convolution.default: _convolution,
    aten.conv1d.default: _convolution,
    aten.conv2d.default: _convolution,
    aten.conv3d.default: _convolution,
    aten.group_norm.default: _norm,
    aten.layer_norm.default: _norm,
    aten.scaled_dot_product_attention.default: _attention,
    aten.linear.default: _first_contiguous,
    aten.upsample_nearest1d.vec: _first_contiguous,
    aten.upsample_nearest2d.vec: _first_contiguous,
    aten.upsample_nearest3d.vec: _first_contiguous,
}
