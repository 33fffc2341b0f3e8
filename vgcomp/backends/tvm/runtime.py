"""Loads an artifact and runs it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vgcomp.backends.tvm.artifact import WEIGHTS, Manifest, TensorSpec, dtype_of, read_manifest
from vgcomp.backends.tvm.require import require_tvm
from vgcomp.errors import ModelError, Unavailable, UsageError


class Artifact:
    """An artifact, ready to run; its weights are mapped from the file.

    Raises ModelError for a folder that is damaged, Unavailable without TVM or where the library does not load.
    """

    def __init__(self, folder: Path) -> None:
        self.manifest = read_manifest(folder)
        require_tvm()
        import tvm
        from tvm import relax

        path = folder / self.manifest.library
        self._device = _device(folder, self.manifest)
        try:
            library = tvm.runtime.load_module(str(path))
        except (OSError, RuntimeError) as error:
            raise Unavailable(f"{path} cannot be loaded on this machine: {error}") from error
        self._main = relax.VirtualMachine(library, self._device)["main"]
        self._weights = [moved(shared(tensor), self._device) for tensor in self._mapped(folder / WEIGHTS)]

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs by name: copies on the host, which do not hold the arena. Raises UsageError for wrong inputs."""
        outputs = [torch.utils.dlpack.from_dlpack(moved(found)) for found in self.call(inputs)]
        return {name: value.clone() for name, value in zip(self._names(), outputs, strict=True)}

    def _names(self) -> list[str]:
        return [spec.name for spec in self.manifest.outputs]

    def call(self, inputs: Mapping[str, Tensor]) -> Any:
        """The outputs as TVM's tensors in the arena, which they hold; a device may still be at work on them."""
        self._check(inputs)
        values = [moved(shared(inputs[spec.name]), self._device) for spec in self.manifest.inputs]
        return self._main(*values, *self._weights)

    def _check(self, inputs: Mapping[str, Tensor]) -> None:
        wanted = {spec.name: spec for spec in self.manifest.inputs}
        for name in wanted.keys() - inputs.keys():
            raise UsageError(f"input {name!r} is missing: {_described(wanted[name])} is wanted")
        for name in inputs.keys() - wanted.keys():
            raise UsageError(f"there is no input {name!r}; the inputs are {', '.join(wanted)}")
        for name, spec in wanted.items():
            given = inputs[name]
            if tuple(given.shape) != spec.shape or given.dtype != dtype_of(spec):
                found = TensorSpec(name=name, shape=tuple(given.shape), dtype=str(given.dtype).removeprefix("torch."))
                raise UsageError(f"input {name!r} must be {_described(spec)}, not {_described(found)}")

    def _mapped(self, path: Path) -> list[Tensor]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
                return [file.get_tensor(name) for name in self.manifest.weights]
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} cannot be read: {error}; write the artifact again") from error


def _device(folder: Path, manifest: Manifest) -> Any:
    """The device that an artifact runs on; Unavailable where this machine has none."""
    import tvm

    device = manifest.device
    if device.kind == "ios":
        raise Unavailable(f"{folder} was compiled for iOS: link {manifest.library} into an app, as INTEGRATION.md says")
    if device.triple is not None and not device.triple.startswith(platform.machine()):
        raise Unavailable(f"{folder} was compiled for {device.triple}: run it on such a machine")
    if device.kind == "cpu":
        return tvm.cpu()
    if not tvm.cuda().exist:
        raise Unavailable(f"{folder} was compiled for CUDA devices ({', '.join(device.arch)}): this machine has none")
    found = str(tvm.cuda().compute_version)
    if not any(_runs(arch, found) for arch in device.arch):
        raise Unavailable(
            f"{folder} was compiled for {', '.join(device.arch)}, and the device here has compute capability {found}: "
            "compile it again with --arch"
        )
    return tvm.cuda()


def _runs(arch: str, capability: str) -> bool:
    """Code for one device runs on later ones of the same generation."""
    number = int(arch.removeprefix("sm_"))
    major, minor = (int(part) for part in capability.split("."))
    return number // 10 == major and number % 10 <= minor


def _described(spec: TensorSpec) -> str:
    return f"{spec.dtype} of shape {list(spec.shape)}"


def shared(tensor: Tensor) -> Any:
    """A tensor as TVM sees it, in the same memory; our kernels ask for no alignment beyond an element's."""
    import tvm_ffi

    return tvm_ffi.from_dlpack(tensor.detach().contiguous(), require_alignment=0, require_contiguous=True)


def moved(tensor: Any, device: Any = None) -> Any:
    """A tensor of TVM's in the memory of ``device``, by default the host's; the same one if it lies there."""
    import tvm

    device = tvm.cpu() if device is None else device
    if tensor.device == device:
        return tensor
    made = tvm.runtime.empty(tensor.shape, tensor.dtype, device)
    tensor.copyto(made)
    return made
