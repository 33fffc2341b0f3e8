"""What an artifact is compiled for: a target's device kind, the code that it runs, and the tools that make it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vgcomp.backends.tvm.kernel import Device
from vgcomp.errors import Unavailable, UsageError
from vgcomp.targets import Target

#: What ``--arch all`` makes for CUDA: data centre and consumer devices of four generations.
CUDA_ALL = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_120")
#: 64-bit ARM under Linux: LLVM's name, and its C++ compiler in Debian's naming.
AARCH64, AARCH64_CXX = "aarch64-linux-gnu", "aarch64-linux-gnu-g++"
#: The oldest iOS that runs the code.
IOS = "arm64-apple-ios17.0"

Kind = Literal["cpu", "cuda", "ios"]


@dataclass(frozen=True)
class Platform:
    """``arch``: the CUDA architectures or LLVM's name of the CPU; none: this machine's. ``triple``: None: this one."""

    kind: Kind = "cpu"
    arch: tuple[str, ...] = ()
    triple: str | None = None

    @property
    def device(self) -> Device:
        """What kernels are written for."""
        kernels: dict[Kind, Device] = {"cpu": "cpu", "cuda": "cuda", "ios": "metal"}
        return kernels[self.kind]

    @property
    def library(self) -> str:
        """The library's name in an artifact."""
        return "libmodel.a" if self.kind == "ios" else "model.so"

    @property
    def needs(self) -> tuple[str, ...]:
        """What must be present to load the artifact."""
        if self.kind == "ios":
            return (self.triple or IOS, "Metal", "TVM's runtime linked into the app")
        cpu = "Linux on aarch64" if self.triple == AARCH64 else "a CPU such as that of the machine that compiled it"
        host = (cpu, "apache-tvm")
        if self.kind == "cpu":
            return host
        return (*host, "an NVIDIA driver for CUDA 13 and libcudart.so.13", f"a device of {' or '.join(self.arch)}")


#: This machine's CPU.
HERE = Platform()


def platform_of(target: Target, arch: str | None = None) -> Platform:
    """What a target's artifacts are compiled for; ``arch`` is the command line's choice.

    Raises UsageError for an architecture that the device kind does not have, or a target that names none.
    """
    if target.kind == "cpu":
        return _cpu(target, arch)
    if target.kind == "ane":
        if arch is not None:
            raise UsageError(f"--arch is for CUDA devices and CPUs; {target.name} has its own")
        return Platform("ios", (_named(target),), IOS)
    if arch == "all":
        return Platform("cuda", CUDA_ALL)
    chosen = tuple(dict.fromkeys((arch or _named(target)).split(",")))
    wrong = next((name for name in chosen if not (name.startswith("sm_") and name[3:].isdigit())), None)
    if wrong is not None:
        raise UsageError(f"--arch {wrong!r} is no CUDA architecture: give names such as sm_80,sm_90, or all")
    return Platform("cuda", chosen)


def _cpu(target: Target, arch: str | None) -> Platform:
    wanted = arch or target.arch
    if wanted is None:
        return HERE
    if wanted == "aarch64":
        return Platform("cpu", (), AARCH64)
    raise UsageError(f"--arch {wanted!r} is no architecture of {target.name}: give aarch64, or none for this machine's")


def _named(target: Target) -> str:
    if target.arch is None:
        raise UsageError(f'target {target.name} does not name its code: add arch = "sm_80", or the like, to its file')
    return target.arch


def require_tools(platform: Platform) -> None:
    """Raises Unavailable, naming what to install, where a compiler that the platform needs is missing."""
    if platform.kind == "cuda":
        nvcc()
    if platform.kind == "ios":
        llvm_ar()
    if platform.triple == AARCH64 and shutil.which(AARCH64_CXX) is None:
        raise Unavailable(
            f"code for aarch64 needs {AARCH64_CXX}, which is not installed: apt install g++-aarch64-linux-gnu"
        )


def nvcc() -> Path:
    """CUDA's compiler: on PATH, or where CUDA_HOME or the toolkit's own place has it."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = shutil.which("nvcc") or shutil.which("nvcc", path=str(Path(home) / "bin"))
    if found is None:
        raise Unavailable("code for CUDA devices needs nvcc, which is not installed: install the CUDA toolkit 13")
    return Path(found)


def llvm_ar() -> str:
    """LLVM's archiver, which writes archives as Apple's linker reads them."""
    for name in ("llvm-ar", *(f"llvm-ar-{n}" for n in range(25, 12, -1))):
        if shutil.which(name) is not None:
            return name
    raise Unavailable("a library for iOS needs llvm-ar, which is not installed: apt install llvm")
