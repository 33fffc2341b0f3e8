"""What a zoo entry is: a network of diffusers, its settings, and how its inputs look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from vgcomp.elastic import Marks
from vgcomp.errors import UsageError
from vgcomp.program import Program

_DTYPES = {
    "fp16": torch.float16,
    "float16": torch.float16,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp32": torch.float32,
    "float32": torch.float32,
}
_CHOICES = {"weights": ("absent", "random", "trained"), "form": ("whole", "chunked")}


@dataclass(frozen=True)
class Settings:
    """What can be chosen about a network.

    frames, height, width: of the video, in frames and pixels. batch: videos at a time (2: with
    classifier-free guidance). layers: blocks a level, or blocks in all for a transformer; 0 is the
    network's own number. form: ``chunked`` is diffusers' own loop over frames where it has one. temporal:
    the kinds of temporal layers, one a position with ``+`` between, where a network leaves them open; empty is its
    own choice. seed: of random weights.
    """

    frames: int
    height: int
    width: int
    batch: int = 1
    dtype: torch.dtype = torch.float16
    layers: int = 0
    weights: str = "absent"
    form: str = "whole"
    temporal: str = ""
    seed: int = 0

    def updated(self, network: str, given: Mapping[str, Any]) -> Settings:
        """These settings with some replaced; values may be text. Raises UsageError for a bad one."""
        known = {field.name for field in fields(self)}
        unknown = sorted(set(given) - known)
        if unknown:
            raise UsageError(f"{network} has no setting {unknown[0]!r}; it has {', '.join(sorted(known))}")
        return replace(self, **{name: _parsed(network, name, value) for name, value in given.items()})

    def fields(self) -> tuple[tuple[str, str], ...]:
        """Names and values as text, for a Program's source."""
        return tuple((field.name, _text(getattr(self, field.name))) for field in fields(self))


def small(frames: int, height: int, width: int, batch: int = 1) -> Settings:
    """Settings of a ``-small`` network, which runs in seconds: fp32, with seeded random weights."""
    return Settings(frames, height, width, batch, torch.float32, weights="random")


def latent_grid(s: Settings, time: int, space: int) -> tuple[int, int, int]:
    """(t, h, w) of a causal VAE's latents: the first frame by itself, then one every ``time`` frames."""
    return (s.frames - 1) // time + 1, s.height // space, s.width // space


@dataclass(frozen=True)
class InputSpec:
    """One input: its name and shape. ``dtype`` None is the network's; ``fill`` None is random numbers."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None = None
    fill: float | None = None


@dataclass(frozen=True)
class Network:
    """A zoo entry. ``make`` gives the bare module; its first output is the Program's one output."""

    name: str
    summary: str
    defaults: Settings
    make: Callable[[Settings], nn.Module]
    inputs: Callable[[Settings], tuple[InputSpec, ...]]
    #: Latent frames of a clip and the multiple that height and width must be of.
    multiple: int = 8
    frame_step: int = 1
    output: str = "sample"
    #: Puts trained weights into a module of ``make``, by the entry's name; None where there are none.
    trained: Callable[[str, nn.Module], None] | None = None
    #: Values of the inputs that say what to make, by name, for a seed; None: random numbers do.
    conditions: Callable[[int], dict[str, Tensor]] | None = None
    #: Of a supernet: what its choices decide about the graph that was captured of it.
    marks: Callable[[nn.Module, Program], Marks] | None = None
    #: The sampler that a denoiser was trained for, as ``vgcomp rehash --sampler`` knows it.
    sampler: str = "flow-euler"

    def settings(self, given: Mapping[str, Any]) -> Settings:
        """The defaults with ``given`` in their place. Raises UsageError for sizes the network cannot have."""
        chosen = self.defaults.updated(self.name, given)
        for side in ("height", "width"):
            if getattr(chosen, side) % self.multiple:
                raise UsageError(f"{self.name}: {side} must be a multiple of {self.multiple}")
        if chosen.weights == "trained" and self.trained is None:
            raise UsageError(f"{self.name} has no trained weights: weights is absent or random")
        if (chosen.frames - 1) % self.frame_step:
            raise UsageError(
                f"{self.name}: frames must be {self.frame_step}·n + 1, such as {self._near(chosen.frames)}"
            )
        return chosen

    def _near(self, frames: int) -> int:
        return (frames - 1) // self.frame_step * self.frame_step + 1

    def example_inputs(self, settings: Settings) -> tuple[Tensor, ...]:
        """Inputs of the right shapes: seeded random numbers where there are weights, else uninitialised."""
        generator = torch.Generator().manual_seed(settings.seed)
        real = settings.weights != "absent"
        return tuple(_example(spec, settings.dtype, generator, real) for spec in self.inputs(settings))


def _example(spec: InputSpec, dtype: torch.dtype, generator: torch.Generator, real: bool) -> Tensor:
    chosen = spec.dtype or dtype
    if spec.fill is not None:
        return torch.full(spec.shape, spec.fill, dtype=chosen)
    if not real:
        return torch.empty(spec.shape, dtype=chosen)
    return torch.randn(spec.shape, generator=generator).to(chosen)


def _parsed(network: str, name: str, value: Any) -> Any:
    if name == "dtype":
        return _dtype(network, value)
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise UsageError(f"{network}: {name} is {' or '.join(_CHOICES[name])}, not {value!r}")
        return value
    if name == "temporal":
        return str(value)
    return _count(network, name, value)


def _dtype(network: str, value: Any) -> torch.dtype:
    if isinstance(value, torch.dtype):
        return value
    found = _DTYPES.get(str(value).removeprefix("torch."))
    if found is None:
        raise UsageError(f"{network}: dtype is one of {', '.join(sorted(_DTYPES))}, not {value!r}")
    return found


def _count(network: str, name: str, value: Any) -> int:
    least = 0 if name in ("layers", "seed") else 1
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise UsageError(f"{network}: {name} is a whole number, not {value!r}") from None
    if number < least or number != float(value):
        raise UsageError(f"{network}: {name} is a whole number of at least {least}, not {value!r}")
    return number


def _text(value: Any) -> str:
    return str(value).removeprefix("torch.")
