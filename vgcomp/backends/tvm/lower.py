"""A plan as a Relax module: one function for ``main``, one for each body, one TIR function for each distinct kernel.

Every function works in the one arena, which ``main`` allocates: tensors are headers at fixed places in it, so a body's
function takes the arena, the inputs and weights that it reads, and the positions of its slices. What is left to
TVM is to lower allocations and calls to bytecode and to compile the kernels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from vgcomp.backends.tvm import emit_contract, emit_pointwise, emit_reduce, emit_shape
from vgcomp.backends.tvm.kernel import Built, Device, Slot, Spec, Tensor, build_kernel
from vgcomp.backends.tvm.layout import access, memory_order
from vgcomp.backends.tvm.plan import ProgramPlan, functions_of
from vgcomp.backends.tvm.registry import DTYPES
from vgcomp.backends.tvm.repeat import ADVANCE, FOLD, Steps, advance, folds, runs
from vgcomp.backends.tvm.require import require_tvm
from vgcomp.backends.tvm.scope import values_of
from vgcomp.backends.tvm.storage import Buffer, Enter, GraphPlan, Run, Value
from vgcomp.cuda_temporaries import INDEX_LIMIT
from vgcomp.errors import ModelError
from vgcomp.program import Program

#: Importing these fills the table of emitters.
_FAMILIES = (emit_contract, emit_pointwise, emit_reduce, emit_shape)


@dataclass
class Lowered:
    """``module``: Relax functions and unscheduled kernels. ``kernels``: by name, with how often ``main`` runs each."""

    module: Any
    plan: ProgramPlan
    kernels: dict[str, Built]
    calls: dict[str, int]
    weight_names: tuple[str, ...]
    device: Device = "cpu"
    #: A call of each kernel.
    examples: dict[str, Run] = field(default_factory=dict)


def lower(program: Program, device: Device = "cpu") -> Lowered:
    """The Relax module of a Program, its kernels written for ``device``.

    Raises Unavailable without TVM, ModelError for a dtype that TVM lacks and for a tensor that kernels cannot index.
    """
    require_tvm()
    _refuse_huge(program.graph)
    import tvm
    from tvm import relax

    plan = ProgramPlan(program)
    weights = [_Param(buffer, program.weights[name].shape, program.weights[name].dtype)
               for name, buffer in plan.weights.items()]  # fmt: skip
    inputs = [_Param(b, tuple(n.meta["val"].shape), n.meta["val"].dtype)
              for b, n in zip(plan.inputs, program.inputs, strict=True)]  # fmt: skip
    lowering = _Lowering({param.buffer: param for param in [*inputs, *weights]}, device)
    for inner in functions_of(plan.main):
        if inner is not plan.main:
            lowering.body(inner)
    lowering.main(plan.main, [*inputs, *weights])
    module = tvm.IRModule(lowering.functions)
    return Lowered(
        relax.transform.Normalize()(module),
        plan,
        lowering.kernels,
        lowering.count(plan.main),
        tuple(plan.weights),
        device,
        lowering.examples,
    )


def _refuse_huge(graph: fx.Graph) -> None:
    """Kernels index with 32 bits."""
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.numel() >= INDEX_LIMIT:
            raise ModelError(
                f"{node.name} has {value.numel()} elements, and the TVM backend's kernels index fewer than 2^31: "
                "choose a smaller size or another --emit"
            )


@dataclass(frozen=True)
class _Param:
    """An argument of ``main``."""

    buffer: Buffer
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass
class _Needs:
    """What a body's function has to be given: inputs, weights and the positions of slices."""

    handles: dict[Buffer, None] = field(default_factory=dict)
    scalars: dict[str, None] = field(default_factory=dict)


