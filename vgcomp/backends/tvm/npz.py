"""Inputs and outputs of an artifact as ``.npz`` files. numpy has no bfloat16: such tensors are float32 there."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vgcomp.backends.tvm.artifact import Manifest, dtype_of
from vgcomp.errors import UsageError
from vgcomp.files import staged_file


def read_inputs(path: Path, manifest: Manifest) -> dict[str, Tensor]:
    """The arrays of a file. Raises UsageError for one that is no ``.npz`` file."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist: --input takes an .npz file, as numpy.savez writes it")
    wide = {spec.name for spec in manifest.inputs if dtype_of(spec) is torch.bfloat16}
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise UsageError(f"{path} holds one array without a name: write it with numpy.savez(file, name=array)")
            arrays = {name: torch.from_numpy(np.asarray(file[name], order="C")) for name in file.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is not an .npz file that can be read: {error}") from error
    return {name: _narrowed(value) if name in wide else value for name, value in arrays.items()}


def write_outputs(path: Path, outputs: Mapping[str, Tensor]) -> None:
    """Writes tensors by name, whole or not at all."""
    arrays = {
        name: (value.float() if value.dtype is torch.bfloat16 else value).numpy() for name, value in outputs.items()
    }
    with staged_file(path) as staged, staged.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _narrowed(value: Tensor) -> Tensor:
    return value.to(torch.bfloat16) if value.dtype is torch.float32 else value
