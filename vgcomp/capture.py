"""From PyTorch: any ``nn.Module`` with example inputs, its tensors real or fake, to a Program.

``torch.export`` gives the calls; each is rewritten to the canonical spelling by
:mod:`vgcomp.normalize`; whatever depends neither on an input nor on a parameter is computed now.
Writes in place are turned into values by :mod:`vgcomp.normalize.mutation`.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind

from vgcomp.errors import InternalError, ModelError
from vgcomp.normalize import TABLE, Builder, Call
from vgcomp.normalize.composite import decomposition, is_composite
from vgcomp.normalize.constants import constant_nodes
from vgcomp.normalize.mutation import Mutations, is_mutation, root_of
from vgcomp.program import Program, Source
from vgcomp.weights import Weight, from_tensor, without_data

aten = torch.ops.aten

#: Calls without a value: checks that tracing has already decided.
_CHECKS = frozenset(
    {
        aten._assert_tensor_metadata.default,
        aten._assert_async.msg,
        aten._assert_scalar.default,
        aten.sym_constrain_range.default,
        aten.sym_constrain_range_for_size.default,
    }
)


def capture(
    module: nn.Module,
    example_inputs: Sequence[Any],
    *,
    name: str | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Program:
    """Captures ``module(*example_inputs)`` with the shapes, strides and dtypes of the examples.

    Parameters may be real (shared, not copied), fake or on the meta device (then absent). Buffers that
    are real count as constants and are computed with. Arguments that are no tensors are fixed.

    Raises ModelError for a module that torch.export cannot trace or that holds an unsupported op.
    """
    title = name or type(module).__name__.lower()
    exported = _export(module, tuple(example_inputs), title)
    importer = _Importer(exported)
    graph = importer.run(input_names)
    outputs = tuple(output_names or _default_outputs(graph))
    if len(outputs) != len(graph.output_node().args[0]):  # type: ignore[arg-type]
        raise ModelError(f"{title}: {len(outputs)} output names for {len(graph.output_node().args[0])} outputs")  # type: ignore[arg-type]
    source = Source("torch", f"{type(module).__module__}.{type(module).__qualname__}")
    return Program(title, graph, importer.builder.weights, outputs, source)


def _default_outputs(graph: fx.Graph) -> list[str]:
    results: Any = graph.output_node().args[0]
    return ["output"] if len(results) == 1 else [f"output_{i}" for i in range(len(results))]


def _export(module: nn.Module, inputs: tuple[Any, ...], title: str) -> torch.export.ExportedProgram:
    """torch.export in the fake mode that the module's tensors already belong to, if any."""
    mode = _mode_of(module, inputs)
    try:
        with _quiet(), _without_stack_traces(), torch.no_grad():
            if mode is None:
                return torch.export.export(module, inputs, strict=False)
            with mode:
                return torch.export.export(module, inputs, strict=False)
    except Exception as error:
        raise ModelError(f"{title}: torch.export failed: {_first_line(error)}") from error


def _mode_of(module: nn.Module, inputs: tuple[Any, ...]) -> FakeTensorMode | None:
    for tensor in (*module.parameters(), *module.buffers(), *inputs):
        if isinstance(tensor, FakeTensor):
            return tensor.fake_mode
    return None


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch's own error log of a failed meta function off the terminal: our message says it."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _without_stack_traces() -> Iterator[None]:
    """Nodes are named by their module, so the stack that made each one need not be walked: a third of the time."""
    from torch.fx import config

    before = getattr(config, "do_not_emit_stack_traces", None)
    config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        config.do_not_emit_stack_traces = bool(before)


