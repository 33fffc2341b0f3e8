"""Artifacts for other devices than this machine's CPU: what is in them, and what they say where they cannot run."""

from __future__ import annotations

import importlib.util
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.backends.tvm import cuda_emulator, support
from tests.backends.tvm.test_ops import AllCases
from tests.graph_builder import Builder
from vgcomp.backends.tvm import build as build_module
from vgcomp.backends.tvm import platform as platform_module
from vgcomp.backends.tvm.artifact import Manifest, Predicted, write_artifact
from vgcomp.backends.tvm.build import check_target
from vgcomp.backends.tvm.compile import compile_module, target_of
from vgcomp.backends.tvm.ios import metal_source
from vgcomp.backends.tvm.lower import lower
from vgcomp.backends.tvm.platform import AARCH64, AARCH64_CXX, CUDA_ALL, Platform, platform_of
from vgcomp.backends.tvm.runtime import Artifact
from vgcomp.capture import capture
from vgcomp.cli.main import main
from vgcomp.errors import Unavailable, UsageError
from vgcomp.program import Program
from vgcomp.targets import load_target

#: What kernels may call of Metal: mathematics, threads, and the language's own words.
MATHS = {
    "max",
    "min",
    "exp",
    "log",
    "sqrt",
    "fabs",
    "abs",
    "floor",
    "ceil",
    "rint",
    "sin",
    "cos",
    "tanh",
    "pow",
    "select",
    "fma",
    "clamp",
}
THREADS = {"buffer", "threadgroup_barrier", "simd_shuffle", "simd_shuffle_down"}
WORDS = {"if", "for", "while", "return", "bool", "char", "short", "int", "uint", "long", "half", "float"}


def _network() -> tuple[nn.Module, Program, torch.Tensor]:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.GELU(), nn.Conv2d(8, 5, 1)]
    module = nn.Sequential(*layers).eval()
    x = torch.randn(2, 3, 8, 8)
    return module, capture(module, (x,), name="tiny"), x


def _written(folder: Path, target: str, arch: str | None = None) -> Manifest:
    platform = check_target(load_target(target), arch)
    return write_artifact(_network()[1], folder, predicted=Predicted(peak_activation_bytes=0), platform=platform)


def _refused(folder: Path, tmp_path: Path) -> str:
    """The line with which `vgcomp run` refuses an artifact, in a process without devices."""
    np.savez(tmp_path / "x.npz", **{_network()[1].input_names[0]: np.zeros((2, 3, 8, 8), np.float32)})
    files = ["--input", str(tmp_path / "x.npz"), "--output", str(tmp_path / "y.npz")]
    command = [sys.executable, "-m", "vgcomp", "run", str(folder), *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("target", "arch", "wanted"),
    [
        ("cpu", None, Platform()),
        ("cpu", "aarch64", Platform("cpu", (), AARCH64)),
        ("a100", None, Platform("cuda", ("sm_80",))),
        ("rtx3060", None, Platform("cuda", ("sm_86",))),
        ("rtx4090", None, Platform("cuda", ("sm_89",))),
        ("h200", None, Platform("cuda", ("sm_90",))),
        ("rtx5090", None, Platform("cuda", ("sm_120",))),
        ("rtx5090", "sm_80,sm_90", Platform("cuda", ("sm_80", "sm_90"))),
        ("a100", "all", Platform("cuda", CUDA_ALL)),
        ("a18", None, Platform("ios", ("apple-a18",), "arm64-apple-ios17.0")),
    ],
)
def test_targets_name_their_code(target: str, arch: str | None, wanted: Platform) -> None:
    assert platform_of(load_target(target), arch) == wanted


@pytest.mark.parametrize(
    ("target", "arch"), [("a100", "80"), ("a100", "sm_80,"), ("cpu", "sm_80"), ("a18", "apple-a17")]
)
def test_code_that_a_target_does_not_run(target: str, arch: str) -> None:
    with pytest.raises(UsageError, match="--arch"):
        platform_of(load_target(target), arch)