class _Lowering:
    """Collects the functions of the module."""

    def __init__(self, params: dict[Buffer, _Param], device: Device) -> None:
        self.params, self.device = params, device
        self.functions: dict[Any, Any] = {}
        self.kernels: dict[str, Built] = {}
        self.examples: dict[str, Run] = {}
        self._known: dict[Spec, Any] = {}
        self._bodies: dict[GraphPlan, tuple[Any, _Needs]] = {}
        self._folded: dict[tuple[GraphPlan, tuple[int, ...], int], Any] = {}
        self._advance: Any = None

    # -- functions

    def body(self, plan: GraphPlan) -> None:
        """Adds the function of a loop's body."""
        needs = self._needs(plan)
        scope, params = self._function(needs)
        scope.instructions(plan)
        # The VM wants a value from every function of its own: the arena will do.
        self._bodies[plan] = (self._add(plan.name, params, scope, scope.arena), needs)

    def _function(self, needs: _Needs) -> tuple[_Function, list[Any]]:
        """A function of what a body needs, and its parameters; short names and no types, as the bytecode holds both."""
        from tvm import relax

        arena = relax.Var("m", relax.AnyType())
        scope = _Function(self, arena)
        scope.handles.update({buffer: relax.Var("x", relax.AnyType()) for buffer in needs.handles})
        scope.scalars.update({name: relax.Var("i", relax.AnyType()) for name in needs.scalars})
        return scope, [arena, *scope.handles.values(), *scope.scalars.values()]

    def folded(self, steps: Steps, level: int) -> Any:
        """The function of ``FOLD ** level`` steps; the body's own for one."""
        body, needs = self._bodies[steps.body]
        key = (steps.body, steps.strides, level)
        if level == 0:
            return body
        if key not in self._folded:
            inner = self.folded(steps, level - 1)
            scope, params = self._function(needs)
            strides = dict(zip((name for name, _ in steps.starts), steps.strides, strict=True))
            for turn in range(FOLD):
                by = {name: turn * FOLD ** (level - 1) * stride for name, stride in strides.items()}
                scope.enter(inner, needs, {name: scope.advanced(name, by.get(name, 0)) for name in needs.scalars})
            name = f"{steps.body.name}_x{FOLD**level}_{len(self._folded)}"
            self._folded[key] = self._add(name, params, scope, scope.arena)
        return self._folded[key]

    def advance(self) -> Any:
        """The function that adds positions."""
        if self._advance is None:
            from tvm import ir, relax

            self._advance = _global(ADVANCE, relax.FuncType.opaque_func(ret=ir.PrimType("int64")))
            self.functions[self._advance] = advance()
        return self._advance

    def main(self, plan: GraphPlan, arguments: Sequence[_Param]) -> None:
        """Adds ``main``: inputs and weights in, a tuple of outputs out."""
        from tvm import relax

        params = [self._handle(param.buffer) for param in arguments]
        scope = _Function(self, None)
        scope.handles.update({param.buffer: var for param, var in zip(arguments, params, strict=True)})
        scope.arena = scope.storage("arena", plan.size)
        scope.instructions(plan)
        outputs = [scope.tensor(value.buffer, value.view.shape, value.dtype) for value in plan.outputs]
        self._add("main", params, scope, relax.Tuple(outputs))

    def _handle(self, buffer: Buffer) -> Any:
        from tvm import relax

        param = self.params[buffer]
        return relax.Var(_identifier(buffer.name), relax.TensorType(list(param.shape), _dtype(param.dtype)))

    def _add(self, name: str, params: Sequence[Any], scope: _Function, result: Any) -> Any:
        from tvm import ir, relax

        var = relax.Var("result", _type_of(result))
        bindings = [*scope.bindings, relax.VarBinding(var, result)]
        body = relax.SeqExpr([relax.BindingBlock(bindings)], var)
        attrs: dict[str, Any] = {"global_symbol": "main"} if name == "main" else {}
        attrs |= {"relax.force_pure": True}
        function = relax.Function(list(params), body, _type_of(result), True, ir.DictAttrs(attrs))
        gvar = _global(name, function.ty if hasattr(function, "ty") else None)
        self.functions[gvar] = function
        return gvar

    def _needs(self, plan: GraphPlan) -> _Needs:
        needs = _Needs()
        for instruction in plan.instructions:
            if isinstance(instruction, Enter):
                inner = self._bodies[instruction.body][1]
                needs.handles.update(inner.handles)
                given = {name for name, _ in instruction.scalars}
                needs.scalars.update({name: None for name in inner.scalars if name not in given})
                continue
            for value in values_of((instruction.args, instruction.kwargs, instruction.out)):
                if value.buffer.kind != "arena":
                    needs.handles[value.buffer] = None
                needs.scalars.update({move.scalar: None for move in value.view.moves})
        return needs

    # -- kernels

    def kernel(self, run: Run) -> tuple[Any, list[Value], list[str]]:
        """The kernel of an instruction, its operands and its scalars."""
        operands: list[Value] = []
        args, kwargs = _slotted(run.args, operands), _slotted(run.kwargs, operands)
        scalars: dict[str, int] = {}
        for value in (*operands, run.out):
            for move in value.view.moves:
                scalars.setdefault(move.scalar, len(scalars))
        spec = Spec(
            run.target,
            args,
            tuple(sorted(kwargs.items())),
            tuple(_tensor(value, scalars) for value in operands),
            _tensor(run.out, scalars),
            memory_order(run.out.view),
            len(scalars),
        )
        if spec not in self._known:
            name = f"{_identifier(str(run.target).split('.')[1])}_{len(self._known)}"
            self.kernels[name] = build_kernel(spec, name, self.device)
            self._known[spec] = _global(name)
            self.functions[self._known[spec]] = self.kernels[name].function
            self.examples[name] = run
        return self._known[spec], operands, list(scalars)

    def count(self, plan: GraphPlan, times: int = 1, into: dict[str, int] | None = None) -> dict[str, int]:
        """How often a run calls each kernel."""
        found: dict[str, int] = {} if into is None else into
        inner: dict[GraphPlan, int] = {}
        for instruction in plan.instructions:
            if isinstance(instruction, Enter):
                inner[instruction.body] = inner.get(instruction.body, 0) + times
                continue
            name = self.kernel(instruction)[0].name_hint
            found[name] = found.get(name, 0) + times
        for body, entered in inner.items():
            self.count(body, entered, found)
        return found


