"""Walks an ONNX graph and emits the Program's graph, one operator at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
from torch import fx

from vgcomp import infer
from vgcomp.elastic.marks import NOTE, Marks
from vgcomp.errors import ModelError, VgcompError
from vgcomp.onnx_import import dims as dynamic_dims
from vgcomp.onnx_import.builder import Builder, plain_name
from vgcomp.onnx_import.op import Op
from vgcomp.onnx_import.ops import EMITTERS
from vgcomp.onnx_import.raising import raise_patterns
from vgcomp.onnx_import.reader import STANDARD_DOMAINS, OnnxFile, first_line, read
from vgcomp.onnx_import.tensors import stored, torch_dtype
from vgcomp.onnx_import.values import Constant, Live, Parameter, Value
from vgcomp.program import Program, Source

#: Floating initializers of more elements than this are parameters, kept by reference.
_CONSTANT_ELEMENTS = 16


def load_onnx(path: str | Path, dims: Mapping[str, int] | None = None) -> Program:
    """Imports an ONNX file.

    ``dims`` binds the file's dynamic dimensions by name. Weights stay where they are: data outside the
    file is referenced, whether or not it is there.

    Raises UsageError for a path that is no file or a name in ``dims`` that the model lacks, and
    ModelError for a damaged file, an unbound dimension or an operator that is not supported.
    """
    importer = _Importer(read(path))
    importer.check_operators()
    return importer.run(dims or {})


class _Importer:
    """One import: the environment maps the file's values to what they became."""

    def __init__(self, file: OnnxFile) -> None:
        self.file = file
        self.folder = file.path.parent.resolve()
        self.b = Builder()
        self.values: dict[ir.Value, Value] = {}

    def check_operators(self) -> None:
        """Refuses all unsupported operators before any work, naming each once with a node.

        Those in branches are met later: only a branch that is taken counts.
        """
        missing: dict[str, str] = {}
        for node in self.file.graph:
            if not _supported(node):
                missing.setdefault(f"{node.domain or 'ai.onnx'}.{node.op_type}", node.name or "without a name")
        if missing:
            named = ", ".join(f"{op} (node {name!r})" for op, name in missing.items())
            plural = "operators are" if len(missing) > 1 else "operator is"
            raise ModelError(f"{self.file.path}: {len(missing)} {plural} not supported: {named}")

    def run(self, dims: Mapping[str, int]) -> Program:
        graph = self.file.graph
        inputs = [v for v in graph.inputs if v.name not in graph.initializers]
        shapes = dynamic_dims.bind(inputs, dims)
        for value in inputs:
            dtype = torch_dtype(value.dtype, f"input {value.name!r}")
            example = infer.fake_tensor(shapes[str(value.name)], dtype)
            self.values[value] = Live(self.b.base.input(str(value.name), example))
        self._emit_all(graph)
        outputs = raise_patterns(self.b, [self._output(v) for v in graph.outputs])
        return self._program(outputs)

    # -- nodes ----------------------------------------------------------------------------------

    def _emit_all(self, graph: ir.Graph) -> None:
        for name, value in graph.initializers.items():
            self.values[value] = self._initializer(name, value)
        for node in graph:
            self._emit(node)

    def _emit(self, node: ir.Node) -> None:
        self.b.base.scope = node.name or ""
        try:
            results = self._branch(node) if node.op_type == "If" else self._results(node)
        except ModelError as error:
            raise ModelError(f"{self.file.path}: {_describe(node)}: {error}") from error
        except VgcompError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError, ZeroDivisionError) as error:
            # what ATen's shape functions and tensor code raise on operands that do not fit
            raise ModelError(f"{self.file.path}: {_describe(node)} cannot be imported: {first_line(error)}") from error
        for value, result in zip(node.outputs, results):
            self.values[value] = result

    def _results(self, node: ir.Node) -> list[Value]:
        if not _supported(node):
            raise ModelError(f"the operator {node.domain or 'ai.onnx'}.{node.op_type} is not supported")
        operands = tuple(None if v is None or v.name == "" else self._operand(v) for v in node.inputs)
        made = EMITTERS[node.op_type](Op(node, operands, self.file.opset, self.b))
        return [made] if isinstance(made, (Constant, Parameter, Live)) else list(made)

    def _operand(self, value: ir.Value) -> Value:
        found = self.values.get(value)
        if found is None:
            raise ModelError(f"its input {value.name!r} is defined nowhere; the file is damaged")
        return found

    def _branch(self, node: ir.Node) -> list[Value]:
        """An If whose condition is known: the branch taken, in place."""
        assert node.inputs[0] is not None
        condition = self._operand(node.inputs[0])
        if not isinstance(condition, Constant):
            raise ModelError("its condition depends on the network's inputs")
        taken = "then_branch" if bool(condition.tensor.reshape(-1)[0]) else "else_branch"
        graph = node.attributes[taken].as_graph()
        self._emit_all(graph)
        return [self._operand(v) for v in graph.outputs]

    def _initializer(self, name: str, value: ir.Value) -> Value:
        """Floating tensors of some size are parameters; the rest are constants where their data is here."""
        if value.const_value is None:
            raise ModelError(f"{self.file.path}: initializer {name!r} has no data; the file is damaged")
        tensor = stored(name, value.const_value, self.folder)
        weighty = tensor.dtype.is_floating_point and math.prod(tensor.shape) > _CONSTANT_ELEMENTS
        if weighty or not tensor.present:
            return Parameter(tensor, tensor.shape)
        return Constant(tensor.load())

    # -- the end --------------------------------------------------------------------------------

    def _output(self, value: ir.Value) -> fx.Node:
        found = self.values.get(value)
        if found is None:
            raise ModelError(f"{self.file.path}: output {value.name!r} is computed nowhere; the file is damaged")
        return self.b.node(found)

    def _program(self, outputs: list[fx.Node]) -> Program:
        graph = self.b.base.finish(outputs)
        self._plain_weight_names(graph)
        source = Source("onnx", self.file.path.stem, str(self.file.path), self.file.opset)
        names = tuple(str(v.name) for v in self.file.graph.outputs)
        return Program(self.file.path.stem, graph, self.b.base.weights, names, source, notes=self._notes(graph))

    def _notes(self, graph: fx.Graph) -> dict[str, str]:
        """A supernet's marks, which the file has under its own names."""
        text = self.file.model.metadata_props.get(NOTE)
        if text is None:
            return {}
        kept = set(graph.nodes)
        lives = {str(v.name): found.node for v, found in self.values.items() if isinstance(found, Live)}
        renamed = {name: node.name for name, node in lives.items() if node in kept}
        for node, parameter in self.b.parameters.items():
            if node in kept and parameter.shape == parameter.stored.shape:
                renamed[parameter.stored.name] = str(node.target)
        return {NOTE: Marks.from_json(text).renamed(renamed).to_json()}

    def _plain_weight_names(self, graph: fx.Graph) -> None:
        """An initializer seen under one shape only goes by its own name, whatever that shape is."""
        nodes = [node for node in graph.nodes if node.op == "get_attr"]
        own = {node: self.b.parameters[node].stored for node in nodes if node in self.b.parameters}
        uses = Counter(id(stored) for stored in own.values())
        renamed = {str(n.target): plain_name(s) for n, s in own.items() if uses[id(s)] == 1}
        for node in nodes:
            node.target = renamed.get(str(node.target), str(node.target))
        weights = {renamed.get(name, name): weight for name, weight in self.b.base.weights.items()}
        self.b.base.weights = {name: replace(weight, name=name) for name, weight in weights.items()}


def _supported(node: ir.Node) -> bool:
    return node.domain in STANDARD_DOMAINS and (node.op_type in EMITTERS or node.op_type == "If")


def _describe(node: ir.Node) -> str:
    return f"{node.op_type} node {node.name!r}" if node.name else f"{node.op_type} node"
