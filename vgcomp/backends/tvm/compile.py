"""Compiles a lowered module, in this process."""

from __future__ import annotations

from typing import Any

from vgcomp.backends.tvm.lower import Lowered
from vgcomp.backends.tvm.schedule import scheduled
from vgcomp.backends.tvm.schedule_gpu import scheduled_gpu


def compile_module(lowered: Lowered, target: Any, *, system_lib: bool = False) -> Any:
    """An executable with the default schedules; ``target``: a ``tvm.target.Target``.

    ``system_lib``: to be linked into a program, in which its functions register themselves.
    """
    import tvm
    from tvm import relax

    schedule = scheduled if lowered.device == "cpu" else scheduled_gpu
    functions = {
        var: schedule(lowered.kernels[var.name_hint]) if var.name_hint in lowered.kernels else function
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
    # Device compilers unroll loops themselves.
    with target, tvm.transform.PassContext(config={"tirx.UnrollLoop": {"explicit_unroll": lowered.device == "cpu"}}):
        return relax.build(module, target, relax_pipeline=passes, system_lib=system_lib or None)


def host_target() -> tuple[Any, dict[str, str]]:
    """This machine's CPU as a target, and how it is written down."""
    import tvm

    described = {"kind": "llvm", "mcpu": str(tvm.target.codegen.llvm_get_system_cpu())}
    return tvm.target.Target(described), described