class _Function:
    """One Relax function under construction."""

    def __init__(self, lowering: _Lowering, arena: Any) -> None:
        self.lowering, self.arena = lowering, arena
        self.bindings: list[Any] = []
        self.handles: dict[Buffer, Any] = {}
        self.scalars: dict[str, Any] = {}
        self._tensors: dict[tuple[Buffer, tuple[int, ...], torch.dtype], Any] = {}

    def instructions(self, plan: GraphPlan) -> None:
        for instruction in runs(plan.instructions):
            if isinstance(instruction, Steps):
                self._steps(instruction)
            else:
                self._run(instruction)

    def _run(self, run: Run) -> None:
        kernel, operands, scalars = self.lowering.kernel(run)
        tensors = [self._seen(value) for value in (*operands, run.out)]
        from tvm import relax

        args = [*tensors, *(self.scalars[name] for name in scalars)]
        self._call(kernel, args, relax.TupleType([]))

    def _steps(self, steps: Steps) -> None:
        from tvm import relax

        needs = self.lowering._bodies[steps.body][1]
        for first, level in folds(steps.count):
            at = {name: relax.prim_value(position, "int64") for name, position in steps.at(first).items()}
            scalars = {name: at[name] if name in at else self.scalars[name] for name in needs.scalars}
            self.enter(self.lowering.folded(steps, level), needs, scalars)

    def enter(self, function: Any, needs: _Needs, scalars: dict[str, Any]) -> None:
        """Calls a body's function, or one of several steps of it."""
        from tvm import relax

        args = [self.arena, *(self.handles[buffer] for buffer in needs.handles), *scalars.values()]
        self._call(function, args, relax.AnyType())

    def advanced(self, name: str, by: int) -> Any:
        """A position further on."""
        from tvm import ir, relax

        if by == 0:
            return self.scalars[name]
        kind = ir.PrimType("int64")
        call = relax.Call(self.lowering.advance(), [self.scalars[name], relax.prim_value(by, "int64")], ret_ty=kind)
        return self._bind("at", call, kind)

    def _call(self, function: Any, args: Sequence[Any], kind: Any) -> None:
        from tvm import relax

        self._bind("_", relax.Call(function, list(args), ret_ty=kind), kind)

    def storage(self, name: str, size: int) -> Any:
        """Allocates a storage; never an empty one."""
        from tvm import relax

        call = relax.op.memory.alloc_storage(relax.ShapeExpr([max(size, 64)]), 0, "global", "uint8")
        return self._bind(name, call, relax.AnyType())

    def _seen(self, value: Value) -> Any:
        return self.tensor(value.buffer, _access(value).shape, value.dtype)

    def tensor(self, buffer: Buffer, shape: Sequence[int], dtype: torch.dtype) -> Any:
        """A header for a storage, made once for each shape."""
        from tvm import relax

        key = (buffer, tuple(shape), dtype)
        if key in self._tensors:
            return self._tensors[key]
        kind = relax.TensorType(list(shape), _dtype(dtype))
        if buffer.kind == "param":
            var = self.handles[buffer]
            if self.lowering.params[buffer].shape != tuple(shape):
                call = relax.Call(
                    relax.ExternFunc("vm.builtin.reshape"),
                    [var, relax.ShapeExpr(list(shape))],
                    ty_args=[kind],
                    ret_ty=kind,
                )
                var = self._bind("view", call, kind)
        else:
            call = relax.op.memory.alloc_tensor(self.arena, buffer.offset, relax.ShapeExpr(list(shape)), _dtype(dtype))
            var = self._bind("t", call, kind)
        self._tensors[key] = var
        return var

    def _bind(self, name: str, call: Any, kind: Any) -> Any:
        from tvm import relax

        var = relax.Var(name, kind)
        self.bindings.append(relax.VarBinding(var, call))
        return var


