"""The loop around any training: iterations, checkpoints, and taking up where an earlier run stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from vgcomp.errors import UsageError
from vgcomp.training import checkpoint
from vgcomp.training.checkpoint import Checkpoint
from vgcomp.training.processes import Processes


class Training(Protocol):
    """What is trained. An iteration depends on its number and the state alone, never on what was drawn before."""

    @property
    def about(self) -> Mapping[str, Any]:
        """What was asked for, as JSON: a checkpoint of another kind or recipe is refused."""
        ...

    @property
    def among(self) -> Processes:
        """The processes that train together."""
        ...

    def iterate(self, i: int) -> dict[str, float]:
        """One iteration; returns what to note."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All that iterations change: names are a part, a dot, and the rest."""
        ...

    def load(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Puts back what ``tensors`` gave, by part."""
        ...


@dataclass
class Notes:
    """What a training took and said. ``means``: of each stretch of iterations, by name, with its last ``step``."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    means: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Saving:
    """Where checkpoints go, and after how many iterations each; ``run`` None keeps none. A mean is noted with each."""

    run: Path | None = None
    every: int = 100


def train(training: Training, steps: int, saving: Saving, say: Callable[[str], None] = lambda _: None) -> Notes:
    """Runs iterations up to ``steps`` in all, from the newest checkpoint where there is one.

    Raises UsageError where that is of another kind or recipe.
    """
    done, notes = _resumed(training, saving)
    stretch: list[dict[str, float]] = []
    begin = (time.perf_counter(), time.process_time())
    for i in range(done, steps):
        stretch.append(training.iterate(i))
        if (i + 1) % saving.every and i + 1 < steps:
            continue
        now = (time.perf_counter(), time.process_time())
        notes.wall_s, notes.cpu_s = notes.wall_s + now[0] - begin[0], notes.cpu_s + now[1] - begin[1]
        notes.means.append({"step": i + 1, **_means(stretch)})
        say(f"{i + 1}/{steps}  {_line(notes.means[-1])}  {notes.cpu_s:.0f} CPU s")
        stretch, begin = [], now
        if saving.run is not None and training.among.share.rank == 0:
            about = {**training.about, "notes": vars(notes)}
            checkpoint.save(saving.run, Checkpoint(i + 1, training.tensors(), about))
    return notes


def _resumed(training: Training, saving: Saving) -> tuple[int, Notes]:
    if saving.run is None or checkpoint.latest(saving.run) is None:
        return 0, Notes()
    found = checkpoint.load(saving.run)
    # Through JSON, where a tuple is a list.
    asked = json.loads(json.dumps(dict(training.about)))
    for name, value in asked.items():
        if found.about.get(name) != value:
            raise UsageError(f"{saving.run} holds a training of another {name}: name another folder, or remove it")
    training.load(found.parts())
    return found.step, Notes(**found.about["notes"])


def _means(stretch: list[dict[str, float]]) -> dict[str, float]:
    names = {name for noted in stretch for name in noted}
    held = {name: [noted[name] for noted in stretch if name in noted] for name in sorted(names)}
    return {name: sum(values) / len(values) for name, values in held.items()}


def _line(means: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in means.items() if name != "step")
