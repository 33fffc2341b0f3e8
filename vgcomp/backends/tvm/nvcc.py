"""CUDA code objects in a library, made by nvcc, on a machine that needs no CUDA device.

TVM keeps CUDA source in a library unless its CUDA runtime is loaded, which then calls back for a code object. That
runtime wants the driver's library: where there is none, one without a single working function stands in for it, in the
compiler's process alone. Nothing of it gets into a library.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vgcomp.backends.tvm.platform import nvcc
from vgcomp.errors import Unavailable

#: What TVM's runtime asks of the driver.
_DRIVER = (
    "cuDeviceGetName",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuLaunchKernelEx",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuTensorMapEncodeTiled",
)
_CUDART = "libcudart.so.13"


def compile_with_nvcc(arch: Sequence[str]) -> None:
    """From now on this process compiles CUDA source for these architectures, each as machine code."""
    import tvm_ffi

    _load_runtime()

    def compiled(code: str) -> bytes:
        return _fat_binary(code, arch)

    tvm_ffi.register_global_func("tvm_callback_cuda_compile", compiled, override=True)


def _fat_binary(code: str, arch: Sequence[str]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="vgcomp-nvcc-") as name:
        source, made = Path(name) / "kernels.cu", Path(name) / "kernels.fatbin"
        source.write_text(code, encoding="utf-8")
        wanted = [f"-gencode=arch={entry.replace('sm_', 'compute_')},code={entry}" for entry in arch]
        command = [str(nvcc()), "--fatbin", "-O3", "-w", f"--threads={os.cpu_count() or 1}", *wanted]
        done = subprocess.run([*command, "-o", str(made), str(source)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise Unavailable(f"nvcc failed for {', '.join(arch)}: {lines[0] if lines else 'it does not say why'}")
        return made.read_bytes()


def _load_runtime() -> None:
    import tvm

    if tvm.get_global_func("ffi.Module.create.cuda", allow_missing=True) is not None:
        return
    _load_cudart()
    try:
        ctypes.CDLL("libcuda.so.1", ctypes.RTLD_GLOBAL)
    except OSError:
        _stand_in_for_driver()
    ctypes.CDLL(str(Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"), ctypes.RTLD_GLOBAL)


def _load_cudart() -> None:
    toolkit = nvcc().resolve().parent.parent
    for folder in ("", f"{toolkit}/lib64/", "/usr/local/cuda/lib64/"):
        try:
            ctypes.CDLL(f"{folder}{_CUDART}", ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return
    raise Unavailable(f"code for CUDA devices needs {_CUDART}, which was not found: install the CUDA toolkit 13")


def _stand_in_for_driver() -> None:
    """Loads a driver's library whose functions all fail."""
    with tempfile.TemporaryDirectory(prefix="vgcomp-driver-") as name:
        source, library = Path(name) / "driver.c", Path(name) / "libcuda.so.1"
        not_initialized = 3
        functions = "".join(f"int {function}(void) {{ return {not_initialized}; }}\n" for function in _DRIVER)
        source.write_text(functions, encoding="utf-8")
        flags = ["-x", "c", "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
        subprocess.run(["g++", *flags, str(source), "-o", str(library)], check=True)
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