def _access(value: Value) -> Any:
    numel = value.buffer.size // value.dtype.itemsize
    return access(value.view, numel, exact=value.buffer.kind == "param")


def _tensor(value: Value, scalars: dict[str, int]) -> Tensor:
    numbers = tuple(scalars[move.scalar] for move in value.view.moves)
    return Tensor(value.view.shape, value.dtype, _access(value), numbers)


def _slotted(argument: Any, operands: list[Value]) -> Any:
    """Arguments with the operands' numbers for Values."""
    if isinstance(argument, Value):
        if argument not in operands:
            operands.append(argument)
        return Slot(operands.index(argument))
    if isinstance(argument, (list, tuple)):
        return tuple(_slotted(entry, operands) for entry in argument)
    if isinstance(argument, dict):
        return {key: _slotted(entry, operands) for key, entry in argument.items()}
    return argument


def _dtype(dtype: torch.dtype) -> str:
    if dtype not in DTYPES:
        raise ModelError(f"TVM has no element type for {dtype}; convert the network to float16 or float32 first")
    return DTYPES[dtype]


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _type_of(result: Any) -> Any:
    from tvm import relax

    return relax.TupleType([field.ty for field in result.fields]) if isinstance(result, relax.Tuple) else result.ty


def _global(name: str, kind: Any = None) -> Any:
    """A global variable of a function of this type; a kernel's returns nothing and takes anything."""
    from tvm import ir, relax

    var = ir.GlobalVar(name)
    relax.expr._update_type(var, kind or relax.FuncType.opaque_func(ret=relax.TupleType([])))
    return var
