"""Torch modules through both exporters, at several operator sets: same numbers, same ops as a capture."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.onnx_import.support import agree, ops
from vgcomp.capture import capture
from vgcomp.memory import peak_activation_bytes
from vgcomp.models import build_module


class Norms(nn.Module):
    """Group norms of 4-D and 5-D tensors with silu, a temporal convolution, upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, 16, eps=1e-6), nn.GroupNorm(8, 32)
        self.conv1, self.conv2 = nn.Conv2d(16, 32, 3, padding=1), nn.Conv3d(32, 8, (3, 1, 1), padding=(1, 0, 0))
        for norm in (self.norm1, self.norm2):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(F.silu(self.norm1(x)))
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        video = x.reshape(1, 2, *x.shape[1:]).permute(0, 2, 1, 3, 4)
        return self.conv2(F.silu(self.norm2(video)))


class Feed(nn.Module):
    """Layer norm, then a gated feed-forward."""

    def __init__(self, approximate: str) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 64), nn.Linear(32, 16, bias=False)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        wide, gate = self.up(self.norm(x)).chunk(2, dim=-1)
        return x + self.down(wide * F.gelu(gate, approximate=self.approximate))


class RMSNorm(nn.Module):
    """As diffusers writes it: statistics in fp32."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(24))

    def forward(self, x: Tensor) -> Tensor:
        variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
        return (x * torch.rsqrt(variance + 1e-6)).to(self.weight.dtype) * self.weight


class Attend(nn.Module):
    """Self-attention of two heads."""

    def __init__(self, mask: str = "", scale: float | None = None) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(16, 16, bias=False) for _ in range(3))
        self.out, self.mask, self.scale = nn.Linear(16, 16), mask, scale

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, 8)).transpose(1, 2) for f in (self.q, self.k, self.v))
        chosen = mask if self.mask == "given" else None
        y = F.scaled_dot_product_attention(q, k, v, chosen, is_causal=self.mask == "causal", scale=self.scale)
        return self.out(y.transpose(1, 2).flatten(2)) + mask.sum() * 0


class Manual(nn.Module):
    """Attention spelled out with three-dim products, heads in the batch."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.baddbmm(torch.zeros(1), q, k.transpose(1, 2), beta=0, alpha=0.25)
        return torch.bmm(scores.softmax(dim=-1), v)


EXPORTS = [("torchscript", 14), ("torchscript", 17), ("dynamo", 20), ("dynamo", 23)]


def export(module: nn.Module, args: tuple[Tensor, ...], path: Path, exporter: str, opset: int, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), args, str(path), dynamo=exporter == "dynamo", opset_version=opset, verbose=False,
            input_names=[f"in{i}" for i in range(len(args))], output_names=["result"], **options,
        )  # fmt: skip
    return path


KEPT = ("group_norm", "layer_norm", "rms_norm", "silu", "gelu", "scaled_dot_product_attention", "convolution", "linear",
        "matmul", "softmax", "upsample_nearest2d")  # fmt: skip

MODULES: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
    "norms": (Norms(), (torch.randn(2, 16, 8, 8),)),
    "feed": (Feed("none"), (torch.randn(2, 5, 16),)),
    "feed-tanh": (Feed("tanh"), (torch.randn(2, 5, 16),)),
    "attend": (Attend(), (torch.randn(2, 5, 16), torch.randn(5, 5))),
    "attend-scale": (Attend(scale=0.5), (torch.randn(2, 5, 16), torch.randn(5, 5))),
    "attend-causal": (Attend("causal"), (torch.randn(2, 5, 16), torch.randn(5, 5))),
    "attend-mask": (Attend("given"), (torch.randn(2, 5, 16), torch.randn(5, 5))),
    "attend-bool": (Attend("given"), (torch.randn(2, 5, 16), (torch.rand(2, 1, 5, 5) > 0.3) | torch.eye(5).bool())),
    "manual": (Manual(), (torch.randn(4, 6, 8), torch.randn(4, 7, 8), torch.randn(4, 7, 8))),
}


