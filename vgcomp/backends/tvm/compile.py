"""Compiles a lowered module to a shared library, in this process."""

from __future__ import annotations

from typing import Any

from vgcomp.backends.tvm.lower import Lowered
from vgcomp.backends.tvm.schedule import scheduled


def compile_module(lowered: Lowered, target: Any) -> Any:
    """An executable with the default schedules; ``target``: a ``tvm.target.Target``."""
    import tvm
    from tvm import relax

    functions = {
        var: scheduled(lowered.kernels[var.name_hint]) if var.name_hint in lowered.kernels else function
        for var, function in lowered.module.functions.items()
    }
    module = tvm.IRModule(functions)
    passes = tvm.transform.Sequential(
        [
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.ComputePrimValue(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ]
    )
    return relax.build(module, target, relax_pipeline=passes)


def host_target() -> tuple[Any, dict[str, str]]:
    """This machine's CPU as a target, and how it is written down."""
    import tvm

    described = {"kind": "llvm", "mcpu": str(tvm.target.codegen.llvm_get_system_cpu())}
    return tvm.target.Target(described), described
