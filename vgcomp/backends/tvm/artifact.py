"""The artifact: a folder with the library, the weights and a manifest that says all that is needed to run them.

model.so  weights.safetensors  manifest.json

For iOS the library is ``libmodel.a``, with ``kernels.metal`` and ``INTEGRATION.md`` beside it.
"""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

import vgcomp
from vgcomp import ir
from vgcomp.backends.tvm.build import TIME_LIMIT_S, Library, build_library
from vgcomp.backends.tvm.platform import HERE, Platform
from vgcomp.errors import ModelError
from vgcomp.files import staged_directory
from vgcomp.program import Program

WEIGHTS, MANIFEST = "weights.safetensors", "manifest.json"
SCHEMA: Literal["vgcomp.artifact/1"] = "vgcomp.artifact/1"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class TensorSpec(_Record):
    """An input or an output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Predicted(_Record):
    """What the optimizer said of the program; times are in seconds."""

    peak_bytes: int | None = None
    peak_activation_bytes: int
    latency_s: float | None = None


class Planned(_Record):
    """What the module allocates: one arena, outputs included; ``total_bytes``: with the caller's inputs."""

    arena_bytes: int
    total_bytes: int


class Device(_Record):
    """What runs the artifact: the kind of device, its architectures, and what must be present to load the library."""

    kind: Literal["cpu", "cuda", "ios"]
    arch: tuple[str, ...]
    triple: str | None
    needs: tuple[str, ...]


class Manifest(_Record):
    """``weights``: the order of the library's arguments after the inputs. ``files``: SHA-256 by name."""

    schema_: Literal["vgcomp.artifact/1"] = Field(default=SCHEMA, alias="schema")
    model: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[str, ...]
    device: Device
    library: str
    target: dict[str, str]
    budget_bytes: int | None = None
    predicted: Predicted
    planned: Planned
    #: How many of the kernels have a schedule that was measured to be good.
    tuned_kernels: int = 0
    kernels: int
    versions: dict[str, str]
    files: dict[str, str]

    def to_json(self) -> str:
        """As JSON text, ending in a newline."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def write_artifact(
    program: Program,
    folder: Path,
    *,
    predicted: Predicted,
    platform: Platform = HERE,
    budget_bytes: int | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    tuned: bool = True,
) -> Manifest:
    """Compiles ``program`` and writes the artifact, whole or not at all; ``tuned``: with tuned schedules if it can.

    Raises ModelError where weights are absent, Unavailable where TVM is, or fails; UsageError if ``folder`` is a file.
    """
    require_weights(program)
    with staged_directory(folder) as staged:
        library = build_library(program, staged, platform, time_limit_s=time_limit_s, tuned=tuned)
        _write_weights({name: program.weights[name].load() for name in library.weights}, staged / WEIGHTS)
        inputs = zip(program.input_names, program.inputs, strict=True)
        outputs = zip(program.output_names, program.outputs, strict=True)
        manifest = Manifest(
            model=program.name,
            inputs=tuple(_spec(name, ir.val(n)) for name, n in inputs),
            outputs=tuple(_spec(name, ir.val(n)) for name, n in outputs),
            weights=library.weights,
            device=Device(
                kind=platform.kind,
                arch=platform.arch or (library.target["mcpu"],),
                triple=platform.triple,
                needs=platform.needs,
            ),
            library=platform.library,
            target=library.target,
            budget_bytes=budget_bytes,
            predicted=predicted,
            planned=Planned(arena_bytes=library.arena_bytes, total_bytes=library.planned_bytes),
            kernels=library.kernels,
            tuned_kernels=library.tuned_kernels,
            versions=_versions(),
            files={name: file_hash(staged / name) for name in (*library.files, WEIGHTS)},
        )
        (staged / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def require_weights(program: Program) -> None:
    """Raises ModelError where a weight has no data."""
    missing = next((name for name, weight in program.weights.items() if not weight.present), None)
    if missing is not None:
        raise ModelError(
            f"weight {missing!r} has no data, and an artifact needs all: give a model with its weights, "
            "or --set weights=random for a network built by name"
        )


def read_manifest(folder: Path) -> Manifest:
    """Raises ModelError for a folder that is no artifact, or that was damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ModelError(f"{folder} holds no {MANIFEST}: it is not an artifact of `vgcomp optimize --emit tvm`")
    try:
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is damaged or of another version; write the artifact again") from error
    for name, wanted in manifest.files.items():
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name} is missing; copy the whole artifact")
        if file_hash(folder / name) != wanted:
            raise ModelError(f"{folder / name} is not the file that was written: it is damaged; copy it again")
    return manifest


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _spec(name: str, value: Tensor) -> TensorSpec:
    return TensorSpec(name=name, shape=tuple(value.shape), dtype=str(value.dtype).removeprefix("torch."))


def _versions() -> dict[str, str]:
    packages = ("apache-tvm", "apache-tvm-ffi", "torch")
    return {
        "vgcomp": vgcomp.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def _write_weights(tensors: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    seen: set[int] = set()
    alone: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        # The format refuses tensors that share memory.
        pointer = tensor.untyped_storage().data_ptr()
        alone[name] = tensor.clone() if pointer in seen else tensor.contiguous()
        seen.add(pointer)
    save_file(alone, path)


def dtype_of(spec: TensorSpec) -> torch.dtype:
    """The torch dtype of a spec."""
    found = getattr(torch, spec.dtype, None)
    if not isinstance(found, torch.dtype):
        raise ModelError(f"{spec.name}: {spec.dtype!r} is no element type; write the artifact again")
    return found


__all__ = ["Library", "Manifest", "Predicted", "TensorSpec", "read_manifest", "write_artifact"]
