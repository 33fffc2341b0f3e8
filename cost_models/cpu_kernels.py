"""Which of its kernels PyTorch takes on a CPU, where it has several of very different speeds.

fp32 convolutions of one small image run on the old kernel, which unfolds the image and multiplies; others run on
oneDNN's, up to six times as fast. The rule is PyTorch's own (``ConvParams::use_mkldnn``, in
aten/src/ATen/native/Convolution.cpp).
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from vgcomp.cost_models.base import OpWork

aten = torch.ops.aten

#: Elements of an image, but for its last dimension's if there are five, from which on oneDNN is taken.
_SMALL = 20480
#: From so many images on it is always worth it, whatever the filter.
_MANY = 16
_WIDE = 3

Kernel = Literal["", "unfolded", "onednn"]


def cpu_convolution(work: OpWork, threads: int) -> Kernel:
    """The kernel of a convolution; "" for other ops, other devices' dtypes and work that no call does."""
    if work.target is not aten.convolution.default or work.call is None or work.dtype != torch.float32:
        return ""
    arguments: Any = work.call[1]
    (image, *_), (filters, *_) = arguments[0], arguments[1]
    stride, dilation, groups = (_numbers(arguments[k]) for k in (3, 5, 8))
    taps = (1, 1, *filters[2:])[-2:]  # one-dimensional images are images of one row
    plain = not any(s != 1 for s in (*stride, *dilation))
    if threads == 1 and plain and taps == (1, 1) and image[0] < _MANY:
        return "unfolded"
    large = image[0] > 1 or image[:4].numel() > _SMALL
    return "onednn" if groups[0] > 1 or min(taps) > _WIDE or large else "unfolded"


def _numbers(argument: Any) -> list[int]:
    """The integers in a spelled argument: (type, value), alone or in a tuple."""
    if len(argument) == 2 and isinstance(argument[0], type):
        return [int(argument[1])]
    return [number for entry in argument for number in _numbers(entry)]
