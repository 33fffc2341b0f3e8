"""The rules of one loop: what :func:`vgcomp.verify.verify` asks of each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx

from vgcomp import ir
from vgcomp.loops import Root, operands_of, output_nodes, storage_root
from vgcomp.slice_bytes import first_overwrite
from vgcomp.stages import pipeline_complaints


def loop_complaints(node: fx.Node) -> Iterator[str]:
    """What is wrong with a loop node, most basic first; the later rules need the earlier to hold."""
    for rule in (_operands, _indices, _reads, _writes, _coverage, _carries, _buffers, pipeline_complaints):
        found = False
        for complaint in rule(node):
            found = True
            yield complaint
        if found:
            return


def _operands(node: fx.Node) -> Iterator[str]:
    """One axis an operand; each axis describes its operand's dimension."""
    loop, operands = ir.loop_of(node), operands_of(node)
    if len(operands) != len(loop.operand_axes):
        yield f"{len(operands)} operands for {len(loop.operand_axes)} axes"
        return
    for k, (operand, axis) in enumerate(zip(operands, loop.operand_axes, strict=True)):
        if axis is not None and not _describes(axis, ir.val(operand).shape):
            yield f"axis {axis} does not describe operand {k} of shape {list(ir.val(operand).shape)}"
    for k, result in enumerate(loop.results):
        if result.axis is not None and not _describes(result.axis, result.shape):
            yield f"axis {result.axis} does not describe result {k} of shape {list(result.shape)}"
        if (result.axis is None) == (result.combine is None):
            yield f"result {k} must have either an axis or a combination"


def _indices(node: fx.Node) -> Iterator[str]:
    """Every index names something; a body has a placeholder and an output for each thing it lists."""
    loop = ir.loop_of(node)
    if not loop.steps:
        yield "it has no steps"
    for i, step in enumerate(loop.steps):
        if not 0 <= step.body < len(loop.bodies):
            yield f"step {i} runs body {step.body} of {len(loop.bodies)}"
        if len(step.reads) != len(loop.operand_axes) or len(step.writes) != len(loop.results):
            yield f"step {i} lists {len(step.reads)} reads and {len(step.writes)} writes"
    for i, body in enumerate(loop.bodies):
        if any(not 0 <= k < len(loop.operand_axes) for k in body.operands):
            yield f"body {i} reads operands {list(body.operands)} of {len(loop.operand_axes)}"
        if any(not 0 <= k < len(loop.results) for k in body.results) or len(set(body.results)) != len(body.results):
            yield f"body {i} gives results {list(body.results)} of {len(loop.results)}"
        if len(_placeholders(body)) != len(body.operands) + len(body.carries_in):
            yield f"body {i} has {len(_placeholders(body))} placeholders for its operands and carries"
        if len(output_nodes(body.graph)) != len(body.results) + len(body.carries_out):
            yield f"body {i} has {len(output_nodes(body.graph))} outputs for its results and carries"


def _reads(node: fx.Node) -> Iterator[str]:
    """A body's placeholder has the shape and dtype of each slice it is given."""
    loop, operands = ir.loop_of(node), operands_of(node)
    for i, step in enumerate(loop.steps):
        body = loop.bodies[step.body]
        for k, inner in zip(body.operands, _placeholders(body), strict=False):
            axis, span, whole = loop.operand_axes[k], step.reads[k], ir.val(operands[k])
            if span is not None and (axis is None or not 0 <= span[0] < span[1] <= axis.extent):
                yield f"step {i} reads {span} of operand {k}, whose axis is {axis}"
                continue
            shape = _sliced_shape(whole.shape, axis, span)
            if tuple(ir.val(inner).shape) != shape or ir.val(inner).dtype != whole.dtype:
                yield f"step {i} reads {list(shape)} of operand {k}, body {step.body} takes {_shape(ir.val(inner))}"


def _writes(node: fx.Node) -> Iterator[str]:
    """What a body puts out is what its steps write: shape, dtype, and something for every span."""
    loop = ir.loop_of(node)
    for i, step in enumerate(loop.steps):
        body = loop.bodies[step.body]
        given = dict(zip(body.results, output_nodes(body.graph), strict=False))
        for k, result in enumerate(loop.results):
            complaint = _write_complaint(result, step.writes[k], given.get(k))
            if complaint:
                yield f"step {i}, result {k}: {complaint}"


def _write_complaint(result: ir.Result, span: ir.Span | None, inner: fx.Node | None) -> str | None:
    if result.axis is None:
        if span is not None:
            return f"a combined result is not written to a span, as {span}"
        return None if inner is None else _misfit(inner, result.shape, result)
    if (span is None) != (inner is None):
        return "the body puts out a slice that no span takes" if span is None else f"no body output for {span}"
    if span is None or inner is None:
        return None
    if not 0 <= span[0] < span[1] <= result.axis.extent:
        return f"it writes {span} of {result.axis}"
    return _misfit(inner, result.axis.narrowed_shape(result.shape, span[1] - span[0]), result)


def _misfit(inner: fx.Node, shape: tuple[int, ...], result: ir.Result) -> str | None:
    value = ir.val(inner)
    if tuple(value.shape) == tuple(shape) and value.dtype == result.dtype:
        return None
    return f"the body gives {value.dtype} {_shape(value)} for {result.dtype} {list(shape)}"


