"""Which convolution PyTorch takes: the cases of its own rule."""

import pytest
import torch

from vgcomp.cost_models.cpu_kernels import cpu_convolution
from vgcomp.cost_models.work import work_of

aten = torch.ops.aten


def kernel(image, filters, *, groups=1, stride=1, dtype=torch.float32, threads=2):
    n = len(image) - 2
    x, w = torch.empty(image, dtype=dtype, device="meta"), torch.empty(filters, dtype=dtype, device="meta")
    args = (x, w, None, [stride] * n, [0] * n, [1] * n, False, [0] * n, groups)
    return cpu_convolution(work_of(aten.convolution.default, args, {}, aten.convolution.default(*args)), threads)


@pytest.mark.parametrize(
    ("image", "filters", "wanted"),
    [
        ((1, 32, 11, 32, 48), (32, 32, 3, 3, 3), "unfolded"),  # 11,264 elements without the last dimension
        ((1, 32, 11, 64, 96), (32, 32, 3, 3, 3), "onednn"),
        ((2, 4, 8, 8), (8, 4, 3, 3), "onednn"),  # more than one image
        ((1, 4, 8, 8), (8, 4, 3, 3), "unfolded"),
        ((1, 4, 8, 8), (8, 4, 5, 5), "onednn"),  # a wide filter
        ((1, 4, 64), (8, 4, 3), "unfolded"),
        ((1, 4, 8000), (8, 4, 3), "onednn"),
    ],
)
def test_small_single_images_are_unfolded(image, filters, wanted):
    assert kernel(image, filters) == wanted


def test_groups_and_threads_and_dtypes():
    assert kernel((1, 4, 8, 8), (4, 1, 3, 3), groups=4) == "onednn"
    assert kernel((2, 64, 64, 64), (64, 64, 1, 1)) == "onednn"
    assert kernel((2, 64, 64, 64), (64, 64, 1, 1), threads=1) == "unfolded"
    assert kernel((2, 64, 64, 64), (64, 64, 1, 1), threads=1, stride=2) == "onednn"
    assert kernel((2, 64, 64, 64), (64, 64, 1, 1), dtype=torch.float16) == ""