def test_a_cuda_target_without_an_architecture() -> None:
    with pytest.raises(UsageError, match='arch = "sm_80"'):
        platform_of(load_target("a100").model_copy(update={"arch": None}))


@pytest.mark.parametrize(
    ("options", "tool"),
    [(["--target", "a100"], "CUDA toolkit"), (["--target", "a18"], "llvm"), (["--arch", "aarch64"], "g++-aarch64")],
)
def test_a_missing_compiler_is_one_line(
    options: list[str], tool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(platform_module.shutil, "which", lambda *_, **__: None)
    target = [] if "--target" in options else ["--target", "cpu"]
    assert main(["optimize", "wan-1.3b-small", *target, *options, "--emit", "tvm", "-o", "out"]) == 5
    (line,) = capsys.readouterr().err.splitlines()
    assert "not installed" in line and tool in line


def test_an_architecture_needs_a_compiled_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["optimize", "wan-1.3b-small", "--arch", "sm_80", "--dry-run"]) == 2
    assert "--emit tvm" in capsys.readouterr().err


# -- CUDA


def _code_objects(library: Path) -> list[str]:
    """The architectures of the machine code in a library's section for it, and "ptx" for every text among them."""
    told = subprocess.run(["readelf", "-SW", str(library)], capture_output=True, text=True, check=True).stdout
    place = re.search(r"\.nv_fatbin\s+PROGBITS\s+\w+\s+(\w+)\s+(\w+)", told)
    assert place is not None, told
    offset, size = (int(number, 16) for number in place.groups())
    content, found = library.read_bytes()[offset : offset + size], []
    _, _, at, payload = struct.unpack_from("<IHHQ", content)
    assert at + payload == size
    while at < size:
        kind, _, own, payload = struct.unpack_from("<HHIQ", content, at)
        (arch,) = struct.unpack_from("<I", content, at + 28)
        found.append(f"sm_{arch}" if kind == 2 else "ptx")
        at += own + payload
    return found


def _cuobjdump() -> str | None:
    """NVIDIA's own lister: from the CUDA toolkit, or as Triton brings it (PyTorch for GPUs installs that)."""
    triton = importlib.util.find_spec("triton")
    brought = Path(triton.origin).parent / "backends" / "nvidia" / "bin" if triton and triton.origin else None
    return shutil.which("cuobjdump") or (shutil.which("cuobjdump", path=str(brought)) if brought else None)


def _listed(cuobjdump: str, library: Path) -> list[str]:
    """The architectures of the machine code, by NVIDIA's own lister."""
    told = subprocess.run([cuobjdump, "--list-elf", str(library)], capture_output=True, text=True, check=True).stdout
    return re.findall(r"\.(sm_\d+)\.cubin", told)


needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


@needs_nvcc
@pytest.mark.parametrize(
    ("target", "arch", "wanted"),
    [("a100", None, ["sm_80"]), ("rtx4090", None, ["sm_89"]), ("a100", "all", list(CUDA_ALL))],
    ids=["a100", "rtx4090", "all"],
)
def test_a_cuda_library_holds_the_code_asked_for(
    target: str, arch: str | None, wanted: list[str], tmp_path: Path
) -> None:
    manifest = _written(tmp_path / "out", target, arch)
    library = tmp_path / "out" / manifest.library
    assert _code_objects(library) == wanted
    cuobjdump = _cuobjdump()
    if cuobjdump is not None:
        assert _listed(cuobjdump, library) == wanted
    assert b"__global__" not in library.read_bytes()
    assert (manifest.device.kind, list(manifest.device.arch)) == ("cuda", wanted)
    assert any("driver" in need for need in manifest.device.needs)
    needed = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True).stdout
    assert "libcuda" not in needed
    assert "this machine has none" in _refused(tmp_path / "out", tmp_path)


