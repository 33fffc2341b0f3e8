"""The artifact: a folder with a package a part and a manifest that says how they are chained.

part1.mlpackage  part2.mlpackage  …  manifest.json

A host loads the parts in order and hands each one the values it names, the caller's inputs and what earlier parts put
out. Scalars have one dimension of 1 in the packages, int64 is int32, floating values are fp16 unless they say fp32.
"""

from __future__ import annotations

import contextlib
import io
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import fx

import vgcomp
from vgcomp.backends.coreml.build import Feature, build_package, interface_of
from vgcomp.backends.coreml.compress import Form, Weights
from vgcomp.backends.coreml.package import BLOB, MODEL
from vgcomp.backends.coreml.predict import PartPrediction, predict_parts
from vgcomp.backends.coreml.require import require_coreml
from vgcomp.backends.tvm.artifact import TensorSpec, file_hash, require_weights
from vgcomp.cost_models.base import CostModel
from vgcomp.errors import ModelError
from vgcomp.files import staged_directory
from vgcomp.passes.fold_timestep import DOMAIN
from vgcomp.program import Program
from vgcomp.targets import Target

MANIFEST = "manifest.json"
SCHEMA: Literal["vgcomp.coreml/1"] = "vgcomp.coreml/1"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class FeatureSpec(_Record):
    """A value that a part takes or gives: its name across parts, and its name in the package."""

    value: str
    feature: str
    shape: tuple[int, ...]
    dtype: str


class PartSpec(_Record):
    """One package. ``load_bytes``: of its weights as stored; ``file_bytes``: of the whole package."""

    package: str
    inputs: tuple[FeatureSpec, ...]
    outputs: tuple[FeatureSpec, ...]
    load_bytes: int
    file_bytes: int
    peak_bytes: int
    peak_activation_bytes: int
    latency_s: float
    cpu_ops: dict[str, int]


class Predicted(_Record):
    """``peak_bytes``: one part loaded at a time; ``resident_bytes``: all of them. Seconds of one run."""

    peak_bytes: int
    resident_bytes: int
    peak_activation_bytes: int
    latency_s: float


class PlanStep(_Record):
    """A pass, and what it did."""

    name: str
    equivalence: str
    changed: bool
    stats: dict[str, int | float | str]


class Manifest(_Record):
    """``domains``: the values that an input may have, where a schedule was folded. ``files``: SHA-256 by name."""

    schema_: Literal["vgcomp.coreml/1"] = Field(default=SCHEMA, alias="schema")
    model: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    domains: dict[str, tuple[float, ...]]
    target: dict[str, str]
    weights: Weights
    budget_bytes: int | None = None
    predicted: Predicted
    plan: tuple[PlanStep, ...]
    parts: tuple[PartSpec, ...]
    versions: dict[str, str]
    files: dict[str, str]

    def to_json(self) -> str:
        """As JSON text, ending in a newline."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


@dataclass(frozen=True)
class Job:
    """What an artifact is made of and for."""

    program: Program
    target: Target
    cost_model: CostModel
    form: Form
    budget_bytes: int | None = None


def write_artifact(job: Job, folder: Path) -> Manifest:
    """Builds every part and writes the artifact, whole or not at all.

    Raises ModelError where weights are absent or an op has no Core ML form, Unavailable without coremltools, UsageError
    if ``folder`` is a file.
    """
    require_weights(job.program)
    require_coreml()
    parts = predict_parts(job.program, job.target, job.cost_model, job.form.bits)
    with staged_directory(folder) as staged:
        specs = [_write_part(part, job, staged, k) for k, part in enumerate(parts, start=1)]
        manifest = _manifest(job, parts, specs, _hashes(staged))
        (staged / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Raises ModelError for a folder that is no Core ML artifact, or that was damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ModelError(f"{folder} holds no {MANIFEST}: it is not an artifact of `vgcomp optimize --emit coreml`")
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


def is_artifact(folder: Path) -> bool:
    """True where the folder's manifest is one of these, whatever its state."""
    path = folder / MANIFEST
    return path.is_file() and SCHEMA.encode() in path.read_bytes()


def _write_part(part: PartPrediction, job: Job, staged: Path, number: int) -> PartSpec:
    name = f"part{number}.mlpackage"
    # It draws progress bars.
    with contextlib.redirect_stderr(io.StringIO()):
        build_package(part.program, job.form).save(str(staged / name))
    blob = staged / name / MODEL.parent / BLOB
    load = blob.stat().st_size if blob.is_file() else 0
    interface = interface_of(part.program)
    return PartSpec(
        package=name,
        inputs=tuple(map(_feature, interface.inputs)),
        outputs=tuple(map(_feature, interface.outputs)),
        load_bytes=load,
        file_bytes=sum(file.stat().st_size for file in (staged / name).rglob("*") if file.is_file()),
        peak_bytes=load + part.activation_bytes,
        peak_activation_bytes=part.activation_bytes,
        latency_s=part.latency_s,
        cpu_ops=part.cpu_ops,
    )


def _manifest(job: Job, parts: Sequence[PartPrediction], specs: Sequence[PartSpec], files: dict[str, str]) -> Manifest:
    program = job.program
    interface = interface_of(program)
    activations = max(spec.peak_activation_bytes for spec in specs)
    predicted = Predicted(
        peak_bytes=max(spec.peak_bytes for spec in specs),
        resident_bytes=sum(spec.load_bytes for spec in specs) + activations,
        peak_activation_bytes=activations,
        latency_s=sum(spec.latency_s for spec in specs),
    )
    return Manifest(
        model=program.name,
        inputs=tuple(map(_tensor, interface.inputs)),
        outputs=tuple(map(_tensor, interface.outputs)),
        domains={str(node.target): _domain(node) for node in program.inputs if DOMAIN in node.meta},
        target={"device": job.target.name, "platform": "iOS 18", "compute_units": "cpuAndNeuralEngine"},
        weights=job.form.name,
        budget_bytes=job.budget_bytes,
        predicted=predicted,
        plan=tuple(
            PlanStep(name=r.name, equivalence=r.equivalence, changed=r.changed, stats=dict(r.stats))
            for r in program.history
        ),
        parts=tuple(specs),
        versions=_versions(),
        files=files,
    )


def _domain(node: fx.Node) -> tuple[float, ...]:
    return tuple(float(value) for value in node.meta[DOMAIN])


def _feature(item: Feature) -> FeatureSpec:
    return FeatureSpec(value=item.name, feature=item.feature, shape=item.shape, dtype=_dtype_name(item.dtype))


def _tensor(item: Feature) -> TensorSpec:
    return TensorSpec(name=item.name, shape=item.shape, dtype=_dtype_name(item.dtype))


def _dtype_name(kind: str) -> str:
    """As torch and NumPy call it."""
    return {"fp16": "float16", "fp32": "float32"}.get(kind, kind)


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file_hash(file) for file in files}


def _versions() -> dict[str, str]:
    packages = ("coremltools", "torch")
    return {
        "vgcomp": vgcomp.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }
