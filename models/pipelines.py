"""Whole pipelines: which networks a generation runs, how often each, and what lies beside them meanwhile.

    PIPELINES["svd"].stages(PIPELINES["svd"].settings({"frames": 25}))

Written from diffusers' pipelines, with one prompt or image at a time. Every stage names a network of the zoo, so that
a pipeline can be planned without weights. A pipeline may share its name with the denoiser that it is known for.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from vgcomp.errors import UsageError

HALF, FLOAT = 2, 4


@dataclass(frozen=True)
class Generation:
    """What can be chosen of a pipeline: frames, height and width of the video, and the sampler's steps."""

    frames: int
    height: int
    width: int
    steps: int

    @property
    def pixels(self) -> int:
        """Of all frames."""
        return self.frames * self.height * self.width


@dataclass(frozen=True)
class Part:
    """One network's turn. ``runs``: calls of it in a generation, in words in ``schedule``.

    ``held``: bytes of each tensor that the pipeline keeps on the device beside the network's own inputs meanwhile.
    ``after``: bytes of what the pipeline does with the result, the result in it, when the network is done.
    """

    name: str
    network: str
    settings: Mapping[str, Any]
    runs: int = 1
    schedule: str = "once"
    held: tuple[int, ...] = ()
    after: int = 0


@dataclass(frozen=True)
class Pipeline:
    """A pipeline of the zoo. ``sampler``: its sampler and guidance, in words."""

    name: str
    summary: str
    defaults: Generation
    sampler: str
    stages: Callable[[Generation], tuple[Part, ...]]

    def settings(self, given: Mapping[str, Any]) -> Generation:
        """The defaults with ``given`` in their place; values may be text. Raises UsageError for a bad one."""
        known = [field.name for field in fields(Generation)]
        for name in given:
            if name not in known:
                raise UsageError(f"{self.name} has no setting {name!r}; it has {', '.join(known)}")
        return replace(self.defaults, **{name: _count(self.name, name, value) for name, value in given.items()})


def find_pipeline(name: str) -> Pipeline:
    """The pipeline of that name. Raises UsageError, with the nearest name, for an unknown one."""
    found = PIPELINES.get(name)
    if found is not None:
        return found
    near = difflib.get_close_matches(name, PIPELINES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(PIPELINES)}"
    raise UsageError(f"no pipeline is called {name!r}; {hint}")