#: The worker with the emulator's compiler in the place of nvcc.
_EMULATED_WORKER = """
import sys
from pathlib import Path
from tests.backends.tvm import cuda_emulator
from vgcomp.backends.tvm import nvcc, worker
nvcc.compile_with_nvcc = lambda arch: cuda_emulator.load()
worker.main(Path(sys.argv[1]))
"""


@pytest.fixture
def emulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    cuda_emulator.load()
    monkeypatch.setattr(build_module, "WORKER", ("-c", _EMULATED_WORKER))
    monkeypatch.setattr(build_module, "require_tools", lambda platform: None)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    return tmp_path / "out"


def test_an_artifact_runs_on_a_cuda_device(emulated: Path) -> None:
    module, program, x = _network()
    predicted = Predicted(peak_activation_bytes=0)
    write_artifact(program, emulated, predicted=predicted, platform=Platform("cuda", ("sm_80",)))
    found = Artifact(emulated).run({program.input_names[0]: x})
    with torch.no_grad():
        torch.testing.assert_close(found[program.output_names[0]], module(x), rtol=1e-4, atol=1e-5)


def test_an_artifact_for_another_generation_is_refused(emulated: Path) -> None:
    program = _network()[1]
    predicted = Predicted(peak_activation_bytes=0)
    write_artifact(program, emulated, predicted=predicted, platform=Platform("cuda", ("sm_86", "sm_90")))
    with pytest.raises(Unavailable, match=r"compute capability 8\.0"):
        Artifact(emulated)


# -- ARM


needs_aarch64 = pytest.mark.skipif(shutil.which(AARCH64_CXX) is None, reason=f"{AARCH64_CXX} is not installed")


@needs_aarch64
def test_a_library_for_aarch64(tmp_path: Path) -> None:
    manifest = _written(tmp_path / "out", "cpu", "aarch64")
    content = (tmp_path / "out" / manifest.library).read_bytes()
    assert content[:4] == b"\x7fELF"
    elf_64, shared_object, aarch64 = 2, 3, 183
    assert content[4] == elf_64
    assert struct.unpack_from("<HH", content, 16) == (shared_object, aarch64)
    assert manifest.device.triple == AARCH64
    assert "compiled for aarch64-linux-gnu" in _refused(tmp_path / "out", tmp_path)


#: Calls one kernel of a library: a convolution of ones, whose every result is the same.
_CALLER = """
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
typedef struct { void* data; int32_t device, id; int32_t ndim; uint8_t code, bits; uint16_t lanes;
                 int64_t *shape, *strides; uint64_t offset; } Tensor;
typedef struct { int32_t type, zero; void* value; } Any;
typedef struct { void* sync; int32_t tasks; } Group;
void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int n) {
  for (int i = 0; i < n; ++i) fprintf(stderr, "%s", parts[i]);
}
static int launch(int (*task)(int, Group*, void*), void* data, int n) {
  Group group = {0, 1};
  return task(0, &group, data);
}
int main(int argc, char** argv) {
  void* library = dlopen(argv[1], RTLD_NOW);
  if (!library) return puts(dlerror()), 1;
  *(void**)dlsym(library, "__TVMBackendParallelLaunch") = launch;
  int (*kernel)(void*, Any*, int, Any*) = dlsym(library, "__tvm_ffi_convolution_0");
  static float x[3 * 16 * 16], w[8 * 3], y[8 * 16 * 16];
  for (int i = 0; i < 3 * 16 * 16; ++i) x[i] = 1;
  for (int i = 0; i < 8 * 3; ++i) w[i] = i / 3;
  int64_t shapes[3][3] = {{3, 16, 16}, {8, 3}, {8, 16, 16}};
  int dims[] = {3, 2, 3};
  float* data[] = {x, w, y};
  Tensor tensors[3];
  Any args[3], result;
  for (int i = 0; i < 3; ++i) {
    tensors[i] = (Tensor){data[i], 1, 0, dims[i], 2, 32, 1, shapes[i], 0, 0};
    args[i] = (Any){7, 0, &tensors[i]};
  }
  if (kernel(0, args, 3, &result)) return 1;
  for (int c = 0; c < 8; ++c) printf("%g ", y[c * 256 + 77]);
  return 0;
}
"""