class _Importer:
    """One walk over an exported graph. ``env`` maps its nodes to Values of the new graph."""

    def __init__(self, exported: torch.export.ExportedProgram) -> None:
        self.exported = exported
        self.env: dict[fx.Node, Any] = {}
        self.constant = constant_nodes(exported)
        self.written = {root_of(node) for node in self.constant if is_mutation(node)}
        self.builder = Builder(constants_change=bool(self.written))
        self.mutations = Mutations(exported.graph, self.constant)
        self._weights: dict[Any, str] = {}

    def run(self, input_names: Sequence[str] | None) -> fx.Graph:
        self._leaves(input_names)
        for node in self.exported.graph.nodes:
            if node.op == "call_function":
                self._call(node)
        return self.builder.finish(self._results())

    # -- inputs and weights --------------------------------------------------------------------

    def _leaves(self, input_names: Sequence[str] | None) -> None:
        specs = {spec.arg.name: spec for spec in self.exported.graph_signature.input_specs}
        nodes = [node for node in self.exported.graph.nodes if node.op == "placeholder"]
        users = [n for n in nodes if specs[n.name].kind is InputKind.USER_INPUT and isinstance(n.meta["val"], Tensor)]
        names = list(input_names or [node.name for node in users])
        if len(names) != len(users):
            raise ModelError(f"{len(names)} input names for {len(users)} tensor inputs")
        for node, chosen in zip(users, names, strict=True):
            self.env[node] = self.builder.input(chosen, node.meta["val"])
        for node in nodes:
            if node not in self.env:
                self.env[node] = self._leaf(node, specs[node.name])

    def _leaf(self, node: fx.Node, spec: Any) -> Any:
        if spec.kind is InputKind.USER_INPUT:
            return spec.arg.value if isinstance(spec.arg, ConstantArgument) else node.meta["val"]
        data = self._data(spec)
        if node in self.constant and node in self.written:
            return data.clone()
        if node in self.constant:
            self.builder.name_constant(data, spec.target)
            return data
        return _Lazy(self._weight(spec.target, data))

    def _data(self, spec: Any) -> Tensor:
        found = self.exported.state_dict.get(spec.target)
        data = self.exported.constants[spec.target] if found is None else found
        assert isinstance(data, Tensor)
        return data

    def _weight(self, name: str, data: Tensor) -> Weight:
        """The weight of a parameter; parameters that are one tensor share the first one's name."""
        fake = isinstance(data, FakeTensor) or data.device.type == "meta"
        identity = id(data) if fake else (data.data_ptr(), data.shape, data.stride(), data.dtype)
        shared = self._weights.setdefault(identity, name) if data.numel() else name
        return without_data(shared, data.shape, data.dtype) if fake else from_tensor(shared, data)

    # -- calls -----------------------------------------------------------------------------------

    def _call(self, node: fx.Node) -> None:
        if node.target in _CHECKS:
            return
        self.builder.scope = _scope(node)
        if node in self.constant:
            self.env[node] = self._evaluate(node)
            return
        if is_mutation(node):
            self.env[node] = self.mutations.write(self.builder, self.env, node, self._rewrite)
            return
        self.mutations.refresh(self.builder, self.env, node, self._rewrite)
        self.env[node] = self._rewrite(node)

    def _evaluate(self, node: fx.Node) -> Any:
        """A call on constants, made now."""
        args, kwargs = _resolved(node.args, self._read), _resolved(node.kwargs, self._read)
        with torch.no_grad():
            return node.target(*args, **kwargs)  # type: ignore[operator]

    def _read(self, node: fx.Node) -> Any:
        value = self.env[node]
        if isinstance(value, _Lazy):
            value = self.env[node] = self.builder.weight(value.weight)
        return value

    def _rewrite(self, node: fx.Node) -> Any:
        """The canonical form of one call, checked against the value that tracing saw."""
        if node.target is operator.getitem:
            return self._read(node.args[0])[node.args[1]]  # type: ignore[arg-type]
        handler = TABLE.get(node.target)
        if handler is None and is_composite(node.target):
            return self._decomposed(node)
        if handler is None:
            raise ModelError(
                f"operator {node.target} at node {node.name!r}{_where(node)} is not supported: replace it by "
                "operators of the supported set, or add a rule for it to vgcomp.normalize"
            )
        args, kwargs = _resolved(node.args, self._read), _resolved(dict(node.kwargs), self._read)
        result = handler(self.builder, Call(node.target, args, kwargs, node.meta["val"], node.name))
        _check(node, result)
        return result

    def _decomposed(self, node: fx.Node) -> Any:
        """An op that ATen defines by others: the canonical form of these."""
        sources = list(node.all_input_nodes)
        inner = decomposition(node, [self.builder.node(self._read(source)) for source in sources])
        placeholders = [n for n in inner.nodes if n.op == "placeholder"]
        self.env.update({n: self.env[source] for n, source in zip(placeholders, sources, strict=True)})
        for call in inner.nodes:
            if call.op == "call_function":
                self.env[call] = self._rewrite(call)
        return _resolved(inner.output_node().args[0], self._read)

    def _results(self) -> list[Any]:
        results: Any = self.exported.graph.output_node().args[0]
        specs = self.exported.graph_signature.output_specs
        wanted = [n for n, spec in zip(results, specs, strict=True) if spec.kind is OutputKind.USER_OUTPUT]
        nodes = [n for n in wanted if isinstance(n, fx.Node)]
        for node in nodes:
            self.mutations.refresh_value(self.builder, self.env, node, self._rewrite)
        return [self._read(node) for node in nodes]


class _Lazy:
    """A parameter that has not been used yet: its get_attr node is made at the first use."""

    def __init__(self, weight: Weight) -> None:
        self.weight = weight


def _resolved(args: Any, read: Callable[[fx.Node], Any]) -> Any:
    if isinstance(args, fx.Node):
        return read(args)
    if isinstance(args, tuple):
        return tuple(_resolved(arg, read) for arg in args)
    if isinstance(args, list):
        return [_resolved(arg, read) for arg in args]
    if isinstance(args, Mapping):
        return {key: _resolved(arg, read) for key, arg in args.items()}
    return args


def _check(node: fx.Node, result: Any) -> None:
    """Raises InternalError when a rule changed a shape or a dtype."""
    expected = node.meta["val"]
    if isinstance(result, fx.Node):
        result = result.meta["val"]
    if not isinstance(expected, Tensor) or not isinstance(result, Tensor):
        return
    if expected.shape != result.shape or expected.dtype != result.dtype:
        raise InternalError(
            f"rule for {node.target} at {node.name!r} gave {result.dtype} {tuple(result.shape)}, "
            f"not {expected.dtype} {tuple(expected.shape)}"
        )


def _scope(node: fx.Node) -> str:
    """The path of the module that made the call."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = next(reversed(stack.values()))[0]
    return str(path).removeprefix("L['self'].")


def _where(node: fx.Node) -> str:
    scope = _scope(node)
    return f" in {scope}" if scope else ""
