"""Compiles a lowered module, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vgcomp.backends.tvm.fat_binary import name_fat_binary
from vgcomp.backends.tvm.lower import Lowered
from vgcomp.backends.tvm.platform import AARCH64_CXX, Platform
from vgcomp.backends.tvm.schedule import scheduled
from vgcomp.backends.tvm.schedule_gpu import scheduled_gpu
from vgcomp.backends.tvm.tuned import Tuned


def compile_module(lowered: Lowered, target: Any, *, system_lib: str | None = None, tuned: Tuned | None = None) -> Any:
    """An executable with the schedules that ``tuned`` has, and default ones; ``target``: a ``tvm.target.Target``.

    ``system_lib``: the prefix under which its functions register themselves in a program that it is linked into.
    """
    import tvm
    from tvm import relax

    functions = {
        var: _scheduled(lowered, var.name_hint, tuned) if var.name_hint in lowered.kernels else function
        for var, function in lowered.module.functions.items()
    }
    module = tvm.IRModule(functions, attrs={} if system_lib is None else {"system_lib_prefix": system_lib})
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
        return relax.build(module, target, relax_pipeline=passes, system_lib=system_lib is not None)


def _scheduled(lowered: Lowered, name: str, tuned: Tuned | None) -> Any:
    built = lowered.kernels[name]
    known = tuned.scheduled(built) if tuned is not None else None
    if known is not None:
        return known
    return scheduled(built) if lowered.device == "cpu" else scheduled_gpu(built, lowered.device)


def host_target() -> tuple[Any, dict[str, str]]:
    """This machine's CPU as a target, and how it is written down."""
    import tvm

    described = {"kind": "llvm", "mcpu": str(tvm.target.codegen.llvm_get_system_cpu())}
    return tvm.target.Target(described), described


def compile_library(lowered: Lowered, platform: Platform, folder: Path, tuned: Tuned | None = None) -> dict[str, str]:
    """Writes the library, and what belongs to it, into ``folder``; how its target is written down."""
    if platform.kind == "ios":
        from vgcomp.backends.tvm.ios import compile_ios

        return compile_ios(lowered, platform, folder)
    if platform.kind == "cuda":
        from vgcomp.backends.tvm.nvcc import compile_with_nvcc

        compile_with_nvcc(platform.arch)
    target, described = target_of(platform)
    path = str(folder / platform.library)
    compiler = {} if platform.triple is None else {"cc": AARCH64_CXX}
    # LLVM describes every function for debuggers, which is a fifth of a library.
    compile_module(lowered, target, tuned=tuned).export_library(path, options=["-Wl,--strip-debug"], **compiler)
    if platform.kind == "cuda":
        name_fat_binary(Path(path))
    return described


def target_of(platform: Platform) -> tuple[Any, dict[str, str]]:
    """A platform as TVM's target, and how it is written down."""
    import tvm

    host, described = host_target()
    if platform.kind == "cuda":
        # Kernels are written for the oldest of the architectures; nvcc compiles them for each.
        arch = min(platform.arch, key=lambda name: int(name.removeprefix("sm_")))
        return tvm.target.Target({"kind": "cuda", "arch": arch}, host=host), {**described, "kind": "cuda", "arch": arch}
    if platform.triple is None:
        return host, described
    described = {"kind": "llvm", "mtriple": platform.triple, "mcpu": platform.arch[0] if platform.arch else "generic"}
    return tvm.target.Target(described), described