@needs_aarch64
@pytest.mark.skipif(shutil.which("qemu-aarch64-static") is None, reason="qemu-aarch64-static is not installed")
def test_a_kernel_for_aarch64_computes(tmp_path: Path) -> None:
    b = Builder()
    x, w = b.input("x", (1, 3, 16, 16)), b.input("w", (8, 3, 1, 1))
    program = support.program_of(b.done(b.conv(x, w, (0, 0))))
    target = target_of(Platform("cpu", (), AARCH64))[0]
    compile_module(lower(program), target).export_library(str(tmp_path / "model.so"), cc=AARCH64_CXX)
    (tmp_path / "caller.c").write_text(_CALLER, encoding="utf-8")
    caller = [str(tmp_path / "caller.c"), "-o", str(tmp_path / "caller"), "-rdynamic", "-ldl"]
    subprocess.run([AARCH64_CXX.replace("g++", "gcc"), "-w", *caller], check=True)
    emulator = ["qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu"]
    command = [*emulator, str(tmp_path / "caller"), str(tmp_path / "model.so")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == [str(3 * c) for c in range(8)]


# -- iOS


def _members(archive: Path) -> dict[str, bytes]:
    """The members of an archive with BSD's long names."""
    content, at, found = archive.read_bytes(), 8, {}
    assert content[:8] == b"!<arch>\n"
    while at < len(content):
        name, size = content[at : at + 16].decode().strip(), int(content[at + 48 : at + 58])
        body = content[at + 60 : at + 60 + size]
        if name.startswith("#1/"):
            length = int(name[3:])
            name, body = body[:length].rstrip(b"\0").decode(), body[length:]
        found[name] = body
        at += 60 + size + size % 2
    return found


needs_archiver = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("llvm-ar", *(f"llvm-ar-{n}" for n in range(13, 26)))),
    reason="llvm-ar is not installed",
)


@needs_archiver
def test_a_library_for_ios(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    manifest = _written(folder, "a18")
    assert sorted(entry.name for entry in folder.iterdir()) == [
        "INTEGRATION.md",
        "kernels.metal",
        "libmodel.a",
        "manifest.json",
        "weights.safetensors",
    ]
    members = _members(folder / "libmodel.a")
    assert any(name.startswith("__.SYMDEF") for name in members)
    objects = [body for name, body in members.items() if name.endswith(".o")]
    magic, arm64, object_file = 0xFEEDFACF, 0x0100000C, 1
    assert objects
    for body in objects:
        found, cpu, _, kind = struct.unpack_from("<IIII", body)
        assert (found, cpu, kind) == (magic, arm64, object_file)
    assert manifest.device.kind == "ios" and "Metal" in manifest.device.needs
    note = (folder / "INTEGRATION.md").read_text(encoding="utf-8")
    assert "force_load" in note and str(manifest.planned.arena_bytes) in note
    source = (folder / "kernels.metal").read_text(encoding="utf-8")
    assert source.count("kernel void") >= manifest.kernels
    assert "link libmodel.a into an app" in _refused(folder, tmp_path)


def test_metal_kernels_call_what_metal_has(tmp_path: Path) -> None:
    """Nothing here compiles Metal, so at least every function called has to be one of its own."""
    import tvm

    cases = AllCases(torch.float16)
    lowered = lower(support.program_of(cases.graph, cases.names), "metal")
    module = compile_module(lowered, tvm.target.Target({"kind": "metal"}, host={"kind": "llvm"})).mod
    source = metal_source(module)
    called = set(re.findall(r"\b([a-z_]\w*)\(", source))
    assert {name for name in called - MATHS - THREADS - WORDS if not re.search(r"_kernel(_\d+)?$", name)} == set()
    assert not re.search(r"\bdouble\b", source)
