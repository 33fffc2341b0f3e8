"""Checkpoints: a folder a step, tensors as safetensors and numbers as JSON, which appears whole or not at all.

    run/step-000200/state.safetensors     everything that training changes
    run/step-000200/state.json            the step, the recipe, what was measured

A folder appears by one rename; the one before it goes afterwards. What training draws depends on the step alone, so no
generator's state is kept.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vgcomp.errors import ModelError, UsageError
from vgcomp.files import staged_directory

_TENSORS, _NUMBERS = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """``step``: iterations done. ``about``: what JSON can hold."""

    step: int
    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any]

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Tensors by the first word of their names, which ends at a dot."""
        found: dict[str, dict[str, Tensor]] = {}
        for key, value in self.tensors.items():
            part, name = key.split(".", 1)
            found.setdefault(part, {})[name] = value
        return found


def save(run: Path, checkpoint: Checkpoint) -> Path:
    """Writes a checkpoint under the folder ``run`` and removes earlier ones. Returns the checkpoint's folder."""
    from safetensors.torch import save_file

    where = run / f"step-{checkpoint.step:06d}"
    earlier = [path for path in _folders(run) if path != where]
    with staged_directory(where) as folder:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()}, folder / _TENSORS
        )
        numbers = {"step": checkpoint.step, **checkpoint.about}
        (folder / _NUMBERS).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    for path in earlier:
        shutil.rmtree(path)
    return where


def latest(run: Path) -> Path | None:
    """The newest checkpoint's folder under ``run``; None where there is none yet."""
    return max(_folders(run), default=None)


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint: its folder, or the run's, whose newest is taken.

    Raises UsageError where there is none, ModelError for one that is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    where = path if (path / _NUMBERS).is_file() else latest(path)
    if where is None:
        raise UsageError(f"{path} holds no checkpoint: name the folder of a training run")
    try:
        numbers = json.loads((where / _NUMBERS).read_text(encoding="utf-8"))
        tensors = load_file(where / _TENSORS)
        return Checkpoint(int(numbers.pop("step")), tensors, numbers)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ModelError(f"{where} cannot be read as a checkpoint: {error}") from error


def _folders(run: Path) -> list[Path]:
    return sorted(path for path in run.glob("step-*") if path.is_dir()) if run.is_dir() else []