@pytest.mark.parametrize(("exporter", "opset"), EXPORTS)
@pytest.mark.parametrize("name", MODULES)
def test_an_export_has_the_ops_of_a_capture(tmp_path: Path, name: str, exporter: str, opset: int):
    module, args = MODULES[name]
    path = export(module, args, tmp_path / "m.onnx", exporter, opset)
    program = agree(path, {f"in{i}": arg.numpy() for i, arg in enumerate(args)})
    assert program.output_names == ("result",)
    found, wanted = ops(program), ops(capture(module, args))
    assert {op: found[op] for op in KEPT} == {op: wanted[op] for op in KEPT}


@pytest.mark.parametrize(("exporter", "opset"), EXPORTS)
def test_rms_norm_is_raised(tmp_path: Path, exporter: str, opset: int):
    x = torch.randn(2, 5, 24)
    path = export(RMSNorm(), (x,), tmp_path / "m.onnx", exporter, opset)
    found = ops(agree(path, {"in0": x.numpy()}))
    assert dict(found) == {"rms_norm": 1}


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_half_precision(tmp_path: Path, exporter: str):
    """Norms computed in fp32 between casts are norms of fp16; constants rounded to fp16 are recognised."""
    x = torch.randn(2, 5, 24).half()
    path = export(RMSNorm().half(), (x,), tmp_path / "rms.onnx", exporter, 18)
    assert dict(ops(agree(path, {"in0": x.numpy()}, 2e-3))) == {"rms_norm": 1}
    module, args = copy.deepcopy(MODULES["attend-scale"][0]).half(), tuple(a.half() for a in MODULES["attend"][1])
    path = export(module, args, tmp_path / "attend.onnx", exporter, 18)
    found = ops(agree(path, {f"in{i}": arg.numpy() for i, arg in enumerate(args)}, 5e-3))
    assert found["scaled_dot_product_attention"] == 1
    module, args = copy.deepcopy(MODULES["feed-tanh"][0]).half(), tuple(a.half() for a in MODULES["feed-tanh"][1])
    path = export(module, args, tmp_path / "feed.onnx", exporter, 18)
    found = ops(agree(path, {f"in{i}": arg.numpy() for i, arg in enumerate(args)}, 5e-3))
    assert found["gelu"] == 1
    assert found["layer_norm"] == 1


@pytest.mark.slow
def test_a_whole_network_has_the_norms_and_attention_of_a_capture(tmp_path: Path):
    module, args = build_module("svd-unet-small")
    path = export(module, args, tmp_path / "m.onnx", "torchscript", 17)
    program = agree(path, {f"in{i}": arg.numpy() for i, arg in enumerate(args)})
    whole = capture(module, args)
    found, wanted = ops(program), ops(whole)
    same = ("group_norm", "layer_norm", "gelu", "scaled_dot_product_attention", "convolution", "upsample_nearest2d")
    assert {op: found[op] for op in same} == {op: wanted[op] for op in same}
    assert found["matmul"] == found["softmax"] == 0
    assert peak_activation_bytes(program) == pytest.approx(peak_activation_bytes(whole), rel=0.01)


def test_decomposed_layer_norm_is_raised(tmp_path: Path):
    """Operator sets below 17 have no LayerNormalization."""
    x = torch.randn(2, 5, 16)
    path = export(nn.LayerNorm(16), (x,), tmp_path / "m.onnx", "torchscript", 13)
    assert dict(ops(agree(path, {"in0": x.numpy()}))) == {"layer_norm": 1}


def test_dynamic_dims_are_bound(tmp_path: Path):
    x = torch.randn(2, 16, 8, 8)
    path = export(
        Norms(), (x,), tmp_path / "m.onnx", "torchscript", 17, dynamic_axes={"in0": {2: "height", 3: "width"}}
    )
    program = agree(path, {"in0": torch.randn(2, 16, 10, 12).numpy()}, height=10, width=12)
    found = ops(program)
    assert found["group_norm"] == 2
    assert found["upsample_nearest2d"] == 1
