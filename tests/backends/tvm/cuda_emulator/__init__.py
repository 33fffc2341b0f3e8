"""CUDA kernels on a CPU, for tests: TVM's own CUDA runtime over a driver that runs the generated source itself."""

from __future__ import annotations

import ctypes
import functools
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
FLAGS = ("-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-mf16c", "-mavx2", "-mfma", "-ffp-contract=off")


@functools.cache
def load() -> None:
    """Makes ``tvm.cuda()`` an emulated device of this process. Skips the test where there is no C++ compiler."""
    if shutil.which("g++") is None:
        pytest.skip("the CUDA emulator needs g++")
    import tvm
    import tvm_ffi

    if tvm.cuda().exist:
        pytest.skip("this process has a CUDA device of its own")
    folder = Path(tempfile.mkdtemp(prefix="vgcomp-emulator-"))
    (folder / "versions").write_text("libcudart.so.13 { global: *; };\n", encoding="utf-8")
    runtime = ("-DRUNTIME", f"-Wl,--version-script={folder / 'versions'}")
    for name, flags in (("libcudart.so.13", runtime), ("libcuda.so.1", ())):
        _compile(FOLDER / "driver.cpp", folder / name, *flags, f"-Wl,-soname,{name}", "-ldl")
        ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"), ctypes.RTLD_GLOBAL)
    tvm_ffi.register_global_func("tvm_callback_cuda_compile", _emulated, override=True)
    shutil.rmtree(folder)


def _compile(source: Path, to: Path, *flags: str) -> None:
    subprocess.run(["g++", *FLAGS, str(source), "-o", str(to), *flags], check=True)


def _emulated(code: str) -> bytes:
    """The code object of a generated source, in the driver's own form."""
    begin = code.index('extern "C" __global__')
    body = code[begin:].replace("__shared__ alignas(64)", "alignas(64) static").replace("__shared__", "static")
    names = sorted(set(re.findall(r"__launch_bounds__\(\d+\) (\w+)\(", body)))
    text = "\n".join(['#include "emulated_cuda.h"', body, *(f"EMULATED({name})" for name in names), ""])
    with tempfile.TemporaryDirectory() as name:
        source, library = Path(name) / "kernels.cpp", Path(name) / "kernels.so"
        source.write_text(text, encoding="utf-8")
        _compile(source, library, f"-I{FOLDER}")
        found = library.read_bytes()
    return b"EMULATED" + struct.pack("<Q", len(found)) + found
