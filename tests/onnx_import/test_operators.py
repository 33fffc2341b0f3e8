"""Each operator alone, at several operator sets, against ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.onnx_import.support import Array, agree, ops, rand, run, write
from vgcomp.onnx_import import load_onnx

OLD, MID, NEW = 13, 17, 20


@dataclass
class Case:
    """One node. Operands are inputs; those in ``fixed`` (by position) are initializers."""

    op: str
    operands: list[Array | None]
    fixed: tuple[int, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    opsets: tuple[int, ...] = (OLD, MID, NEW)
    outputs: int = 1

    def __str__(self) -> str:
        return "-".join([self.op, *(f"{k}={v}" for k, v in self.attributes.items())])[:60]


def case(
    op: str, *operands: Any, fixed: Any = (), opsets: Any = (OLD, MID, NEW), outputs: int = 1, **attributes: Any
) -> Case:
    arrays = [None if o is None else np.asarray(o) for o in operands]
    return Case(op, arrays, tuple(fixed), attributes, tuple(opsets), outputs)


def ints(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def grid(*picks: Any) -> Array:
    """Coordinates of the points of a grid, as GatherND takes them."""
    return np.stack(np.meshgrid(*picks, indexing="ij"), -1)


X = rand(2, 3, 4, 5)
POSITIVE = np.abs(X) + 0.1
IMAGE = rand(2, 4, 6, 7)
VIDEO = rand(1, 4, 3, 6, 5)

UNARY = "Abs Neg Exp Sin Cos Erf Tanh Sigmoid Relu Floor Round Ceil Softplus Softsign Tan HardSigmoid Elu Selu Identity"
#: How PyTorch's exporters resample.
FLOOR = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}

CASES = [
    *(case(op, X) for op in UNARY.split()),
    *(case(op, POSITIVE) for op in ("Log", "Sqrt", "Reciprocal")),
    case("Celu", X, alpha=2.0),
    case("HardSwish", X, opsets=(14, 17)),
    case("Mish", X, opsets=(18, 20)),
    case("Gelu", X, opsets=(20,)),
    case("Gelu", X, opsets=(20,), approximate="tanh"),
    case("LeakyRelu", X, alpha=0.2),
    case("ThresholdedRelu", X, alpha=0.5),
    case("PRelu", X, rand(3, 1, 1), fixed=[1]),
    case("Clip", X, np.float32(-0.5), np.float32(0.5), fixed=[1, 2]),
    case("Clip", X, None, np.float32(0.5), fixed=[2]),
    *(case(op, X, rand(4, 1, seed=1)) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")),
    *(case(op, X, np.float32(1.5), fixed=[1]) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")),
    *(case(op, np.float32(1.5), POSITIVE, fixed=[0]) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")),
    case("Sum", X, X, X),
    case("Mean", X, rand(4, 5), X),
    case("Pow", X, np.float32(2), fixed=[1]),
    case("Pow", X, np.float32(3), fixed=[1]),
    case("Pow", POSITIVE, np.float32(0.5), fixed=[1]),
    *(case(op, X, rand(4, 5, seed=2)) for op in ("Greater", "Less")),
    *(case(op, X, np.float32(0.1), fixed=[1]) for op in ("Greater", "Less", "GreaterOrEqual", "LessOrEqual")),
    case("Equal", ints(1, 2, 3), ints(1, 5, 3)),
    *(case(op, X > 0, X > 1) for op in ("And", "Or", "Xor")),
    case("Not", X > 0),
    case("Where", X > 0, X, np.float32(0), fixed=[2]),
    case("Where", X > 0, X, rand(4, 1)),
    case("Cast", X, to=7),
    case("Cast", X, to=9),
    case("Cast", ints(1, 0, 3), to=1),
    case("CastLike", X, ints(1), opsets=(15, 19)),
    case("IsNaN", np.array([1.0, np.nan, np.inf], dtype=np.float32)),
    # layout
    case("Reshape", X, ints(0, -1, 5), fixed=[1]),
    case("Flatten", X, axis=2),
    case("Flatten", X, axis=-1),
    case("Squeeze", rand(1, 3, 1, 2), ints(0, -2), fixed=[1]),
    case("Squeeze", rand(1, 3, 1, 2)),
    case("Unsqueeze", X, ints(0, -1), fixed=[1]),
    case("Transpose", X, perm=[0, 2, 3, 1]),
    case("Transpose", X),
    case("Expand", rand(3, 1), ints(2, 1, 6), fixed=[1]),
    case("Tile", rand(2, 3), ints(2, 3), fixed=[1]),
    case("Concat", X, rand(2, 1, 4, 5), axis=1),
    case("Concat", X, rand(2, 3, 4, 2), axis=-1),
    case("Split", X, ints(1, 2), fixed=[1], axis=1, outputs=2),
    case("Split", X, axis=2, outputs=2, opsets=(13, 17)),
    case("Split", X, axis=3, num_outputs=2, outputs=2, opsets=(18, 20)),
    case("Slice", X, ints(1, -3), ints(10, -1), ints(1, 3), ints(1, 2), fixed=[1, 2, 3, 4]),
    case("Slice", X, ints(-1), ints(-100), ints(2), ints(-1), fixed=[1, 2, 3, 4]),
    case("Slice", X, ints(3), ints(0), ints(3), ints(-2), fixed=[1, 2, 3, 4]),
    case("Pad", X, ints(0, 0, 1, 2, 0, 0, 0, 1), fixed=[1]),
    case("Pad", X, ints(0, 1, 0, 0, 0, 0, 0, -1), np.float32(2.5), fixed=[1, 2]),
    *(case("Pad", X, ints(0, 0, 1, 2, 0, 0, 2, 1), fixed=[1], mode=mode) for mode in ("reflect", "edge")),
    case("Pad", X, ints(1, 0, 0, 0, 0, 1, 0, 0), fixed=[1], mode="reflect"),
    case("Pad", X, ints(0, 1, 0, 0, 0, 2, 0, 0), fixed=[1], mode="edge"),
    case("Pad", X, ints(1, 2), None, ints(2), fixed=[1, 3], opsets=(18, 20)),
    case("Pad", X, ints(0, 0, 1, 2, 0, 0, 2, 1), fixed=[1], mode="wrap", opsets=(19, 20)),
    case("DepthToSpace", rand(1, 8, 2, 3), blocksize=2),
    case("DepthToSpace", rand(1, 8, 2, 3), blocksize=2, mode="CRD"),
    case("SpaceToDepth", rand(1, 2, 4, 6), blocksize=2),
    # indices
    case("Gather", X, ints(1), fixed=[1], axis=1),
    case("Gather", X, np.int64(-1), fixed=[1], axis=2),
    case("Gather", X, ints(0, 2, 4), fixed=[1], axis=3),
    case("Gather", X, ints(2, 0), fixed=[1], axis=1),
    case("Gather", rand(10, 4), ints(1, 7, 7, 2).reshape(2, 2)),
    case("Gather", rand(10, 4), ints(1, 7, 7, 2).reshape(2, 2), fixed=[0]),
    case("Gather", X, ints(1, 1, 0), axis=2),
    case("GatherElements", rand(3, 3), ints(0, 1, 2, 2, 1, 0).reshape(2, 3), fixed=[0, 1], axis=0),
    case("GatherND", rand(3, 3), ints(0, 1, 2, 2).reshape(2, 2), fixed=[0, 1]),
    case("GatherND", rand(3, 3, 2), ints(0, 1, 2, 2).reshape(2, 2), fixed=[1]),
    case("GatherND", rand(3, 4, 2, 5), grid(np.arange(6) // 2, np.arange(8) // 2), fixed=[1]),
    case("GatherND", rand(3, 4, 2), grid([2, 0], [1, 1, 3]), fixed=[1]),
    *(
        case("ScatterND", rand(6, 3), ints(*rows).reshape(-1, 1), rand(len(rows), 3), fixed=[1])
        for rows in ((1, 2), (0, 2, 4), (1, 3, 5), (1, 2, 4, 5), (5, 0), (0, 1, 2, 3, 4, 5))
    ),
    case("ScatterND", rand(3, 4, 2), ints(0, 1, 2, 3).reshape(2, 2), rand(2, 2), fixed=[1]),
    case("Trilu", rand(4, 4), opsets=(14, 17), upper=0),
    case("Trilu", rand(3, 4, 5), ints(1), fixed=[1], opsets=(14, 17)),
    case("CumSum", ints(1, 2, 3), np.int64(0), fixed=[0, 1]),
    case("NonZero", ints(1, 0, 3), fixed=[0]),
    case("OneHot", ints(1, 0, 3), np.int64(4), rand(2), fixed=[0, 1, 2]),
    case("EyeLike", rand(3, 4), k=1),
    case("Shape", X, opsets=(15, 20), start=1, end=-1),
    case("Size", X),
    # reductions
    *(
        case(op, X, axes=[1, -1], opsets=(13, 17))
        for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2")
    ),
    *(
        case(op, X, ints(1, -1), fixed=[1], opsets=(18, 20), keepdims=0)
        for op in ("ReduceMean", "ReduceMax", "ReduceL2")
    ),
    *(case(op, X, ints(2), fixed=[1], opsets=(18,)) for op in ("ReduceSumSquare", "ReduceLogSumExp", "ReduceMin")),
    case("ReduceLogSum", POSITIVE, ints(2), fixed=[1], opsets=(18,)),
    case("ReduceLogSumExp", X, ints(1, 2), fixed=[1], opsets=(18,), keepdims=0),
    case("ReduceSum", X, ints(-1), fixed=[1]),
    case("ReduceSum", X),
    case("ReduceSum", X, noop_with_empty_axes=1),
    case("Softmax", X, axis=1),
    case("Softmax", X),
    case("LogSoftmax", X, axis=2),
    case("GlobalAveragePool", IMAGE),
    case("GlobalMaxPool", IMAGE),
    # products
    case("MatMul", rand(2, 3, 4), rand(2, 4, 5)),
    case("MatMul", rand(2, 3, 4), rand(4, 5), fixed=[1]),
    case("MatMul", rand(3, 4), rand(2, 4, 5), fixed=[0]),
    case("MatMul", rand(4), rand(4, 5), fixed=[1]),
    case("Gemm", rand(3, 4), rand(4, 5), rand(5), fixed=[1, 2]),
    case("Gemm", rand(3, 4), rand(5, 4), rand(1, 5), fixed=[1, 2], transB=1),
    case("Gemm", rand(4, 3), rand(5, 4), rand(3, 1), fixed=[1, 2], transA=1, transB=1, alpha=0.5, beta=2.0),
    case("Gemm", rand(3, 4), rand(4, 5)),
    case("Einsum", rand(2, 3, 4), rand(2, 5, 4), equation="bid,bjd->bij"),
    case("Einsum", rand(2, 3, 4, 5), rand(2, 6, 4, 5), equation="bqhd, bkhd -> bhqk"),
    case("Einsum", rand(3, 4), rand(5), equation="ij,k->kij"),
    case("Einsum", rand(2, 3, 4), equation="abc->cb"),
    # convolution and pooling
    case("Conv", rand(2, 4, 9), rand(6, 4, 3), rand(6), fixed=[1, 2], pads=[1, 1]),
    case("Conv", IMAGE, rand(6, 4, 3, 3), fixed=[1], strides=[2, 2], pads=[1, 0, 0, 1]),
    case("Conv", IMAGE, rand(4, 1, 3, 3), fixed=[1], group=4, dilations=[2, 1], pads=[2, 1, 2, 1]),
    case("Conv", IMAGE, rand(6, 4, 3, 4), fixed=[1], auto_pad="SAME_UPPER"),
    case("Conv", IMAGE, rand(6, 4, 3, 4), fixed=[1], auto_pad="SAME_LOWER", strides=[2, 2]),
    case("Conv", IMAGE, rand(6, 4, 3, 3), fixed=[1], auto_pad="VALID"),
    case("Conv", VIDEO, rand(6, 4, 3, 1, 1), rand(6), fixed=[1, 2], pads=[1, 0, 0, 1, 0, 0]),
    case("ConvTranspose", IMAGE, rand(4, 3, 3, 3), rand(3), fixed=[1, 2], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("ConvTranspose", IMAGE, rand(4, 3, 3, 3), fixed=[1], strides=[2, 2], pads=[1, 0, 0, 1], output_padding=[1, 0]),
    case("ConvTranspose", IMAGE, rand(4, 3, 3, 3), fixed=[1], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("ConvTranspose", VIDEO, rand(4, 3, 1, 2, 2), fixed=[1], strides=[1, 2, 2]),
    case("AveragePool", IMAGE, kernel_shape=[2, 3], strides=[2, 1]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    case("AveragePool", VIDEO, kernel_shape=[2, 2, 2]),
    case("AveragePool", rand(2, 3, 8), kernel_shape=[2], strides=[2]),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    case("MaxPool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 0, 1], strides=[2, 2]),
    case("MaxPool", rand(2, 3, 8), kernel_shape=[3]),
    # resampling: operands are data, region of interest, scales, sizes
    case("Resize", IMAGE, None, np.float32([1, 1, 2, 2]), fixed=[2], **FLOOR),
    case("Resize", IMAGE, None, np.float32([1, 1, 3, 2]), fixed=[2]),
    case("Resize", VIDEO, None, np.float32([1, 1, 1, 2, 2]), fixed=[2]),
    case("Resize", VIDEO, None, None, ints(1, 4, 5, 12, 10), fixed=[3], **FLOOR),
    case("Resize", IMAGE, None, None, ints(2, 4, 9, 5), fixed=[3]),
    case("Resize", IMAGE, None, None, ints(12, 14), fixed=[3], opsets=(18, 20), axes=[2, 3]),
    case(
        "Resize",
        IMAGE,
        None,
        None,
        ints(2, 4, 12, 13),
        fixed=[3],
        **{**FLOOR, "coordinate_transformation_mode": "align_corners"},
    ),
    # norms
    case("InstanceNormalization", IMAGE, rand(4), rand(4, seed=1), fixed=[1, 2], epsilon=1e-5),
    case("LayerNormalization", X, rand(5), rand(5, seed=1), fixed=[1, 2], opsets=(17, 20)),
    case("LayerNormalization", X, rand(4, 5), fixed=[1], opsets=(17, 20), axis=-2, epsilon=1e-3),
    case("LayerNormalization", X, np.ones(1, dtype=np.float32), fixed=[1], opsets=(17,)),
    case("GroupNormalization", IMAGE, rand(4), rand(4, seed=1), fixed=[1, 2], opsets=(21,), num_groups=2),
    case(
        "BatchNormalization",
        IMAGE,
        rand(4),
        rand(4, seed=1),
        rand(4, seed=2),
        np.abs(rand(4, seed=3)),
        fixed=[1, 2, 3, 4],
        opsets=(14, 17),
    ),
    case("LpNormalization", X, axis=1),
    case("MeanVarianceNormalization", X),
    case("RMSNormalization", X, rand(5), fixed=[1], opsets=(23,)),
    case("Dropout", X),
]


def write_case(tmp_path: Path, one: Case, opset: int) -> tuple[Path, dict[str, Array]]:
    names = ["" if array is None else f"v{i}" for i, array in enumerate(one.operands)]
    arrays = {name: array for name, array in zip(names, one.operands) if array is not None}
    weights = {f"v{i}": arrays[f"v{i}"] for i in one.fixed}
    inputs = {name: array for name, array in arrays.items() if name not in weights}
    outputs = [f"y{i}" for i in range(one.outputs)]
    node = helper.make_node(one.op, names, outputs, name="the_node", **one.attributes)
    return write(tmp_path / "m.onnx", [node], inputs, outputs, weights, opset), inputs


@pytest.mark.parametrize(("one", "opset"), [(c, opset) for c in CASES for opset in c.opsets], ids=str)
def test_an_operator_agrees_with_onnx_runtime(tmp_path: Path, one: Case, opset: int):
    path, inputs = write_case(tmp_path, one, opset)
    agree(path, inputs)


def test_group_normalization_18_has_a_scale_a_group(tmp_path: Path):
    scale, bias = rand(2), rand(2, seed=1)
    node = helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)
    path = write(tmp_path / "m.onnx", [node], {"x": IMAGE}, ["y"], {"s": scale, "b": bias}, 18)
    program = load_onnx(path)
    (ours,) = run(program, {"x": IMAGE})
    grouped = IMAGE.reshape(2, 2, -1)
    normal = (grouped - grouped.mean(-1, keepdims=True)) / np.sqrt(grouped.var(-1, keepdims=True) + 1e-5)
    expected = (normal * scale[:, None] + bias[:, None]).reshape(IMAGE.shape)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert ops(program)["group_norm"] == 1


@pytest.mark.parametrize("heads", [0, 2])
@pytest.mark.parametrize("masked", ["", "float", "bool", "causal"])
def test_the_attention_operator(tmp_path: Path, heads: int, masked: str):
    shape = (2, 2, 5, 8) if not heads else (2, 5, 16)
    feeds = {name: rand(*shape, seed=i) for i, name in enumerate("qkv")}
    attributes: dict[str, Any] = {"q_num_heads": 2, "kv_num_heads": 2} if heads else {}
    names = ["q", "k", "v"]
    if masked in ("float", "bool"):
        names.append("m")
        feeds["m"] = rand(5, 5) if masked == "float" else np.tril(np.ones((5, 5), dtype=bool))
    node = helper.make_node("Attention", names, ["y"], is_causal=int(masked == "causal"), scale=0.3, **attributes)
    path = write(tmp_path / "m.onnx", [node], feeds, ["y"], opset=23)
    assert ops(agree(path, feeds))["scaled_dot_product_attention"] == 1
