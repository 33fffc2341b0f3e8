"""A rehashed denoiser as a folder: ``full/`` and ``reuse/``, two programs, and ``schedule.json``, when each runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vgcomp.errors import ModelError
from vgcomp.rehash.choose import Rehash
from vgcomp.rehash.schedule import Schedule

SCHEMA: Literal["vgcomp.schedule/1"] = "vgcomp.schedule/1"


class Table(BaseModel):
    """The schedule table: which program runs at each step, what it is told, and what passes between the two.

    ``steps``: ``full`` or ``reuse`` each. ``cache``: outputs of the full program after its first, inputs of the reuse
    program after the original's, of the same names. ``reads``: inputs that the reuse program's answer depends on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["vgcomp.schedule/1"] = Field(default=SCHEMA, alias="schema")
    model: str
    cut: str
    steps: tuple[Literal["full", "reuse"], ...]
    timesteps: tuple[float, ...]
    sampler: str
    settings: dict[str, float | str]
    latent: str
    timestep: str
    cache: tuple[str, ...]
    cache_bytes: int
    reads: tuple[str, ...]
    predicted: dict[str, float]

    @property
    def schedule(self) -> Schedule:
        """As the runner takes it."""
        return tuple(step == "full" for step in self.steps)


def table_of(found: Rehash) -> Table:
    """The schedule table of what was chosen."""
    from vgcomp.step_cuts.reach import read_inputs

    sampler, chosen = found.denoising.sampler, found.chosen
    return Table(
        model=found.full.name,
        cut=str(chosen.option.candidate.cut),
        steps=tuple("full" if is_full else "reuse" for is_full in chosen.schedule),
        timesteps=tuple(sampler.timestep(i) for i in range(sampler.steps)),
        sampler=type(sampler).__name__,
        settings=dict(asdict(sampler)),  # type: ignore[call-overload]
        latent=found.denoising.latent,
        timestep=found.denoising.timestep,
        cache=found.cache,
        cache_bytes=chosen.option.candidate.nbytes,
        reads=tuple(sorted(read_inputs(found.reuse))),
        predicted={"psnr_db": chosen.psnr, "latency_s": chosen.latency_s, "times_fewer_flops": chosen.flops_ratio},
    )


def save(found: Rehash, directory: Path) -> list[Path]:
    """Writes both programs and the table; what was written."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / "full", directory / "reuse", directory / "schedule.json"]
    found.full.save(paths[0])
    found.reuse.save(paths[1])
    paths[2].write_text(table_of(found).model_dump_json(by_alias=True, indent=2) + "\n", encoding="utf-8")
    return paths


def load_table(directory: Path) -> Table:
    """Reads a folder's ``schedule.json``. Raises ModelError for anything else."""
    path = directory / "schedule.json"
    try:
        return Table.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise ModelError(f"{path} is no schedule table: {str(error).splitlines()[0]}") from error
