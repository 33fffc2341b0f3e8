"""The file: header, graph, functions, weights, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import helper
from torch import fx

import vgcomp
from vgcomp import ir
from vgcomp.backends.onnx_export.graph import GraphEmitter
from vgcomp.backends.onnx_export.initializers import Initializers, place
from vgcomp.backends.onnx_export.scope import FUNCTION_DOMAIN, ModelParts, Names, Scope, Value
from vgcomp.elastic.marks import NOTE, marks_of
from vgcomp.errors import UsageError
from vgcomp.files import staged_file
from vgcomp.program import Program
from vgcomp.weights import Weight

#: ReduceMean and the like take their axes as an input from 18 on; nothing newer than 28 is known.
_OPSETS = range(18, 29)


def export_onnx(
    program: Program,
    path: Path | str,
    *,
    opset: int = 18,
    allow_absent: bool = False,
    unroll: bool = False,
    home: Path | str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Writes ``program`` as an ONNX file and returns the files written (the model, then its data file if any).

    Names of inputs and outputs are the program's (an output named like an input becomes ``out_<name>``:
    ONNX has one name space). Only operators of the standard domain are used; loop
    bodies are model-local functions of them. Up to 1 GiB of weights go into the file, more into
    ``<path>.data``. Weights in an external file under the model's folder, or in one that is missing, stay
    references (``home`` is that folder if ``path`` is only a place to stage the file).

    ``allow_absent``: weights without data become references to ``<path>.weights`` instead of an error.
    ``unroll``: every step of a loop is a call, no ``Scan``. ``metadata``: entries for the file's metadata,
    beside the model's name, source and passes.

    In ONNX Runtime (CPU) a value lives until its last use. A loop's slices are copies, one step's worth. A
    result of a loop exists once if nothing but dimensions of 1 precede its sliced axis; otherwise it
    exists twice while it is brought into order at the end of the loop, and likewise if the steps' pieces differ in
    length. Buffers shared across loops (``Result.into``) are a matter of the runtime, so the peak
    is above the one predicted for a backend that writes in place.

    Raises UsageError for an opset outside 18 to 28 and a path that cannot be written, ModelError for weights
    without data. Nothing is left behind then.
    """
    path = Path(path)
    if opset not in _OPSETS:
        raise UsageError(f"opset {opset} cannot be written: choose {_OPSETS.start} to {_OPSETS.stop - 1}")
    model, used = build_model(program, opset=opset, unroll=unroll)
    source = Path(program.source.file).absolute().parent if program.source.file else None
    folder = Path(home) if home is not None else path.parent
    weights = place(used, path, folder, source, allow_absent)
    model.graph.initializer.extend(weights.tensors)
    for key, value in {**_about(program), **(metadata or {})}.items():
        model.metadata_props.add(key=key, value=value)
    try:
        return _write(model, weights, path)
    except OSError as error:
        where, reason = error.filename or path, error.strerror or str(error)
        raise UsageError(f"{where} cannot be written: {reason}; free some space or write elsewhere") from error


def build_model(program: Program, *, opset: int = 18, unroll: bool = False) -> tuple[onnx.ModelProto, list[Weight]]:
    """``program`` as a ModelProto that lacks its weights, and the weights to add as initializers.

    A supernet's marks go into its metadata, under the names that the file has, unless passes have left what they name.
    """
    names = Names()
    inputs = [Value.like(str(node.target), ir.val(node)) for node in program.inputs]
    for value in inputs:
        names.reserve(value.name)
    # A name cannot be both an input and an output in ONNX: the output gives way.
    output_names = [
        names.fresh(name if name not in program.input_names else f"out_{name}") for name in program.output_names
    ]
    wanted = _output_nodes(program, output_names)
    weight_names = {name: names.fresh(name) for name in program.weights}
    labels = {node: wanted[node] if node in wanted else names.fresh(node.name) for node in _labelled(program.graph)}
    used: dict[str, Weight] = {}

    def weight(name: str) -> str:
        used.setdefault(name, replace(program.weights[name], name=weight_names[name]))
        return weight_names[name]

    parts = ModelParts(opset)
    scope = Scope(parts, names, weight, initializers=[])
    results = GraphEmitter(unroll=unroll).emit(scope, program.graph, inputs, labels)
    outputs = [_output(scope, value, name) for value, name in zip(results, output_names, strict=True)]
    graph = scope.graph(program.name, inputs, outputs)
    graph.value_info.extend(_infos(labels, scope, {*output_names}))
    model = _model(graph, parts)
    marks = marks_of(program)
    written = {node.name: label for node, label in labels.items()} | weight_names
    if marks is not None and marks.names <= written.keys():
        model.metadata_props.add(key=NOTE, value=marks.renamed(written).to_json())
    return model, list(used.values())


def _labelled(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_function" and not ir.is_loop(node)]


def _output_nodes(program: Program, output_names: Sequence[str]) -> dict[fx.Node, str]:
    """The name that a node's value bears because it is an output (the first, if it is several)."""
    wanted: dict[fx.Node, str] = {}
    for node, name in zip(program.outputs, output_names, strict=True):
        wanted.setdefault(node, name)
    return wanted


def _output(scope: Scope, value: Value, name: str) -> Value:
    """``value`` as the graph's output ``name``; a copy when it is an input, a weight or another output."""
    if value.name != name:
        scope.nodes.append(helper.make_node("Identity", [value.name], [name]))
    return Value(name, value.shape, value.dtype)


def _infos(labels: dict[fx.Node, str], scope: Scope, outputs: set[str]) -> list[onnx.ValueInfoProto]:
    """Shapes of the named values, so that no tool has to infer them through functions and Scans."""
    made = {name for node in scope.nodes for name in node.output} - outputs
    return [Value.like(name, ir.val(node)).info() for node, name in labels.items() if name in made]


def _model(graph: onnx.GraphProto, parts: ModelParts) -> onnx.ModelProto:
    imports = [helper.make_opsetid("", parts.opset)]
    if parts.functions:
        imports.append(helper.make_opsetid(FUNCTION_DOMAIN, 1))
    version = helper.find_min_ir_version_for(imports[:1], ignore_unknown=True)
    return helper.make_model(
        graph,
        opset_imports=imports,
        functions=parts.functions,
        # Functions came with version 8.
        ir_version=max(version, 8),
        producer_name="vgcomp",
        producer_version=vgcomp.__version__,
    )


def _about(program: Program) -> dict[str, str]:
    """Metadata: where the model comes from and what each pass did."""
    source = program.source
    about = {"vgcomp.model": program.name, "vgcomp.source": f"{source.kind}:{source.name}"}
    passes = [
        {"name": record.name, "equivalence": record.equivalence, "changed": record.changed, **record.stats}
        for record in program.history
    ]
    if passes:
        about["vgcomp.passes"] = json.dumps(passes)
    return about


def _write(model: onnx.ModelProto, weights: Initializers, path: Path) -> list[Path]:
    if not weights.stored:
        with staged_file(path) as staged:
            staged.write_bytes(model.SerializeToString())
        return [path]
    data = path.with_name(weights.data_name)
    with staged_file(path) as staged:
        # The model is on disk before the data file gets its name: after that only a rename is left to do.
        with staged.open("wb") as file:
            file.write(model.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        with staged_file(data) as staged_data, staged_data.open("wb") as file:
            weights.write_data(file)
    return [path, data]
