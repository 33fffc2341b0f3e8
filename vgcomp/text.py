"""The stable text form of a Program: one node a line, loops with their bodies indented.

    %silu : f16[14, 128, 576, 1024] = silu(%group_norm)
    %loop : (f16[14, 128, 576, 1024]) = sliced(%silu, %weight)
      step 0: body 0, reads [0:1, -], writes [0:1]

Strides stand in braces where they are not row-major. The form is for people and tests;
:mod:`vgcomp.serialize` is the one that is read back.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from vgcomp import ir

if TYPE_CHECKING:
    from vgcomp.program import Program

_DTYPES = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "bool",
}


def program_text(program: Program) -> str:
    """The whole Program; ends with a newline."""
    names = ", ".join(program.output_names)
    return "\n".join((f"program {program.name} -> {names}", *graph_lines(program.graph, "  "))) + "\n"


def graph_lines(graph: fx.Graph, indent: str = "") -> Iterator[str]:
    """The lines of one graph."""
    for node in graph.nodes:
        yield indent + node_line(node)
        if ir.is_loop(node):
            yield from _loop_lines(ir.loop_of(node), indent + "  ")


def node_line(node: fx.Node) -> str:
    """One node as text."""
    if node.op == "output":
        return f"return {_arg(node.args[0])}"
    head = f"%{node.name} : {_value(node.meta.get('val'))}"
    if node.op == "placeholder":
        return f"{head} = input"
    if node.op == "get_attr":
        return f"{head} = weight {node.target!r}"
    args = node.args[1:] if ir.is_loop(node) else node.args
    if ir.is_loop(node):
        (operands,) = args
        args = tuple(operands)  # type: ignore[arg-type]
    listed = [_arg(arg) for arg in args] + [f"{name}={_arg(arg)}" for name, arg in node.kwargs.items()]
    reuse = f"  # over argument {node.meta['reuse']}" if "reuse" in node.meta else ""
    return f"{head} = {op_name(node.target)}({', '.join(listed)}){reuse}"


def op_name(target: Any) -> str:
    """``aten.add.Tensor`` as ``add.Tensor``, ``aten.silu.default`` as ``silu``."""
    if target is operator.getitem:
        return "getitem"
    if target is ir.sliced:
        return "sliced"
    return str(target).removesuffix(".default").removeprefix("aten.").removeprefix("prims.")


def type_text(value: Tensor) -> str:
    """``f16[2, 3]``, with ``{strides}`` where they are not row-major."""
    dtype = _DTYPES.get(value.dtype, str(value.dtype).removeprefix("torch."))
    shape = ", ".join(str(size) for size in value.shape)
    strides = "" if value.is_contiguous() else "{" + ", ".join(str(stride) for stride in value.stride()) + "}"
    return f"{dtype}[{shape}]{strides}"


def _value(value: Any) -> str:
    if isinstance(value, Tensor):
        return type_text(value)
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(_value(item) for item in value) + ")"
    return "?"


def _arg(arg: Any) -> str:
    if isinstance(arg, fx.Node):
        return f"%{arg.name}"
    if isinstance(arg, (tuple, list)):
        return "[" + ", ".join(_arg(item) for item in arg) + "]"
    if isinstance(arg, (torch.dtype, torch.memory_format)):
        return str(arg).removeprefix("torch.")
    return repr(arg)


def _loop_lines(loop: ir.Loop, indent: str) -> Iterator[str]:
    note = f"  # {loop.note}" if loop.note else ""
    yield f"{indent}loop {loop.name!r}: {loop.n_slices} steps, {len(loop.bodies)} bodies{note}"
    if loop.pipeline is not None:
        yield f"{indent}pipeline: {_pipeline(loop.pipeline)}"
    for k, axis in enumerate(loop.operand_axes):
        if axis is not None:
            yield f"{indent}operand {k}: {_axis(axis)}"
    for k, result in enumerate(loop.results):
        yield f"{indent}result {k}: {_result(result)}"
    for i, step in enumerate(loop.steps):
        yield f"{indent}step {i}: body {step.body}, reads {_spans(step.reads)}, writes {_spans(step.writes)}"
    for i, body in enumerate(loop.bodies):
        yield f"{indent}body {i}: {_body(body)}{_stages(loop, i)}"
        yield from graph_lines(body.graph, indent + "  ")


def _pipeline(pipeline: ir.Pipeline) -> str:
    stages = ", ".join(f"stage {s} on engine {engine}" for s, engine in enumerate(pipeline.engines))
    return f"{pipeline.in_flight} slices in flight, {stages}"


def _stages(loop: ir.Loop, index: int) -> str:
    """Where the stages of a body begin, by the names of their first nodes."""
    if loop.pipeline is None:
        return ""
    nodes = list(loop.bodies[index].graph.nodes)
    firsts = ("the end" if nodes[cut].op == "output" else f"%{nodes[cut].name}" for cut in loop.pipeline.cuts[index])
    return "".join(f", stage {s} from {first}" for s, first in enumerate(firsts, 1))


def _axis(axis: ir.Axis) -> str:
    merged = "" if axis.whole_dim else f" of ({axis.outer}, {axis.extent}, {axis.inner})"
    return f"dim {axis.dim} x {axis.extent}{merged}"


def _result(result: ir.Result) -> str:
    parts = [f"{_DTYPES.get(result.dtype, result.dtype)}{list(result.shape)}"]
    if result.axis is not None:
        parts.append(_axis(result.axis))
    if result.combine is not None:
        parts.append(f"combined by {result.combine}")
    if result.into is not None:
        parts.append(f"into operand {result.into}")
    if result.capacity:
        parts.append(f"capacity {result.capacity}")
    if result.stride is not None:
        parts.append(f"strides {list(result.stride)}")
    return ", ".join(parts)


def _spans(spans: tuple[ir.Span | None, ...]) -> str:
    return "[" + ", ".join("-" if span is None else f"{span[0]}:{span[1]}" for span in spans) + "]"


def _body(body: ir.Body) -> str:
    parts = [f"operands {list(body.operands)}", f"results {list(body.results)}"]
    if body.carries_in:
        parts.append(f"carries in {list(body.carries_in)}")
    if body.carries_out:
        parts.append(f"carries out {list(body.carries_out)}")
    return ", ".join(parts)
