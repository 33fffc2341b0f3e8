"""What is exported is valid ONNX, and ONNX Runtime computes with it what torch computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, fx

from tests.backends.onnx_cases import CASES
from tests.graph_builder import Builder, aten, own, random_inputs, random_weights, slice_of, spans
from tests.sliced_examples import EXAMPLES
from vgcomp import ir
from vgcomp.backends.onnx_export import export_onnx
from vgcomp.backends.onnx_export import initializers as placing
from vgcomp.backends.torch_module import run_graph
from vgcomp.errors import ModelError, UsageError
from vgcomp.program import PassRecord, Program, Source
from vgcomp.weights import FileData, from_tensor


def make_program(graph: fx.Graph) -> Program:
    outputs = graph.output_node().args[0]
    weights = {name: from_tensor(name, value) for name, value in random_weights(graph).items()}
    names = tuple(f"out{i}" for i in range(len(outputs)))  # type: ignore[arg-type]
    return Program("test", graph, weights, names, Source("torch", "test"))


def run_onnx(path: Path, inputs: list[Tensor]) -> list[Tensor]:
    """Checks the file and runs it."""
    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {spec.name: value.numpy() for spec, value in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(np.asarray(value)) for value in session.run(None, feeds)]


def compare(graph: fx.Graph, path: Path, *, rtol: float = 1e-4, atol: float = 1e-5, **options: object) -> None:
    program = make_program(graph)
    inputs = random_inputs(graph)
    want = run_graph(graph, inputs, {name: weight.load() for name, weight in program.weights.items()})
    export_onnx(program, path, **options)  # type: ignore[arg-type]
    got = run_onnx(path, inputs)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def make_case(name: str) -> fx.Graph:
    b = Builder()
    return b.done(CASES[name](b))


@pytest.mark.parametrize("name", CASES)
def test_op(name: str, tmp_path: Path) -> None:
    compare(make_case(name), tmp_path / "model.onnx")


def test_every_op_of_the_dialect_has_a_case() -> None:
    covered = {node.target for name in CASES for node in make_case(name).nodes}
    assert covered >= ir.DIALECT


@pytest.mark.parametrize("name", ["gelu", "gelu-tanh", "rms-norm", "group-norm", "upsample-3d", "pad", "avg-pool"])
def test_op_in_a_newer_opset(name: str, tmp_path: Path) -> None:
    compare(make_case(name), tmp_path / "model.onnx", opset=21)


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("name", EXAMPLES)
def test_loop(name: str, unroll: bool, tmp_path: Path) -> None:
    _, sliced = EXAMPLES[name]()
    compare(sliced, tmp_path / "model.onnx", unroll=unroll)


def pointwise_loop(
    shape: tuple[int, ...], axis: ir.Axis, pieces: Sequence[ir.Span], dtype: torch.dtype = torch.float32
) -> fx.Graph:
    """``silu(x) + x`` over the given pieces, in that order; one body a length."""
    b = Builder()
    x = b.input("x", shape, dtype)
    bodies: list[ir.Body] = []
    known: dict[int, int] = {}
    steps = []
    for lo, hi in pieces:
        if hi - lo not in known:
            known[hi - lo] = len(bodies)
            inner = Builder()
            part = inner.value("part", slice_of(x, axis, (lo, hi)))
            done = inner.done(inner.call(aten.add.Tensor, inner.call(aten.silu.default, part), part))
            bodies.append(ir.Body(done, (0,), (0,)))
        steps.append(ir.Step(known[hi - lo], ((lo, hi),), ((lo, hi),)))
    loop = ir.Loop("pieces", tuple(bodies), tuple(steps), (axis,), (ir.Result(shape, dtype, axis),))
    return b.done(*b.loop(loop, [x]))


PIECES = {
    "leading": ((12, 3), ir.Axis(0, 12), spans(12, 2)),
    "behind-ones": ((1, 12, 3), ir.Axis(1, 12), spans(12, 3)),
    "middle": ((2, 12, 3), ir.Axis(1, 12), spans(12, 3)),
    "last": ((2, 3, 12), ir.Axis(2, 12), spans(12, 2)),
    "outer-factor": ((12, 3), ir.Axis(0, 4, inner=3), spans(4, 1)),
    "inner-factor": ((12, 3), ir.Axis(0, 4, outer=3), spans(4, 1)),
    "middle-factor": ((2, 24, 3), ir.Axis(1, 4, outer=2, inner=3), spans(4, 1)),
    "shorter-end": ((11, 3), ir.Axis(0, 11), spans(11, 2)),
    "last-first": ((2, 12), ir.Axis(1, 12), spans(12, 3)[::-1]),
    "factor-last-first": ((12, 3), ir.Axis(0, 4, outer=3), spans(4, 1)[::-1]),
    "overlapping-end": ((2, 11), ir.Axis(1, 11), [(0, 3), (3, 6), (6, 9), (8, 11)]),
    "overlapping-factor": ((22, 3), ir.Axis(0, 11, outer=2), [(0, 3), (3, 6), (6, 9), (8, 11)]),
    "mixed-order": ((12, 2), ir.Axis(0, 12), [(6, 9), (0, 3), (3, 6), (9, 12)]),
    "one-step": ((12, 2), ir.Axis(0, 12), [(0, 12)]),
}


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("name", PIECES)
def test_pieces_come_together(name: str, unroll: bool, tmp_path: Path) -> None:
    compare(pointwise_loop(*PIECES[name]), tmp_path / "model.onnx", unroll=unroll)


def test_moments_of_many_slices_then_apply(tmp_path: Path) -> None:
    shape, groups, axis = (2, 8, 3, 40), 4, ir.Axis(3, 40)
    b = Builder()
    x = b.input("x", shape)
    ws = [b.weight("scale", (8,)), b.weight("shift", (8,))]
    y = b.call(aten.add.Tensor, b.call(aten.mul.Tensor, x, 3.0), 100.0)
    inner = Builder()
    part = inner.value("part", slice_of(y, axis, (0, 4)))
    body = ir.Body(inner.done(inner.call(own.group_moments.default, part, groups)), (0,), (0,))
    steps = tuple(ir.Step(0, (span,), (None,)) for span in spans(40, 4))
    stats = ir.Result((3, 2, groups), torch.float32, combine="moments")
    (merged,) = b.loop(ir.Loop("moments", (body,), steps, (axis,), (stats,)), [y])
    inner = Builder()
    part, stat = inner.value("part", slice_of(y, axis, (0, 4))), inner.value("stat", ir.val(merged))
    inner_ws = [inner.value(f"v{i}", ir.val(w)) for i, w in enumerate(ws)]
    body = ir.Body(
        inner.done(inner.call(own.group_norm_apply.default, part, stat, groups, *inner_ws, 1e-5)), (0, 1, 2, 3), (0,)
    )
    steps = tuple(ir.Step(0, (span, None, None, None), (span,)) for span in spans(40, 4))
    loop = ir.Loop("apply", (body,), steps, (axis, None, None, None), (ir.Result(shape, torch.float32, axis),))
    graph = b.done(*b.loop(loop, [y, merged, *ws]))
    # A mean of 100 in fp32: what torch and ONNX Runtime round apart is 1e-5 of that.
    compare(graph, tmp_path / "model.onnx", atol=1e-4)
    assert [n.op_type for n in onnx.load(tmp_path / "model.onnx").graph.node].count("Scan") == 2


def test_loop_in_a_loop(tmp_path: Path) -> None:
    shape, outer, inner = (4, 3, 8), ir.Axis(0, 4), ir.Axis(2, 8)
    b = Builder()
    x = b.input("x", shape)
    w = b.weight("w", (3, 1))
    mid = Builder()
    part = mid.value("part", slice_of(x, outer, (0, 1)))
    scale = mid.value("scale", ir.val(w))
    core = Builder()
    cell, factor = core.value("cell", slice_of(part, inner, (0, 2))), core.value("factor", ir.val(w))
    core_body = ir.Body(core.done(core.call(aten.mul.Tensor, cell, factor)), (0, 1), (0,))
    core_steps = tuple(ir.Step(0, (span, None), (span,)) for span in spans(8, 2))
    core_result = ir.Result((1, 3, 8), torch.float32, inner)
    columns = ir.Loop("columns", (core_body,), core_steps, (inner, None), (core_result,))
    body = ir.Body(mid.done(*mid.loop(columns, [part, scale])), (0, 1), (0,))
    steps = tuple(ir.Step(0, (span, None), (span,)) for span in spans(4, 1))
    loop = ir.Loop("rows", (body,), steps, (outer, None), (ir.Result(shape, torch.float32, outer),))
    compare(b.done(*b.loop(loop, [x, w])), tmp_path / "model.onnx")


def test_weights_in_a_body(tmp_path: Path) -> None:
    axis = ir.Axis(0, 4)
    b = Builder()
    x = b.input("x", (4, 3))
    b.weight("w", (3,))
    inner = Builder()
    part = inner.value("part", slice_of(x, axis, (0, 1)))
    body = ir.Body(inner.done(inner.call(aten.mul.Tensor, part, inner.weight("w", (3,)))), (0,), (0,))
    steps = tuple(ir.Step(0, (span,), (span,)) for span in spans(4, 1))
    loop = ir.Loop("rows", (body,), steps, (axis,), (ir.Result((4, 3), torch.float32, axis),))
    compare(b.done(*b.loop(loop, [x])), tmp_path / "model.onnx")


def small_network(dtype: torch.dtype = torch.float32) -> fx.Graph:
    b = Builder()
    x = b.input("x", (2, 8, 6, 6), dtype)
    w = b.weight("conv.weight", (8, 8, 3, 3), dtype)
    scale, shift = b.weight("norm.weight", (8,), dtype), b.weight("norm.bias", (8,), dtype)
    q = b.weight("to_q.weight", (8, 8), dtype)
    y = b.call(aten.silu.default, b.call(aten.group_norm.default, b.conv(x, w, (1, 1)), 4, scale, shift, 1e-5))
    tokens = b.call(aten.permute.default, b.call(aten.reshape.default, y, [2, 8, 36]), [0, 2, 1])
    queries = b.call(aten.linear.default, tokens, q)
    return b.done(b.call(aten.scaled_dot_product_attention.default, queries, tokens, tokens), y)


@pytest.mark.parametrize("opset", [18, 20, 21, 23])
def test_network_in_every_opset(opset: int, tmp_path: Path) -> None:
    compare(small_network(), tmp_path / "model.onnx", opset=opset)


def test_half_precision(tmp_path: Path) -> None:
    compare(small_network(torch.float16), tmp_path / "model.onnx", rtol=2e-2, atol=2e-2)
    compare(pointwise_loop(*PIECES["middle"], torch.float16), tmp_path / "loop.onnx", rtol=2e-3, atol=2e-3)


def test_names_and_metadata(tmp_path: Path) -> None:
    program = replace(
        make_program(small_network()),
        output_names=("x", "features"),
        history=(PassRecord("slice-and-group", "exact", True, 0.1, {"regions": 3}),),
    )
    export_onnx(program, tmp_path / "model.onnx", metadata={"vgcomp.target": "a18"})
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model)
    assert [value.name for value in model.graph.input] == ["x"]
    # One name space for inputs and outputs.
    assert [value.name for value in model.graph.output] == ["out_x", "features"]
    assert {tensor.name for tensor in model.graph.initializer} >= set(program.weights)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["vgcomp.target"] == "a18"
    assert properties["vgcomp.model"] == "test"
    assert json.loads(properties["vgcomp.passes"])[0]["regions"] == 3


def test_an_input_may_be_an_output_twice(tmp_path: Path) -> None:
    b = Builder()
    x, w = b.input("x", (3,)), b.weight("w", (3,))
    y = b.call(aten.clone.default, x)
    compare(b.done(x, x, w, y), tmp_path / "model.onnx")


def test_equal_bodies_are_one_function(tmp_path: Path) -> None:
    b = Builder()
    x = b.input("x", (8, 3))
    axis = ir.Axis(0, 8)
    for _ in range(3):
        inner = Builder()
        body = ir.Body(
            inner.done(inner.call(aten.silu.default, inner.value("p", slice_of(x, axis, (0, 2))))), (0,), (0,)
        )
        steps = tuple(ir.Step(0, (span,), (span,)) for span in spans(8, 2))
        (x,) = b.loop(ir.Loop("same", (body,), steps, (axis,), (ir.Result((8, 3), torch.float32, axis),)), [x])
    compare(b.done(x), tmp_path / "model.onnx")
    assert len(onnx.load(tmp_path / "model.onnx").functions) == 1


def test_many_weights_go_to_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "INLINE_LIMIT", 1000)
    compare(small_network(), tmp_path / "model.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]


def by_reference(program: Program, file: Path) -> Program:
    """The program with its weights in ``file``, which is written."""
    weights, content = {}, b""
    for name, weight in program.weights.items():
        raw = weight.load().numpy().tobytes()
        weights[name] = replace(weight, data=FileData(file, len(content), len(raw)))
        content += raw
    file.write_bytes(content)
    return replace(program, weights=weights, source=Source("onnx", "test", file=str(file.parent / "model.onnx")))


def locations(path: Path) -> set[str]:
    model = onnx.load(path, load_external_data=False)
    return {entry.value for t in model.graph.initializer for entry in t.external_data if entry.key == "location"}


def test_references_beside_the_model_are_kept(tmp_path: Path) -> None:
    program = by_reference(make_program(small_network()), tmp_path / "weights.bin")
    inputs = random_inputs(program.graph)
    want = run_graph(program.graph, inputs, {name: weight.load() for name, weight in program.weights.items()})
    written = export_onnx(program, tmp_path / "new.onnx")
    assert written == [tmp_path / "new.onnx"]
    assert locations(tmp_path / "new.onnx") == {"weights.bin"}
    for a, b in zip(run_onnx(tmp_path / "new.onnx", inputs), want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_references_to_a_missing_file_are_kept(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    program = by_reference(make_program(small_network()), tmp_path / "in" / "weights.bin")
    inputs = random_inputs(program.graph)
    want = run_graph(program.graph, inputs, {name: weight.load() for name, weight in program.weights.items()})
    content = (tmp_path / "in" / "weights.bin").read_bytes()
    (tmp_path / "in" / "weights.bin").unlink()
    export_onnx(program, tmp_path / "out" / "new.onnx")
    assert locations(tmp_path / "out" / "new.onnx") == {"weights.bin"}
    (tmp_path / "out" / "weights.bin").write_bytes(content)
    for a, b in zip(run_onnx(tmp_path / "out" / "new.onnx", inputs), want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_references_elsewhere_are_copied(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    program = by_reference(make_program(small_network()), tmp_path / "in" / "weights.bin")
    export_onnx(program, tmp_path / "out" / "new.onnx")
    assert locations(tmp_path / "out" / "new.onnx") == set()


def test_a_model_may_replace_the_one_it_refers_to(tmp_path: Path) -> None:
    program = by_reference(make_program(small_network()), tmp_path / "model.onnx.data")
    export_onnx(program, tmp_path / "model.onnx")
    assert "model.onnx.data" not in locations(tmp_path / "model.onnx")


def test_absent_weights(tmp_path: Path) -> None:
    program = make_program(small_network())
    program = replace(program, weights={name: weight.absent() for name, weight in program.weights.items()})
    with pytest.raises(ModelError, match=r"4 weights have no data \('conv.weight' is one\)"):
        export_onnx(program, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
    export_onnx(program, tmp_path / "model.onnx", allow_absent=True)
    assert locations(tmp_path / "model.onnx") == {"model.onnx.weights"}


def test_wrong_opset_and_path(tmp_path: Path) -> None:
    program = make_program(small_network())
    with pytest.raises(UsageError, match="opset 11"):
        export_onnx(program, tmp_path / "model.onnx", opset=11)
    with pytest.raises(UsageError, match="is a directory"):
        export_onnx(program, tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        export_onnx(program, tmp_path / "no" / "model.onnx")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = make_program(small_network())
    monkeypatch.setattr(placing, "INLINE_LIMIT", 1000)

    def full(self: object, file: object) -> None:
        with open("/dev/full", "wb") as disk:
            disk.write(b"0")

    monkeypatch.setattr(placing.Initializers, "write_data", full)
    with pytest.raises(UsageError, match="No space left"):
        export_onnx(program, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


MEASURE = """
import sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level, options.intra_op_num_threads = 3, 1
options.enable_cpu_mem_arena = options.enable_mem_pattern = False
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feeds = {i.name: numpy.ones(i.shape, numpy.float32) for i in session.get_inputs()}
peak = lambda: next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
session.run(None, feeds)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_onnx_runtime_holds_a_leading_result_once(tmp_path: Path) -> None:
    """64 MiB of result, written slice by slice by a Scan whose steps have different bodies."""
    shape, axis = (64, 512, 512), ir.Axis(0, 64)
    b = Builder()
    x = b.input("x", (64, 1, 512))
    bodies = []
    for scale in (1.0, 2.0):
        inner = Builder()
        part = inner.value("part", slice_of(x, ir.Axis(0, 64), (0, 4)))
        wide = inner.call(aten.expand.default, part, [4, 512, 512])
        bodies.append(ir.Body(inner.done(inner.call(aten.mul.Tensor, wide, scale)), (0,), (0,)))
    steps = tuple(ir.Step(min(lo, 1), ((lo, hi),), ((lo, hi),)) for lo, hi in spans(64, 4))
    loop = ir.Loop("wide", tuple(bodies), steps, (axis,), (ir.Result(shape, torch.float32, axis),))
    (y,) = b.loop(loop, [x])
    export_onnx(make_program(b.done(b.call(aten.mean.dim, y, [1]))), tmp_path / "model.onnx")
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "model.onnx")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    size = 4 * 64 * 512 * 512
    assert size <= int(done.stdout) < 1.4 * size


@pytest.mark.slow
@pytest.mark.parametrize("name", ["svd-unet-small", "svd-vae-decoder-small"])
def test_networks_of_the_zoo(name: str, tmp_path: Path) -> None:
    from vgcomp.models import build, build_module

    program = build(name, weights="random")
    module, inputs = build_module(name)
    with torch.no_grad():
        want = module(*inputs)
    export_onnx(program, tmp_path / "model.onnx")
    (got,) = run_onnx(tmp_path / "model.onnx", list(inputs))
    scale = float(want.abs().max())
    assert float((got - want).abs().max()) < 1e-5 * scale
