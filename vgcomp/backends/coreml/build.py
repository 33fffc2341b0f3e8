"""One part as an ML Program package."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from vgcomp import ir
from vgcomp.backends.coreml import emit_contract, emit_pointwise, emit_reduce, emit_shape  # noqa: F401  (fill the table)
from vgcomp.backends.coreml.compress import FORMS, Form, passes_for
from vgcomp.backends.coreml.registry import EMITTERS, Call
from vgcomp.backends.coreml.require import require_coreml
from vgcomp.backends.coreml.scope import Scope, mil_type
from vgcomp.errors import InternalError, ModelError
from vgcomp.parts import constants
from vgcomp.program import Program

#: Of coremltools' own passes, those that tidy up: the Program has been optimized, and what was checked is shipped.
PASSES = (
    "common::dead_code_elimination",
    "common::noop_elimination",
    "common::const_deduplication",
    "common::dead_code_elimination",
)

#: Dimensions that Core ML takes at most.
MAX_RANK = 5


@dataclass(frozen=True)
class Feature:
    """An input or output of a package: what the program calls it, its name there, its shape and element type there."""

    name: str
    feature: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Interface:
    """A package's inputs and outputs, in the program's order."""

    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]


def interface_of(program: Program) -> Interface:
    """Names are made fit for Core ML (letters, digits, underscores), scalars have one dimension of 1 there."""
    taken: set[str] = set()
    inputs = tuple(_feature(name, node, taken) for name, node in zip(program.input_names, program.inputs, strict=True))
    outputs = tuple(
        _feature(name, node, taken) for name, node in zip(program.output_names, program.outputs, strict=True)
    )
    return Interface(inputs, outputs)


def _feature(name: str, node: fx.Node, taken: set[str]) -> Feature:
    fit = re.sub(r"\W", "_", name, flags=re.ASCII)
    fit = fit if re.match(r"[A-Za-z_]", fit) else f"_{fit}"
    feature = fit
    while feature in taken:
        feature = f"{fit}_{len(taken)}"
    taken.add(feature)
    value = ir.val(node)
    return Feature(name, feature, tuple(int(d) for d in value.shape) or (1,), mil_type(value.dtype))


def check_program(program: Program) -> None:
    """Raises ModelError for what no package can hold: loops, too many dimensions, ops without a form."""
    fixed = constants(program.graph)
    for node in program.graph.nodes:
        if ir.is_loop(node):
            raise ModelError(f"{node.name} is a sliced loop, which Core ML has none of: unroll-loops comes before")
        if node.op == "output" or node in fixed:
            continue
        if ir.val(node).dim() > MAX_RANK:
            raise ModelError(
                f"{node.name} has {ir.val(node).dim()} dimensions and Core ML takes {MAX_RANK}: "
                "legalize-coreml comes before"
            )
        if node.op == "call_function" and node.target not in EMITTERS:
            raise ModelError(f"{node.name} ({node.target}) has no Core ML form")


def build_package(program: Program, form: Form = FORMS["fp16"]) -> Any:
    """The part as a coremltools MLModel for iOS 18. Raises ModelError for what Core ML cannot say."""
    require_coreml()
    import coremltools as ct

    check_program(program)
    function = _function(program, interface_of(program))
    from coremltools.converters.mil.mil import Program as MilProgram

    built = MilProgram()
    built.add_function("main", function)
    compression = passes_for(form)
    pipeline = ct.PassPipeline(pass_names=[*PASSES, *compression], pipeline_name="vgcomp")
    for name, config in compression.items():
        pipeline.set_options(name, {"config": config})
    return ct.convert(
        built,
        pass_pipeline=pipeline,
        source="milinternal",
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        # The program says where fp16 is: no pass shall cast.
        compute_precision=ct.precision.FLOAT32,
        compute_units=ct.ComputeUnit.CPU_AND_NE,
        skip_model_load=True,
    )


def _function(program: Program, interface: Interface) -> Any:
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import Function, types

    specs = {
        item.feature: mb.placeholder(shape=item.shape, dtype=types.string_to_builtin(item.dtype))
        for item in interface.inputs
    }
    with Function(specs, opset_version=ct.target.iOS18) as function:
        scope = Scope(program)
        for item, node in zip(interface.inputs, program.inputs, strict=True):
            scope.vars[node] = scope.reshape(function.inputs[item.feature], tuple(ir.val(node).shape))
        for node in program.graph.nodes:
            if node.op == "call_function" and not scope.is_constant(node):
                scope.vars[node] = _emit(scope, node)
        outputs = _outputs(scope, interface.outputs, program.outputs)
        function.set_outputs(outputs)
    _rename_apart(function, outputs, interface)
    return function


def _rename_apart(function: Any, outputs: Sequence[Any], interface: Interface) -> None:
    """The builder numbers its ops, ``add_15``, whatever the inputs and outputs are called: such values get a name."""
    taken = {item.feature for item in (*interface.inputs, *interface.outputs)}
    own = {id(var) for var in (*outputs, *function.inputs.values())}
    for op in function.operations:
        for var in op.outputs:
            if var.name in taken and id(var) not in own:
                var.name = f"inner_{var.name}"


def _emit(scope: Scope, node: fx.Node) -> Any:
    call = Call(scope, node)
    made = EMITTERS[node.target](call)
    if tuple(map(int, made.shape)) != call.shape:
        raise InternalError(f"{node.name} ({node.target}) became {tuple(made.shape)} instead of {call.shape}")
    return scope.cast(made, call.dtype)


def _outputs(scope: Scope, features: Sequence[Feature], nodes: Sequence[fx.Node]) -> list[Any]:
    """Each output as a variable of its own, under its name."""
    found = []
    for item, node in zip(features, nodes, strict=True):
        shaped = scope.reshape(scope.var(node), item.shape)
        found.append(scope.mb.identity(x=shaped, name=item.feature))
    return found


def dtype_of(kind: str) -> torch.dtype:
    """The torch dtype of a feature's element type."""
    return {"fp16": torch.float16, "fp32": torch.float32, "int32": torch.int32, "bool": torch.bool}[kind]