def _coverage(node: fx.Node) -> Iterator[str]:
    """Every element of a result is written exactly once; a combined one gets at least one value."""
    loop = ir.loop_of(node)
    for k, result in enumerate(loop.results):
        if result.axis is None:
            if not any(k in loop.bodies[step.body].results for step in loop.steps):
                yield f"no step gives a value for result {k}"
            continue
        end = 0
        for span in sorted(step.writes[k] for step in loop.steps if step.writes[k] is not None):  # type: ignore[type-var]
            assert span is not None
            if span[0] != end:
                yield f"result {k} is written {'twice' if span[0] < end else 'nowhere'} at {min(span[0], end)}"
                break
            end = span[1]
        else:
            if end != result.axis.extent:
                yield f"result {k} is written up to {end} of {result.axis.extent}"


def _carries(node: fx.Node) -> Iterator[str]:
    """A carry that a step reads was put out before, of the same shape and dtype."""
    loop = ir.loop_of(node)
    held: dict[int, Tensor] = {}
    for i, step in enumerate(loop.steps):
        body = loop.bodies[step.body]
        placeholders = _placeholders(body)[len(body.operands) :]
        for carry, inner in zip(body.carries_in, placeholders, strict=True):
            value = held.get(carry)
            if value is None:
                yield f"step {i} reads carry {carry}, which nothing put out before"
            elif value.shape != ir.val(inner).shape or value.dtype != ir.val(inner).dtype:
                yield f"step {i} reads carry {carry} as {_shape(ir.val(inner))}, it is {_shape(value)}"
        for carry in body.carries_in:
            held.pop(carry, None)
        outputs = output_nodes(body.graph)[len(body.results) :]
        held.update({carry: ir.val(inner) for carry, inner in zip(body.carries_out, outputs, strict=True)})


def _buffers(node: fx.Node) -> Iterator[str]:
    """A result that takes an operand's buffer fits it, alone, and overwrites nothing still to be read."""
    loop, operands = ir.loop_of(node), operands_of(node)
    taken: dict[Root, int] = {}
    for k, result in enumerate(loop.results):
        if result.stride is not None and len(result.stride) != len(result.shape):
            yield f"result {k} has {len(result.stride)} strides for {len(result.shape)} dims"
        if result.into is None:
            continue
        if not 0 <= result.into < len(operands) or result.axis is None:
            yield f"result {k} of axis {result.axis} goes into operand {result.into} of {len(operands)}"
            continue
        root = storage_root(operands[result.into])
        if root in taken:
            yield f"results {taken[root]} and {k} go into one storage"
        taken[root] = k
        yield from _buffer_complaints(node, k, operands[result.into])


def _buffer_complaints(node: fx.Node, k: int, operand: fx.Node) -> Iterator[str]:
    result = ir.loop_of(node).results[k]
    root, index = storage_root(operand)
    if root.op != "call_function":
        kind = "weight" if root.op == "get_attr" else "an input of its graph,"
        yield f"result {k} would overwrite {kind} {root.target!r}"
        return
    space, needed = storage_size(root, index), math.prod(result.shape) * result.dtype.itemsize
    if needed > space:
        yield f"result {k} needs {needed} bytes, the buffer of {operand.name!r} has {space}"
    later = _first_later_use(node, (root, index))
    if later is not None:
        yield f"result {k} overwrites {operand.name!r}, which {later.name!r} reads afterwards"
    loop = ir.loop_of(node)
    found = first_overwrite(loop, operands_of(node), k)
    if found is not None:
        part = "all" if found.span is None else f"{found.span}"
        yield f"step {found.step} reads {part} of operand {found.operand}, which result {k} has overwritten by then"


def storage_size(root: fx.Node, index: int) -> int:
    """Bytes of the storage that a node (its ``index``-th result, for a loop) makes."""
    if not ir.is_loop(root):
        return ir.nbytes(ir.val(root))
    result = ir.loop_of(root).results[index]
    return max(math.prod(result.shape) * result.dtype.itemsize, result.capacity)


def _first_later_use(node: fx.Node, root: tuple[fx.Node, int]) -> fx.Node | None:
    """A node after the loop that reads the storage by any name but the loop's own results."""
    after = node.next
    own = {user for user in node.users if ir.is_getitem(user)}
    derived = set(own)
    later_loops: set[fx.Node] = set()
    while after.op != "root":
        if ir.is_loop(after):
            later_loops.add(after)
        if any(source in derived for source in after.all_input_nodes) and _shares(after, root):
            derived.add(after)
        # What a later loop has written into the same storage is new, too.
        if ir.is_getitem(after) and after.args[0] in later_loops and storage_root(after) == root:
            derived.add(after)
        for source in after.all_input_nodes:
            if source not in derived and source is not node and not ir.is_loop(source) and storage_root(source) == root:
                return after
        after = after.next
    return None


def _shares(node: fx.Node, root: tuple[fx.Node, int]) -> bool:
    return node.op == "call_function" and not ir.is_loop(node) and storage_root(node) == root


def _describes(axis: ir.Axis, shape: Any) -> bool:
    return 0 <= axis.dim < len(shape) and axis.size == shape[axis.dim]


def _sliced_shape(shape: Any, axis: ir.Axis | None, span: ir.Span | None) -> tuple[int, ...]:
    if axis is None or span is None:
        return tuple(shape)
    return axis.narrowed_shape(shape, span[1] - span[0])


def _placeholders(body: ir.Body) -> list[fx.Node]:
    return [node for node in body.graph.nodes if node.op == "placeholder"]


def _shape(value: Tensor) -> list[int]:
    return list(value.shape)