def _count(pipeline: str, name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1 or number != float(value):
        raise UsageError(f"{pipeline}: {name} is a whole number above 0, not {value!r}")
    return number


# -- what the pipelines hold -------------------------------------------------------------------------


def _shown(g: Generation) -> int:
    """Frames on their way out: in fp32, scaled and clamped, at most three of them at once."""
    return 3 * 3 * g.pixels * FLOAT


def _stepped(latents: int) -> int:
    """A sampler's step, in fp32, after guidance: the answers, the sample and two intermediate results."""
    return 6 * latents * FLOAT


def _latents(channels: int, frames: int, g: Generation, space: int = 8) -> int:
    return channels * frames * (g.height // space) * (g.width // space)


def _size(g: Generation, **more: Any) -> dict[str, Any]:
    return {"frames": g.frames, "height": g.height, "width": g.width, **more}


def _steps(g: Generation) -> str:
    return f"{g.steps} steps"


# -- the pipelines -----------------------------------------------------------------------------------


def _svd(suffix: str = "", side: int = 224) -> Callable[[Generation], tuple[Part, ...]]:
    """Image encoder, VAE encoder in fp32, UNet with guidance as a batch of two, all frames decoded at once."""

    def stages(g: Generation) -> tuple[Part, ...]:
        n = _latents(4, g.frames, g)
        held = (HALF * n, 2 * HALF * n)  # the latents; the image's, with and without the condition
        image = FLOAT * 3 * g.height * g.width
        return (
            Part("image encoder", f"clip-vit-h-vision{suffix}", {"height": side, "width": side}),
            Part("vae encoder", f"svd-vae-encoder{suffix}", {**_size(g), "frames": 1}, held=(image, image)),
            Part("unet", f"svd-unet{suffix}", _size(g, batch=2), g.steps, _steps(g), held, _stepped(n)),
            Part("vae decoder", f"svd-vae-decoder{suffix}", _size(g), held=held, after=_shown(g)),
        )

    return stages


def _animatediff(suffix: str = "") -> Callable[[Generation], tuple[Part, ...]]:
    """Text encoder for both prompts, UNet with guidance as a batch of two, frames decoded as one batch."""

    def stages(g: Generation) -> tuple[Part, ...]:
        n = _latents(4, g.frames, g)
        held = (HALF * n,)
        return (
            Part("text encoder", f"clip-vit-l-text{suffix}", {}, 2, "2 prompts"),
            Part("unet", f"animatediff-unet{suffix}", _size(g, batch=2), g.steps, _steps(g), held, _stepped(n)),
            Part("vae decoder", f"sd-vae-decoder{suffix}", _size(g), held=held, after=_shown(g)),
        )

    return stages


def _cogvideox(suffix: str = "") -> Callable[[Generation], tuple[Part, ...]]:
    """T5 for both prompts, transformer with guidance as a batch of two, the whole clip decoded at once."""

    def stages(g: Generation) -> tuple[Part, ...]:
        n = _latents(16, (g.frames - 1) // 4 + 1, g)
        held = (HALF * n,)
        return (
            Part("text encoder", f"t5-xxl-encoder{suffix}", {}, 2, "2 prompts"),
            Part("transformer", f"cogvideox-2b{suffix}", _size(g, batch=2), g.steps, _steps(g), held, _stepped(n)),
            Part("vae decoder", f"cogvideox-vae-decoder{suffix}", _size(g), held=held, after=_shown(g)),
        )

    return stages


def _wan(suffix: str = "") -> Callable[[Generation], tuple[Part, ...]]:
    """UMT5 for both prompts, transformer with guidance as two calls a step, the whole clip decoded at once."""

    def stages(g: Generation) -> tuple[Part, ...]:
        n = _latents(16, (g.frames - 1) // 4 + 1, g)
        calls = f"{_steps(g)} × 2"
        # The sampler keeps the latents in fp32; the first call's answer waits for the second's.
        held = (FLOAT * n, HALF * n)
        return (
            Part("text encoder", f"umt5-xxl-encoder{suffix}", {}, 2, "2 prompts"),
            Part("transformer", f"wan-1.3b{suffix}", _size(g), 2 * g.steps, calls, held, _stepped(n)),
            Part("vae decoder", f"wan-vae-decoder{suffix}", _size(g), held=(FLOAT * n,), after=_shown(g)),
        )

    return stages


#: Frames and latents that SnapGen-V's VAE decodes at a time.
_CLIP, _CLIP_LATENTS = 17, 5


def _snapgen(g: Generation) -> tuple[Part, ...]:
    """Text encoder, denoiser without guidance, then 17 frames at a time through both decoders."""
    clips, rest = divmod(g.frames, _CLIP)
    if rest:
        raise UsageError(f"snapgen-v: frames must be {_CLIP}·n, such as {max(clips, 1) * _CLIP}")
    n = _latents(4, clips * _CLIP_LATENTS, g)
    clip, each = {**_size(g), "frames": _CLIP}, f"{clips} clips"
    done = HALF * 3 * g.pixels
    return (
        Part("text encoder", "clip-vit-l-text", {}),
        Part(
            "denoiser", "snapgen-v", {**_size(g), "frames": clips * _CLIP_LATENTS}, g.steps, _steps(g), (), _stepped(n)
        ),
        Part("temporal decoder", "snapgen-v-temporal-decoder", clip, clips, each, (HALF * n, done)),
        Part("spatial decoder", "snapgen-v-spatial-decoder", clip, clips, each, (HALF * n, done), _shown(g)),
    )


_GUIDED = "classifier-free guidance as a batch of two"
_SMALL = {"frames": 4, "height": 128, "width": 192}

PIPELINES: dict[str, Pipeline] = {
    pipeline.name: pipeline
    for pipeline in (
        Pipeline(
            "svd",
            "Stable Video Diffusion: an image to 14 frames",
            Generation(14, 576, 1024, 25),
            f"Euler, {_GUIDED}",
            _svd(),
        ),
        Pipeline(
            "svd-xt",
            "Stable Video Diffusion XT: an image to 25 frames",
            Generation(25, 576, 1024, 25),
            f"Euler, {_GUIDED}",
            _svd(),
        ),
        Pipeline(
            "animatediff",
            "AnimateDiff on Stable Diffusion 1.5: a prompt to 16 frames",
            Generation(16, 576, 1024, 25),
            f"DDIM, {_GUIDED}",
            _animatediff(),
        ),
        Pipeline(
            "cogvideox-2b",
            "CogVideoX-2B: a prompt to 49 frames",
            Generation(49, 480, 720, 50),
            f"DDIM, {_GUIDED}",
            _cogvideox(),
        ),
        Pipeline(
            "wan-1.3b",
            "Wan 2.1 with 1.3 billion parameters: a prompt to 81 frames",
            Generation(81, 480, 832, 50),
            "UniPC, classifier-free guidance as two calls",
            _wan(),
        ),
        Pipeline(
            "snapgen-v",
            "A pipeline like SnapGen-V's: a prompt to 51 frames",
            Generation(51, 512, 512, 4),
            "distilled, no guidance",
            _snapgen,
        ),
        Pipeline(
            "svd-small",
            "svd at a tenth of the width",
            Generation(**_SMALL, steps=3),
            f"Euler, {_GUIDED}",
            _svd("-small", 56),
        ),
        Pipeline(
            "animatediff-small",
            "animatediff at a tenth of the width",
            Generation(**_SMALL, steps=3),
            f"DDIM, {_GUIDED}",
            _animatediff("-small"),
        ),
    )
}
