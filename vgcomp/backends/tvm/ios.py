"""A static library for iOS, made without Xcode: ARM objects with the kernels' Metal source in them.

libmodel.a  kernels.metal  INTEGRATION.md
"""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from vgcomp.backends.tvm.compile import compile_module
from vgcomp.backends.tvm.lower import Lowered
from vgcomp.backends.tvm.platform import Platform, llvm_ar
from vgcomp.errors import InternalError

#: What the library's functions are called by in an app; keeps two networks apart.
PREFIX = "vgcomp_model_"

_INTEGRATION = """\
# Using this network in an iOS app

- `{library}`: the network for {triple} ({cpu}). It registers itself when the app starts, under the prefix `{prefix}`.
- `kernels.metal`: the source of its GPU kernels, for reading. The library holds the same source, which Metal compiles
  when the network is first run.
- `weights.safetensors`, `manifest.json`: bundle both as resources. The manifest gives the inputs, the outputs and the
  order of the weights.

1. Build TVM's runtime for iOS (version {tvm}, with Metal) and add `libtvm_runtime` and `libtvm_ffi` to the target, with
   `Metal.framework` and `Foundation.framework`.
2. Add `{library}` to *Link Binary With Libraries* and `-force_load $(SRCROOT)/{library}` to *Other Linker Flags*:
   nothing refers to the library's symbols, and the linker would drop them.
3. In the app: `ffi.SystemLib` with `{prefix}` gives the module; `vm_load_executable`, then `vm_initialization` with the
   devices Metal and CPU; `main` takes the inputs, then the weights in the manifest's order, as tensors on the Metal
   device, and gives a tuple of outputs. They lie in an arena of {arena} bytes, which is all that a run allocates.
4. An app that needs more than about 3 GB asks for `com.apple.developer.kernel.increased-memory-limit`.
"""


def compile_ios(lowered: Lowered, platform: Platform, folder: Path) -> dict[str, str]:
    """Writes the library, the kernels' source and a note for the app's author; how the target is written down."""
    import tvm

    (cpu,) = platform.arch
    described = {"kind": "metal", "mtriple": str(platform.triple), "mcpu": cpu}
    host = tvm.target.Target({"kind": "llvm", "mtriple": platform.triple, "mcpu": cpu})
    # A block's shared memory and threads, as every Apple GPU since the A11 has them.
    metal = tvm.target.Target({"kind": "metal", "max_threads_per_block": 1024, "thread_warp_size": 32}, host=host)
    executable = compile_module(lowered, metal, system_lib=PREFIX)
    (folder / "kernels.metal").write_text(metal_source(executable.mod), encoding="utf-8")
    _archive(executable, folder / platform.library)
    text = _INTEGRATION.format(
        library=platform.library,
        triple=platform.triple,
        cpu=cpu,
        prefix=PREFIX,
        tvm=tvm.__version__,
        arena=lowered.plan.main.size,
    )
    (folder / "INTEGRATION.md").write_text(text, encoding="utf-8")
    return described


def metal_source(module: Any) -> str:
    """The Metal source among a module's imports."""
    if module.kind == "metal":
        return str(module.inspect_source())
    found = [metal_source(entry) for entry in module.imports]
    return next((text for text in found if text), "")


def _archive(executable: Any, path: Path) -> None:
    """TVM's objects as a static library in the form that Apple's linker reads."""
    with tempfile.TemporaryDirectory(prefix="vgcomp-ios-") as name:
        folder = Path(name)
        executable.export_library(str(folder / "objects.tar"))
        with tarfile.open(folder / "objects.tar") as file:
            file.extractall(folder, filter="data")
        objects = sorted(str(entry) for entry in folder.glob("*.o"))
        if not objects:
            raise InternalError("TVM exported no objects")
        subprocess.run([llvm_ar(), "--format=darwin", "rcsD", str(path), *objects], check=True)
