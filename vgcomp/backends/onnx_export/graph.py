"""Walks a graph of the dialect and emits its nodes, loops included."""

from __future__ import annotations

from typing import Any

from torch import fx

from vgcomp import ir
from vgcomp.backends.onnx_export import emit_contract, emit_pointwise, emit_reduce, emit_shape
from vgcomp.backends.onnx_export.loops import LoopEmitter
from vgcomp.backends.onnx_export.registry import EMITTERS, Call
from vgcomp.backends.onnx_export.scope import Scope, Value
from vgcomp.errors import InternalError

#: Importing these fills the table of emitters.
_FAMILIES = (emit_contract, emit_pointwise, emit_reduce, emit_shape)

#: What a node evaluates to: a value, or a loop's results.
Env = dict[fx.Node, Any]


class GraphEmitter:
    """Emits graphs; ``names`` says what a node's value is to be called, where that matters."""

    def __init__(self, *, unroll: bool) -> None:
        self._loops = LoopEmitter(self.emit, unroll=unroll)

    def emit(
        self, scope: Scope, graph: fx.Graph, inputs: list[Value], names: dict[fx.Node, str] | None = None
    ) -> list[Value]:
        """Emits every node of ``graph`` into ``scope`` and returns the values of its outputs."""
        env: Env = {}
        given = iter(inputs)
        for node in graph.nodes:
            if node.op == "output":
                break
            env[node] = next(given) if node.op == "placeholder" else self._node(scope, node, env, names or {})
        (outputs,) = graph.output_node().args
        return [env[node] for node in outputs]  # type: ignore[union-attr,index]

    def _node(self, scope: Scope, node: fx.Node, env: Env, names: dict[fx.Node, str]) -> Any:
        if node.op == "get_attr":
            return Value.like(scope.weight(str(node.target)), ir.val(node))
        if ir.is_getitem(node):
            return env[node.args[0]][node.args[1]]  # type: ignore[index]
        since = len(scope.nodes)
        if ir.is_loop(node):
            operands = [env[operand] for operand in node.args[1]]  # type: ignore[union-attr,index]
            results = self._loops.emit(scope, ir.loop_of(node), operands)
            users = {user.args[1]: names.get(user) for user in node.users if ir.is_getitem(user)}
            return [_named(scope, value, users.get(k), since) for k, value in enumerate(results)]
        emitter = EMITTERS.get(node.target)
        if emitter is None:
            raise InternalError(f"{node.name}: no ONNX emitter for {node.target}")
        args, kwargs = _filled(node.args, env), _filled(node.kwargs, env)
        out = Value.like("", ir.val(node))
        name = emitter(Call(scope, node.target, args, kwargs, out))
        return _named(scope, Value(name, out.shape, out.dtype), names.get(node), since)


def _named(scope: Scope, value: Value, name: str | None, since: int) -> Value:
    """``value`` under its wanted name, if a node that was just emitted makes it."""
    if name is None or not scope.rename(value.name, name, since):
        return value
    return Value(name, value.shape, value.dtype)


def _filled(argument: Any, env: Env) -> Any:
    if isinstance(argument, fx.Node):
        return env[argument]
    if isinstance(argument, (list, tuple)):
        return [_filled(entry, env) for entry in argument]
    if isinstance(argument, dict):
        return {key: _filled(entry, env) for key, entry in argument.items()}
    return argument
